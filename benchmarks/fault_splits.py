"""Faults of the split: images on both sides, repeated rows, sides that are too small or come from other data."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from fault_site import HELD_OUT, TRAINED, Case, Row, Site, swap
from qwen3_vlm.data.splits import Split


def copies_drawn(site: Site) -> None:
    """Repeat every third row with another id and file name before the split is drawn."""
    copies_of(site, site.rows[::3])


def copies_of(site: Site, chosen: list[Row]) -> None:
    """Repeat the chosen rows with other ids and file names before the split is drawn."""
    rows, root = site.rows, site.own_images()
    copies = [_copy(root, row, i) for i, row in enumerate(chosen)]
    site.write_rows([*rows, *copies])
    site.set(data__eval_ratio=2 * HELD_OUT / (len(rows) + len(copies)))


def _leak_by_copies(site: Site) -> None:
    """Replace every third row of the held-out file by a training row with another id and file name."""
    trained, held_out, root = site.rows[:TRAINED], site.rows[TRAINED:], site.own_images()
    for i in range(0, len(held_out), 3):
        held_out[i] = _copy(root, trained[i * 7], i)
    site.write_rows(trained, held_out)


def _copy(root: Path, row: Row, number: int) -> Row:
    name = f"copy/{number:06d}.png"
    (root / name).parent.mkdir(exist_ok=True)
    shutil.copy((root / row["image"]).resolve(), root / name)
    return {**row, "id": f"copy-{number}", "image": name}


def _leak_by_file(site: Site) -> None:
    """Make the held-out file from rows that are also trained on."""
    site.write_rows(site.rows[:TRAINED], site.rows[TRAINED - HELD_OUT : TRAINED])


def _leak_saved_again(site: Site) -> None:
    """Replace half of the held-out images by training images that are saved again, so that their bytes differ."""
    trained, held_out, root = site.rows[:TRAINED], site.rows[TRAINED:], site.own_images()
    (root / "again").mkdir()
    for i in range(0, len(held_out), 2):
        twin, name = trained[i * 7], f"again/{i:05d}.png"
        with Image.open(root / twin["image"]) as image:
            image.convert("RGB").save(root / name, compress_level=0)
        held_out[i] = {**twin, "id": f"again-{i}", "image": name}
    site.write_rows(trained, held_out)


def _another_seed_for_the_held_out(original: Any) -> Any:
    def draw(num_rows: int, max_samples: int | None, eval_ratio: float, seed: int) -> Split:
        split: Split = original(num_rows, max_samples, eval_ratio, seed)
        return replace(split, eval=original(num_rows, max_samples, eval_ratio, seed + 1).eval)

    return draw


def _held_out_from_elsewhere(site: Site) -> None:
    """Train on scenes and hold out digits."""

    def under(folder: str, rows: list[Row]) -> list[Row]:
        return [{**row, "image": f"{folder}/{row['image']}"} for row in rows]

    digits = json.loads(Path("data/digits/digits_eval.json").read_text(encoding="utf-8"))
    site.write_rows(under("scenes", site.rows[:TRAINED]), under("digits", digits[:HELD_OUT]))
    site.set(data__image_root=str(Path("data").resolve()), data__world="none")


def _few_held_out(site: Site) -> None:
    site.write_rows(site.rows[:TRAINED], site.rows[TRAINED : TRAINED + 8])
    site.set(train__epochs=1, train__lr=4e-4)


def _few_trained(site: Site) -> None:
    site.write_rows(site.rows[: 240 + HELD_OUT])
    site.set(data__eval_ratio=HELD_OUT / (240 + HELD_OUT), train__epochs=1)


SPLITS = (
    Case(
        "split-leak-copies",
        "split-leak",
        "every third row of data.eval_json is a training row under another id and file name",
        set_up=_leak_by_copies,
    ),
    Case("split-leak-file", "split-leak", "data.eval_json holds rows that are trained on", set_up=_leak_by_file),
    Case(
        "split-leak-resaved",
        "split-leak",
        "half of the held-out images are training images saved with other compression",
        set_up=_leak_saved_again,
    ),
    Case(
        "split-overlaps",
        "split-leak",
        "held-out rows drawn with another seed than training rows",
        change=swap("qwen3_vlm.data.splits.draw_split", _another_seed_for_the_held_out),
    ),
    Case(
        "file-joined-twice",
        "duplicate-ids",
        "the file appended to itself: every row twice",
        set_up=lambda site: site.write_rows(2 * site.rows[:650]),
        also=("split-leak",),
    ),
    Case(
        "held-out-from-elsewhere",
        "held-out-differs",
        "scenes are trained on, and the held-out file is of another data set: digits",
        set_up=_held_out_from_elsewhere,
    ),
    Case(
        "eight-held-out",
        "eval-too-small",
        "8 held-out samples and a short training",
        set_up=_few_held_out,
        also=("under-trained",),
    ),
    Case("stopped-early", "under-trained", "240 training samples, one pass", set_up=_few_trained),
)
