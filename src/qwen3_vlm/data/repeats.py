"""Finds training rows that show the picture of a held-out row, by comparing the image files before training.

Equal pictures in different files (saved again, resized) are found by the check before training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eyechart.data.same_files import on_both_sides, pictures_of, sizes_of
from eyechart.faults.rows_shares import SHOWN, is_placeholder
from eyechart.rows import Row
from qwen3_vlm.data.splits import Split


def without_repeats(split: Split, held_out: Sequence[Row], train: Sequence[Row], root: Path) -> Split:
    """Remove rows from training if they show a held-out row's picture, and record them in the split.

    The held-out side stays as drawn. Rows are not removed if

    - the same rows are on both sides: the draw is faulty, and the check before training reports it;
    - so many training rows show a picture that it is a placeholder (`is_placeholder`), which is not a leak;
    - no training row would be left: the check before training reports the leak.

    Args:
        split: the split as drawn, with both sides from one file.
        held_out: usable held-out rows.
        train: usable training rows, in the order of the file.
        root: folder that the rows' image paths are relative to.
    """
    if set(split.train) & set(split.eval):
        return split
    held, trained = {row.image for row in held_out}, {row.image for row in train}
    pictures = pictures_of(sizes_of(held | trained, root), root, on_both_sides(held, trained))
    first: dict[str, int] = {}
    for row in held_out:
        if row.image in pictures:
            first.setdefault(pictures[row.image], row.row)
    shown = [(row.row, pictures[row.image]) for row in train if row.image in pictures]
    counts = Counter(picture for _, picture in shown if picture in first)
    leave = {picture for picture, count in counts.items() if not is_placeholder(count, len(shown))}
    repeats = tuple((row, first[picture]) for row, picture in shown if picture in leave)
    if not repeats or len(repeats) == len(train):
        return split
    gone = {row for row, _ in repeats}
    return replace(split, train=tuple(row for row in split.train if row not in gone), repeats=repeats)


def repeats_lines(split: Split) -> list[str]:
    """Return a line with the number of removed rows and the first of them; an empty list if none were removed."""
    if not split.repeats:
        return []
    first = ", ".join(str(row) for row, _ in split.repeats[:SHOWN])
    return [
        f"data: {len(split.train):,} training rows and {len(split.eval):,} held out; {len(split.repeats):,} more rows "
        f"were drawn for training and removed, because they show a held-out picture (first {first})"
    ]
