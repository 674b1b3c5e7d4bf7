"""Writes a world to disk atomically, in LLaVA-Pretrain's layout.

A world is written to a hidden draft folder beside the final one and then renamed, so that an interrupted run leaves
nothing that looks like data. One process at a time makes a world; it first removes the drafts of killed processes.
`world.json` in the folder records what it was made from. A folder that was made from something else is rejected, so
that it is not mistaken for the requested world.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from eyechart.files import DRAFT, sweep
from eyechart.lock import locked
from eyechart.outside.json_text import read_json
from eyechart.signals import draft_folder, finished

STAMP = "world.json"
PER_FOLDER = 1000
"""Number of images per numbered sub-folder."""
_PATIENCE = 600.0
"""Seconds to wait for another process that is making the same world; making one takes seconds."""

Row = dict[str, object]


def image_name(index: int) -> str:
    """Return the path of image `index` under the image root, as in LLaVA-Pretrain: `00001/000001234.png`."""
    return f"{index // PER_FOLDER:05d}/{index:09d}.png"


def save_png(picture: Image.Image, root: Path, name: str) -> None:
    """Save `picture` as `root/name`, and create the sub-folder if necessary."""
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, format="PNG", compress_level=1)


def instruction(rng: random.Random, choices: Sequence[str]) -> str:
    """Return a human turn with `<image>` before or after the words. Both occur in LLaVA-Pretrain."""
    words = rng.choice(choices)
    return f"<image>\n{words}" if rng.random() < 0.5 else f"{words}\n<image>"


def row(identity: str, image: str, human: str, caption: str) -> Row:
    """Return one LLaVA-Pretrain row; `human` must contain `<image>` once."""
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": caption}]
    return {"id": identity, "image": image, "conversations": turns}


def save_rows(rows: list[Row], path: Path) -> None:
    """Write rows as one JSON list with one row per line, so that two versions can be compared with diff."""
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def is_made(folder: Path, stamp: Mapping[str, object]) -> bool:
    """Whether `folder` already contains exactly the world that `stamp` describes.

    Raises:
        ValueError: the folder has other content, which must be neither used nor overwritten.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise ValueError(f"expected a folder for the {stamp['world']} world, got the file {folder}: name a folder")
    stamp_file = folder / STAMP
    if not stamp_file.is_file():
        if any(folder.iterdir()):
            raise ValueError(
                f"{folder} is not empty and was not made by the {stamp['world']} world (no {STAMP}): "
                "name another folder, or empty this one"
            )
        return False
    try:
        found = read_json(stamp_file)
    except ValueError as broken:
        raise ValueError(
            f"{stamp_file} is not readable JSON ({broken}): delete {folder}, and it will be made again"
        ) from None
    if found != dict(stamp):
        raise ValueError(
            f"{folder} was made with {found}, expected {dict(stamp)}: delete it, and it will be made again, or use "
            "another folder"
        )
    return True


def write_whole(folder: Path, stamp: Mapping[str, object], fill: Callable[[Path], None]) -> None:
    """Let `fill` write to a draft folder, add `stamp`, and rename the folder to `folder`.

    If another process is doing this, wait for its result.

    Raises:
        ValueError: `folder` has other content (see `is_made`), or another process is not done after ten minutes.
    """
    if is_made(folder, stamp):
        return
    with locked(folder.parent / f".{folder.name}.lock", f"the world in {folder}", wait=_PATIENCE):
        if not is_made(folder, stamp):
            sweep(folder.parent, re.compile(re.escape(folder.name)))
            _make(folder, stamp, fill)


def _make(folder: Path, stamp: Mapping[str, object], fill: Callable[[Path], None]) -> None:
    draft = draft_folder(folder.parent, f".{folder.name}-", DRAFT)
    try:
        fill(draft)
        (draft / STAMP).write_text(json.dumps(dict(stamp)) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not is_made(folder, stamp):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        finished(draft)
