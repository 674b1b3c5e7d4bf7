"""Writes a world to disk atomically, in LLaVA-Pretrain's layout.

A world is written to a temporary folder beside the final one and then renamed, so that an interrupted run leaves
nothing that looks like data. `world.json` in the folder records what it was made from. A folder that was made from
something else is rejected, so that it is not mistaken for the requested world.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from eyechart.outside.json_text import read_json

STAMP = "world.json"
PER_FOLDER = 1000
"""Number of images per numbered sub-folder."""

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
        raise ValueError(f"{stamp_file} is not readable JSON ({broken}): delete {folder}, it is made again") from None
    if found != dict(stamp):
        raise ValueError(
            f"{folder} was made with {found}, expected {dict(stamp)}: delete it, so that it is made again, or use "
            "another folder"
        )
    return True


def write_whole(folder: Path, stamp: Mapping[str, object], fill: Callable[[Path], None]) -> None:
    """Let `fill` write to a temporary folder, add `stamp`, and rename the folder to `folder`.

    Two processes can do this at the same time: the second finds the result of the first and discards its own.

    Raises:
        ValueError: `folder` has other content (see `is_made`).
    """
    if is_made(folder, stamp):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
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
