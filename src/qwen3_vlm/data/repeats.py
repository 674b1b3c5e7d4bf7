"""Finds training rows that show the picture of a held-out row, by comparing the image files before training.

Sizes are compared first. Only files of equal size are opened, and only those that begin with the same bytes are read
completely. Equal pictures in different files (saved again, resized) are found by `qwen3_vlm.preflight.twins`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from eyechart.outside.regular import open_regular
from eyechart.progress import progress_bar
from eyechart.rows import Row
from eyechart.stored import image_bytes, image_size, in_order, place_of
from qwen3_vlm.data.splits import Split

ENOUGH = 20
"""Smallest number of rows of a data set for judging shares."""
_TOP_IMAGE = 0.05
_CAPTIONS = 5
_HEAD = 4096
"""Number of bytes of a file that are read first. Among half a million JPEGs, many have the same size as one of 11,000
held-out files, and reading all of them completely would be slow."""
_NAMED = 3
"""Number of removed rows that are named in the message; all of them are in split.json."""
_LONG = 20_000
"""Smallest number of files for which a progress bar is shown."""

_Mark: TypeAlias = tuple[int | bytes, ...]


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
    sizes = _sizes(held | trained, root)
    shown = _on_both_sides(held & sizes.keys(), trained & sizes.keys(), sizes, root)
    first: dict[_Mark | str, int] = {}
    for row in held_out:
        if row.image in shown:
            first.setdefault(shown[row.image], row.row)
    counts = Counter(shown[row.image] for row in train if row.image in shown)
    total = sum(row.image in sizes for row in train)
    leave = {picture for picture, count in counts.items() if not is_placeholder(count, total)}
    repeats = tuple((row.row, first[shown[row.image]]) for row in train if shown.get(row.image) in leave)
    if not repeats or len(repeats) == len(train):
        return split
    gone = {row for row, _ in repeats}
    return replace(split, train=tuple(row for row in split.train if row not in gone), repeats=repeats)


def repeats_lines(split: Split) -> list[str]:
    """Return a line with the number of removed rows and the first of them; an empty list if none were removed."""
    if not split.repeats:
        return []
    first = ", ".join(str(row) for row, _ in split.repeats[:_NAMED])
    return [
        f"data: {len(split.train):,} training rows and {len(split.eval):,} held out; {len(split.repeats):,} more rows "
        f"were drawn for training and removed, because they show a held-out picture (first {first})"
    ]


def is_placeholder(count: int, total: int) -> bool:
    """Whether a picture in `count` of `total` training rows is a placeholder: in more than 5% and more than 5 rows."""
    return total >= ENOUGH and count > max(_TOP_IMAGE * total, _CAPTIONS)


def _sizes(images: Collection[str], root: Path) -> dict[str, int]:
    """Return the size of each image file in bytes. Missing and empty files are left out; they are counted elsewhere."""
    sizes = {}
    with progress_bar(len(images), "sizes of image files", "file", hidden=len(images) < _LONG) as bar:
        for image in in_order(images):
            try:
                sizes[image] = image_size(root / image)
            except (OSError, ValueError):
                sizes[image] = 0
            bar.update(1)
    return {image: size for image, size in sizes.items() if size}


def _on_both_sides(
    held: Collection[str], trained: Collection[str], sizes: dict[str, int], root: Path
) -> dict[str, _Mark | str]:
    """Return an identity for every file whose picture both sides show. Equal identities mean equal bytes."""
    both = set(held) & set(trained)
    marks: dict[str, _Mark] = {image: (size,) for image, size in sizes.items()}
    # A path that is on both sides need not be read, unless the same picture also exists under another path.
    one, other = _shared(set(held), set(trained) - both, marks)
    for limit in (_HEAD, None):
        files = one | other
        with progress_bar(len(files), "image files of equal size", "file", hidden=len(files) < _LONG) as bar:
            for image in in_order(files):
                read = _digest(root / image, limit)
                marks[image] = (*marks[image], *read) if read else ()
                bar.update(1)
        one, other = _shared(one, other, marks)
    return {image: image for image in both} | {image: marks[image] for image in one | other}


def _shared(one: set[str], other: set[str], marks: dict[str, _Mark]) -> tuple[set[str], set[str]]:
    """Return the files of each side whose mark also occurs on the other side. Unreadable files have an empty mark."""
    common = ({marks[image] for image in one} & {marks[image] for image in other}) - {()}
    return {i for i in one if marks[i] in common}, {i for i in other if marks[i] in common}


def _digest(path: Path, limit: int | None) -> tuple[bytes, ...]:
    try:
        if limit is not None or place_of(path) is not None:
            return (hashlib.sha256(image_bytes(path, limit)).digest(),)
        with open_regular(path) as file:
            return (hashlib.file_digest(file, "sha256").digest(),)
    except OSError:
        return ()
