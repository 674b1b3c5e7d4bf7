"""The data we can make ourselves, in LLaVA-Pretrain's layout and without a download: scenes and digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qwen3_vlm.demo.worlds import digits, scenes

WORLDS: dict[str, Callable[[Path], Path]] = {"scenes": scenes.ensure, "digits": digits.ensure}
"""Name in a config (`data.world`) -> what makes it in a folder when it is absent, and returns its training file."""


def ensure(name: str, folder: Path) -> Path:
    """Make the world `name` in `folder` when it is absent; return the path of its (training) JSON file.

    Raises:
        ValueError: no such world, the folder holds something else, or what the world needs is not installed.
    """
    if name not in WORLDS:
        raise ValueError(f"expected one of the worlds {', '.join(sorted(WORLDS))}, got {name!r} in data.world")
    return WORLDS[name](folder)
