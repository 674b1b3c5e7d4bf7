"""Data sets that this package makes itself without a download, in LLaVA-Pretrain's layout: scenes and digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eyechart.exits import InputError
from qwen3_vlm.demo.worlds import digits, scenes
from qwen3_vlm.demo.worlds._files import STAMP

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


def ensure_in_place(name: str, folder: Path) -> Path:
    """Do the same as `ensure`, but make a world only in its own place, `data/<name>` below the working directory.

    Scoring calls this. A checkpoint names its folder, and opening a file must not write a data set to any path that the
    file names.

    Raises:
        ValueError: for the same reasons as in `ensure`, or the world would have to be made in another folder.
    """
    place = Path("data") / name
    if not (folder / STAMP).is_file() and folder.resolve() != place.resolve():
        raise InputError(
            f"data.image_root {folder}: the {name} world of this checkpoint is not there, and scoring makes it only in "
            f"{place}",
            f"set data.image_root and data.json_file to where it is, or to {place}",
        )
    return ensure(name, folder)
