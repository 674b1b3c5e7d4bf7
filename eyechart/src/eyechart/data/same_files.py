"""Finds image files with equal bytes without reading all files.

Sizes are compared first. Only files of equal size are opened, and only those that begin with the same bytes are read
completely. Equal pictures in different files (saved again, resized) are found by `faults.rows_twins`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from eyechart.outside.regular import open_regular
from eyechart.progress import progress_bar
from eyechart.stored import image_bytes, image_size, in_order, place_of

_HEAD = 4096
"""Number of bytes of a file that are read first. Among half a million JPEGs, many have the same size as one of 11,000
held-out files, and reading all of them completely would be slow."""
_LONG = 20_000
"""Smallest number of files for which a progress bar is shown."""

_Mark: TypeAlias = tuple[int | bytes, ...]


def sizes_of(images: Collection[str], root: Path) -> dict[str, int]:
    """Return the size of each image file in bytes. Missing and empty files are left out.

    Args:
        images: paths relative to `root`, or addresses of images inside files (`eyechart.stored`).
        root: folder of the images.
    """
    sizes = {}
    with progress_bar(len(images), "sizes of image files", "file", hidden=len(images) < _LONG) as bar:
        for image in in_order(images):
            try:
                sizes[image] = image_size(root / image)
            except (OSError, ValueError):
                sizes[image] = 0
            bar.update(1)
    return {image: size for image, size in sizes.items() if size}


def pictures_of(
    sizes: Mapping[str, int], root: Path, wanted: Callable[[Collection[str]], bool] = lambda files: True
) -> dict[str, str]:
    """Return an identity for each file: files with equal bytes have the path of the first of them.

    Args:
        sizes: the result of `sizes_of`.
        root: folder of the images.
        wanted: whether files that may be equal have to be compared. Others keep their own path as identity, as does a
            file that cannot be read.
    """
    marks: dict[str, _Mark] = {image: (size,) for image, size in sizes.items()}
    groups = _groups(marks, marks, wanted)
    for limit in (_HEAD, None):
        files = [image for group in groups for image in group]
        with progress_bar(len(files), "image files of equal size", "file", hidden=len(files) < _LONG) as bar:
            for image in in_order(files):
                read = _digest(root / image, limit)
                marks[image] = (*marks[image], *read) if read else ()
                bar.update(1)
        groups = _groups(files, marks, wanted)
    return {image: image for image in sizes} | {image: group[0] for group in groups for image in group}


def on_both_sides(one: Collection[str], other: Collection[str]) -> Callable[[Collection[str]], bool]:
    """Return a `wanted` for `pictures_of`: files of one side are only compared with files that only the other has."""
    return lambda files: any(file in one for file in files) and any(f in other and f not in one for f in files)


def _groups(
    images: Iterable[str], marks: Mapping[str, _Mark], wanted: Callable[[Collection[str]], bool]
) -> list[list[str]]:
    """Return the images with equal marks that have to be compared further. Unreadable files have an empty mark."""
    groups: dict[_Mark, list[str]] = defaultdict(list)
    for image in images:
        groups[marks[image]].append(image)
    return [group for mark, group in groups.items() if mark and len(group) > 1 and wanted(group)]


def _digest(path: Path, limit: int | None) -> tuple[bytes, ...]:
    try:
        if limit is not None or place_of(path) is not None:
            return (hashlib.sha256(image_bytes(path, limit)).digest(),)
        with open_regular(path) as file:
            return (hashlib.file_digest(file, "sha256").digest(),)
    except OSError:
        return ()
