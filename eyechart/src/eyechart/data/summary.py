"""The figures that `eyechart rows` prints: the recognised layout, and the numbers of usable and rejected rows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eyechart.data.choice import even_choice
from eyechart.data.dataset import examples_of
from eyechart.data.images import ImageError, image_facts
from eyechart.data.layouts import AUTO
from eyechart.data.reader import find_image_root, folder_of, open_rows, simple_rows
from eyechart.exits import InputError
from eyechart.progress import progress_bar
from eyechart.rows import Reject, RejectKind, Row
from eyechart.settings import ScoreSettings
from eyechart.stored import place_of

SHOWN = 3
"""Number of rows and of rejects that are shown."""
_LONG = 20_000
"""Smallest number of rows for which a progress bar is shown."""


@dataclass(frozen=True)
class ShownImage:
    """An image of a shown row."""

    image: str
    """Path or address, relative to the image root."""
    width: int | None
    height: int | None
    """Pixels; None if the image cannot be read."""
    format: str | None
    """Such as `PNG`."""
    problem: str
    """Why it cannot be read; empty if it can."""


@dataclass(frozen=True)
class ShownRow:
    """A row as a model will see it."""

    row: int
    id: str
    turns: tuple[tuple[str, str], ...]
    """Role and text of every turn, with `<image>` at the place of each image."""
    images: tuple[ShownImage, ...]


@dataclass(frozen=True)
class RowsReport:
    """The recognised layout of a data set, and the numbers of usable and rejected rows."""

    path: str
    kind: str
    """Kind of its files, such as `Parquet`."""
    files: int
    """Number of files, without image files."""
    layout: str
    keys: dict[str, str]
    """Key of every part that is read, by role."""
    unread: tuple[str, ...]
    """Keys that are not read."""
    image_root: str
    rows: int
    usable: int
    """Rows in the recognised layout whose image files exist."""
    rejected: dict[str, int]
    """Number of other rows by reason."""
    missing: int
    """Number of rows with an image file that does not exist; they are among the rejected ones."""
    first_missing: tuple[str, ...]
    """A few of these files, relative to the image root."""
    examples: tuple[Reject, ...]
    """A few of the rejected rows."""
    turns: dict[int, int]
    """Number of usable rows by number of turns."""
    images: dict[int, int]
    """Number of usable rows by number of images."""
    simple: int
    """Usable rows that `score` and Stage 1 read: one image, one question, one answer."""
    not_simple: dict[str, int]
    """Number of usable rows that `score` and Stage 1 do not read, by reason."""
    shown: tuple[ShownRow, ...]


def inspect_rows(
    path: str | Path, layout: str = AUTO, image_root: str | Path | None = None
) -> tuple[RowsReport, list[Row], list[Reject]]:
    """Read all rows of a data set and report what was understood. Only the images of the shown rows are opened.

    Args:
        path: a file, a folder, or a pattern such as `data/train-*.parquet`.
        layout: `auto`, the name of a layout, or pairs of role and key.
        image_root: folder that image paths are relative to; None uses the folder of the data.

    Returns:
        The report, the usable rows, and the others.

    Raises:
        ValueError: the data is missing or broken, its layout is not recognised, or the image root is not a folder.
    """
    root = folder_of(path) if image_root is None else Path(image_root)
    if image_root is not None and not root.is_dir():
        raise ValueError(f"--image_root: expected the folder that image paths are relative to, {root} is not a folder")
    opened = open_rows(path, layout, root)
    found, rejects = opened.read()
    usable, missing, absent = _with_files(found, root)
    rejects = sorted([*rejects, *missing], key=lambda reject: reject.row)
    simple, others = simple_rows(usable)
    understood = opened.understood
    report = RowsReport(
        path=str(path),
        kind=opened.records.kind,
        files=len(opened.records.files),
        layout=understood.layout.name,
        keys=dict(understood.keys) | ({"image": " or ".join(understood.images)} if understood.images else {}),
        unread=understood.unread,
        image_root=str(root),
        rows=len(opened),
        usable=len(usable),
        rejected=dict(Counter(reject.reason for reject in rejects).most_common()),
        missing=len(missing),
        first_missing=tuple(absent[:SHOWN]),
        examples=tuple(examples_of(rejects, SHOWN)),
        turns=dict(sorted(Counter(len(row.turns) for row in usable).items())),
        images=dict(sorted(Counter(len(row.images) for row in usable).items())),
        simple=len(simple),
        not_simple=dict(Counter(reject.reason for reject in others).most_common()),
        shown=tuple(_shown(usable[place], root) for place in even_choice(len(usable), SHOWN)),
    )
    return report, usable, rejects


def require_usable(report: RowsReport) -> None:
    """Reject a data set without a usable row.

    Raises:
        InputError: no row can be used.
    """
    if not report.usable:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.rejected.items())
        raise InputError(
            f"{report.path}: none of its {report.rows:,} rows can be used: {reasons}",
            _how_to_find(report) if report.missing else "see the reasons above",
        )


def _how_to_find(report: RowsReport) -> str:
    root = find_image_root(report.path, report.first_missing)
    return f"set --image_root to {root or 'the folder that the paths are relative to'}"


def _with_files(rows: Sequence[Row], root: Path) -> tuple[list[Row], list[Reject], list[str]]:
    """Return the rows whose image files exist, a Reject for each other row, and the images that do not exist."""
    kept: list[Row] = []
    missing: list[Reject] = []
    known: dict[str, bool] = {}
    with progress_bar(len(rows), "image files", "row", hidden=len(rows) < _LONG) as bar:
        for row in rows:
            for image in row.images:
                if image not in known:
                    known[image] = place_of(image) is not None or os.path.isfile(root / image)  # noqa: PTH113 - no error
            absent = [image for image in row.images if not known[image]]
            if absent:
                detail = f"{root / absent[0]}: no such file below the image root"
                missing.append(Reject(row.row, "image missing", detail, RejectKind.NO_FILE))
            else:
                kept.append(row)
            bar.update(1)
    return kept, missing, [image for image, exists in known.items() if not exists]


def _shown(row: Row, root: Path) -> ShownRow:
    turns = tuple((turn.role, turn.text) for turn in row.turns)
    return ShownRow(row.row, row.id, turns, tuple(_image(image, root) for image in row.images))


def _image(image: str, root: Path) -> ShownImage:
    try:
        width, height, kind = image_facts(root / image, ScoreSettings().max_pixels)
    except ImageError as error:
        return ShownImage(image, None, None, None, str(error))
    return ShownImage(image, width, height, kind, "")
