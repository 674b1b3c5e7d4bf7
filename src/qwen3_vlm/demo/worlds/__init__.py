"""Generates the embedded data sets (worlds) scenes and digits without a download, in the layout of LLaVA-Pretrain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eyechart.exits import InputError
from qwen3_vlm.demo.worlds import digits, scenes
from qwen3_vlm.demo.worlds._files import STAMP

WORLDS: dict[str, Callable[[Path], Path]] = {"scenes": scenes.ensure, "digits": digits.ensure}
"""A function for each value of the setting `data.world`. The function generates this data set in a folder, unless it is
already there, and returns the path of its training file."""


def ensure(name: str, folder: Path) -> Path:
    """Generate the world `name` in `folder`, unless it is already there, and return the path of its training file.

    Raises:
        ValueError: no world has this name, the folder has other content, or a required package is not installed.
    """
    if name not in WORLDS:
        raise ValueError(f"expected one of the worlds {', '.join(sorted(WORLDS))}, got {name!r} in data.world")
    return WORLDS[name](folder)


def ensure_in_place(name: str, folder: Path) -> Path:
    """Do the same as `ensure`, but generate a world only in its standard folder, `data/<name>`.

    The folder is relative to the working directory. Scoring a checkpoint calls this function. The path of the data
    comes from the checkpoint file, and opening a file must not write a data set to any path that the file names.

    Raises:
        ValueError: for the same reasons as in `ensure`; or the world is not in `folder`, and `folder` is not the
            standard folder.
    """
    place = Path("data") / name
    if not (folder / STAMP).is_file() and folder.resolve() != place.resolve():
        raise InputError(
            f"data.image_root {folder}: the {name} world of this checkpoint is not there, and scoring makes it only in "
            f"{place}",
            f"set data.image_root and data.json_file to where it is, or to {place}",
        )
    return ensure(name, folder)
