"""Data sets that this package makes itself without a download, in LLaVA-Pretrain's layout: scenes and digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qwen3_vlm.demo.worlds import digits, scenes

WORLDS: dict[str, Callable[[Path], Path]] = {"scenes": scenes.ensure, "digits": digits.ensure}
"""For each name in a config (`data.world`), the function that makes this world in a folder if it does not exist, and
returns the path of its training file."""


def ensure(name: str, folder: Path) -> Path:
    """Make the world `name` in `folder` if it does not exist, and return the path of its (training) JSON file.

    Raises:
        ValueError: there is no such world, the folder has other content, or a required package is not installed.
    """
    if name not in WORLDS:
        raise ValueError(f"expected one of the worlds {', '.join(sorted(WORLDS))}, got {name!r} in data.world")
    return WORLDS[name](folder)
