"""`eyechart rows`: what is understood of a data set, and what is wrong with its captions, ids and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eyechart.data.choice import even_choice
from eyechart.data.images import ImageError, load_thumbnail
from eyechart.data.layouts import AUTO
from eyechart.data.same_files import on_both_sides, pictures_of, sizes_of
from eyechart.data.summary import RowsReport, inspect_rows
from eyechart.faults.rows_captions import diagnose_captions, diagnose_held_out, diagnose_ids, diagnose_requests
from eyechart.faults.rows_pictures import Decoded, diagnose_decoded, diagnose_repeats, diagnose_shared
from eyechart.faults.rows_rejected import diagnose_rejects
from eyechart.faults.rows_shares import ENOUGH
from eyechart.faults.table import rank
from eyechart.results import Finding
from eyechart.rows import Reject, Row
from eyechart.settings import ScoreSettings

_COMPARED = 20_000
"""Number of evenly spaced rows of DATA whose texts and image files are compared with each other."""
_OPENED = 128
"""Number of evenly spaced rows whose image is opened."""
_SIDE = 64
"""Width and height in pixels to which opened images are shrunk."""
_ALLOWED = ScoreSettings().max_rejected
"""Share of faulty rows, above which they are an error."""


def check_rows(
    path: str | Path, layout: str = AUTO, image_root: str | Path | None = None, held_out: str | Path | None = None
) -> tuple[RowsReport, list[Finding]]:
    """Read all rows of a data set and check them; no model is needed.

    Args:
        path: a file, a folder, or a pattern such as `data/train-*.parquet`.
        layout: `auto`, the name of a layout, or pairs of role and key.
        image_root: folder that image paths are relative to; None uses the folder of the data.
        held_out: rows of the same kind that must not be trained on; None compares nothing.

    Returns:
        What was understood, and the findings, the most likely cause first.

    Raises:
        ValueError: the data is missing or broken, its layout is not recognised, or the image root is not a folder.
    """
    report, usable, rejects = inspect_rows(path, layout, image_root)
    rows = _some(usable, _COMPARED)
    found = [*diagnose_rejects(rejects, report.rows, _ALLOWED), *_texts(rows)]
    found += _pictures([row for row in rows if row.image], Path(report.image_root))
    if held_out is not None:
        other, others, _ = inspect_rows(held_out, layout, image_root)
        found += _compared(_placed(usable, report), _placed(others, other))
    return report, rank(found)


def _some(rows: Sequence[Row], limit: int) -> list[Row]:
    return [rows[place] for place in even_choice(len(rows), limit)]


def _texts(rows: Sequence[Row]) -> Iterator[Finding]:
    if len({row.human for row in rows}) <= ENOUGH:  # short answers to many questions are equal by nature
        yield from diagnose_captions([row.caption for row in rows])
    yield from diagnose_requests([row for row in rows if not row.conversation], _ALLOWED)
    yield from diagnose_ids(rows)


def _pictures(rows: Sequence[Row], root: Path) -> Iterator[Finding]:
    """Yield findings about the first images of rows."""
    yield from diagnose_repeats(rows, pictures_of(sizes_of({row.image for row in rows}, root), root))
    opened = [_decoded(row, root) for row in _some(rows, _OPENED)]
    broken = [one for one in opened if isinstance(one, Reject)]
    yield from diagnose_rejects(broken, len(opened), _ALLOWED, sampled=True)
    yield from diagnose_decoded([one for one in opened if isinstance(one, Decoded)], _ALLOWED)


def _decoded(row: Row, root: Path) -> Decoded | Reject:
    """Return the first image of a row at a fixed size, or why it cannot be read."""
    try:
        image = load_thumbnail(root / row.image, _SIDE, ScoreSettings().max_pixels)
    except ImageError as error:
        return Reject(row.row, error.reason, f"{root / row.image}: {error.detail}", error.kind)
    pixels_CHW = np.asarray(image.resize((_SIDE, _SIDE))).transpose(2, 0, 1).copy()
    return Decoded(row.row, row.image, hashlib.sha256(pixels_CHW.data).hexdigest(), pixels_CHW)


def _placed(rows: Sequence[Row], report: RowsReport) -> list[Row]:
    """Return the rows with an image, named by its whole path, because two sets can have different folders."""
    root = Path(report.image_root).resolve()
    return [replace(row, image=str(root / row.image)) for row in rows if row.image]


def _compared(train: Sequence[Row], held_out: Sequence[Row]) -> Iterator[Finding]:
    """Yield findings about held-out pictures that are trained on, and about held-out captions of another kind."""
    from eyechart.faults.rows_twins import Namesakes, diagnose_twins  # imported here because PyTorch takes seconds

    root = Path()
    trained, held = ({row.image for row in rows} for rows in (train, held_out))
    pictures = pictures_of(sizes_of(held | trained, root), root, on_both_sides(held, trained))
    leaked = [*diagnose_shared(train, held_out, pictures, _ALLOWED)]
    yield from leaked
    yield from diagnose_held_out([row.caption for row in train], [row.caption for row in held_out])
    if leaked:
        return
    by_row, namesakes = {row.row: row for row in train}, Namesakes(train)

    def decode(row: int) -> Decoded | None:
        found = _decoded(by_row[row], root)
        return found if isinstance(found, Decoded) else None

    def with_candidates(rows: Sequence[Row]) -> list[tuple[Decoded, list[int]]]:
        opened = [(_decoded(row, root), namesakes.of(row.caption, row.image)) for row in _some(rows, _OPENED)]
        return [(one, others) for one, others in opened if isinstance(one, Decoded)]

    yield from diagnose_twins(with_candidates(held_out), with_candidates(train), decode, _ALLOWED)
