"""Checks of the pictures of a data set: repeated, blank, or on both sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from eyechart.faults.rows_shares import ENOUGH, SHOWN, placeholders_among, severity_by_share
from eyechart.faults.table import agree, finding
from eyechart.processors.arrays import AnyArray
from eyechart.processors.pixel_images import one_colour
from eyechart.results import Finding
from eyechart.rows import Row

# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_DISTINCT_IMAGES = 0.1
"""Smallest normal ratio of distinct images to rows. Several captions per image are normal (COCO has five), but more
than ten are not."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_FEW_FILES = 3
"""So few image files may all show one picture."""
REMOVE_COPIES = (
    "remove the copies from training, or hold out whole images (all rows of an image on one side of the split)"
)


@dataclass(frozen=True)
class Decoded:
    """The picture of a row after it was decoded."""

    row: int
    image: str
    """Path, relative to the image root."""
    digest: str
    """Equal for pictures with equal pixels."""
    pixels_CHW: AnyArray | None = None
    """uint8 [3,H,W], all pictures at one size; None if they are not kept."""


def diagnose_repeats(rows: Sequence[Row], pictures: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding if one picture is used by too many rows, or if there are too few different pictures.

    Args:
        rows: rows of one side of a split.
        pictures: identity of the picture of each image file (`data.same_files.pictures_of`); rows without are left out.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.image in pictures:
            rows_of[pictures[row.image]].append(row.row)
    total = sum(map(len, rows_of.values()))
    if total < ENOUGH:
        return
    placeholders = placeholders_among(pictures[row.image] for row in rows if row.image in pictures)
    if not placeholders and len(rows_of) >= _DISTINCT_IMAGES * total:
        return
    most = max(rows_of.values(), key=len)
    yield finding(
        "images-degenerate",
        f"{total} rows show {len(rows_of)} different {agree(len(rows_of), 'image', 'images')}, and one "
        f"image is used by {len(most)} rows (such as rows {', '.join(map(str, most[:SHOWN]))})",
        "check how image paths were written: a placeholder image or a wrong join gives many captions the same "
        "image; nothing is wrong if these captions are meant for that image",
        "error" if len(most) > 0.5 * total else "warning",
        distinct=len(rows_of),
        of=total,
        most_repeated=len(most),
        first_rows=most[:SHOWN],
    )


def diagnose_decoded(decoded: Sequence[Decoded], allowed: float) -> Iterator[Finding]:
    """Yield findings about pictures that are blank, or the same although they come from different files.

    Args:
        decoded: evenly spaced rows.
        allowed: the share of rows that may have a blank image, 0 to 1.
    """
    with_pixels = [(one.row, one.pixels_CHW) for one in decoded if one.pixels_CHW is not None]
    blank = [row for row, pixels_CHW in with_pixels if one_colour(pixels_CHW)]
    if blank and severity_by_share(len(blank), len(with_pixels), allowed, sampled=True) == "error":
        yield finding(
            "images-degenerate",
            f"{len(blank)} of {len(with_pixels)} images {agree(len(blank), 'is', 'are')} one colour without any "
            f"detail, such as row {blank[0]}'s",
            f"open the image file of row {blank[0]}: if it is blank, fetch these images again or remove their "
            "rows; if it shows a picture, check how it is decoded",
            rows=len(blank),
            of=len(with_pixels),
            first_rows=blank[:SHOWN],
        )
    files, first = {one.image for one in decoded}, {one.digest: one for one in reversed(decoded)}
    if len(files) <= _FEW_FILES or len(first) > _DISTINCT_IMAGES * len(files):
        return
    one, other = next((first[two.digest], two) for two in decoded if first[two.digest].image != two.image)
    yield finding(
        "images-degenerate",
        f"{len(files)} different image files decode to only {len(first)} different "
        f"{agree(len(first), 'image', 'images')}, such as those of rows {one.row} and {other.row} to one",
        f"open the files of rows {one.row} and {other.row}: if they look the same, fetch them again or remove their "
        "rows; if they differ, check how images are decoded (a cache, a buffer used twice, a fixed path)",
        "error" if len(first) == 1 else "warning",
        pictures=len(first),
        files=len(files),
    )


def diagnose_shared(
    train: Sequence[Row], held_out: Sequence[Row], pictures: Mapping[str, str], allowed: float
) -> Iterator[Finding]:
    """Yield a finding about held-out rows whose picture is also trained on, under its path or as a copy.

    Args:
        train: training rows.
        held_out: held-out rows.
        pictures: as for `diagnose_repeats`, for both sides.
        allowed: largest share of held-out rows for which a leak is only a warning, 0 to 1.
    """
    shown = [pictures[row.image] for row in train if row.image in pictures]
    placeholders, contents = placeholders_among(shown), set(shown)
    paths = {PurePosixPath(row.image) for row in train}
    own = [row for row in held_out if pictures.get(row.image) not in placeholders]
    by_path = [row for row in own if PurePosixPath(row.image) in paths]
    by_content = [row for row in own if pictures.get(row.image) in contents]
    leaked = sorted({row.row for row in (*by_path, *by_content)})
    if not leaked:
        return
    first = next(row for row in held_out if row.row == leaked[0])
    twin = next(
        row
        for row in train
        if PurePosixPath(row.image) == PurePosixPath(first.image)
        or (first.image in pictures and pictures.get(row.image) == pictures[first.image])
    )
    captions, total = {row.caption for row in train}, len(held_out)
    yield finding(
        "split-leak",
        f"the images of {len(leaked)} of {total} held-out rows are also trained on ({len(by_path)} under the same "
        f"path, {len(by_content)} with the same bytes), such as held-out row {leaked[0]} and training row {twin.row}",
        REMOVE_COPIES,
        severity_by_share(len(leaked), total, allowed),
        rows=len(leaked),
        of=total,
        same_path=len(by_path),
        same_bytes=len(by_content),
        equal_captions_share=round(sum(row.caption in captions for row in held_out) / total, 4),
        first_rows=leaked[:SHOWN],
    )


def diagnose_equal_pixels(train: Sequence[str], held_out: Sequence[str], allowed: float) -> Iterator[Finding]:
    """Yield a finding about held-out pictures whose decoded pixels are those of a training picture, over all rows.

    Args:
        train: hashes of the decoded training images; "" for those that could not be read.
        held_out: hashes of the decoded held-out images, in the same form.
        allowed: largest share of rows for which a leak is only a warning.
    """
    trained = [digest for digest in train if digest]
    known = set(trained) - placeholders_among(trained)
    hashes = [digest for digest in held_out if digest]
    count = sum(digest in known for digest in hashes)
    if count:
        yield finding(
            "split-leak",
            f"the decoded images of {count} of {len(hashes)} held-out rows {agree(count, 'is', 'are')} also trained "
            "on, pixel by pixel",
            "remove these rows from one side, or hold out whole images: all rows of an image on one side",
            severity_by_share(count, len(hashes), allowed),
            rows=count,
            of=len(hashes),
        )
