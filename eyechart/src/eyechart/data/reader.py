"""Reads a data set of any layout: every row becomes a Row or a typed Reject, and none is dropped.

`folders.find` finds the files of a data set by their content and names, and `layouts.understand` recognises the layout
of its rows by their keys. There are two kinds of errors. Data that cannot be read raises ValueError. A row that cannot
be used is returned as a Reject with its reason, and the other rows keep their indices.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from eyechart.data.folders import Found, SideFileRecords, find
from eyechart.data.json_rows import JsonRecords
from eyechart.data.layouts import AUTO, FIRST_ROWS, LLAVA, Understood, understand
from eyechart.data.llava import NotSimpleError, llava_row
from eyechart.data.records import Record, Records, UnusableError, from_root
from eyechart.data.tables import TableRecords
from eyechart.data.tars import TarRecords
from eyechart.data.text_tables import CsvRecords
from eyechart.data.turns import row_of
from eyechart.exits import InputError
from eyechart.outside.regular import open_regular
from eyechart.outside.shown import short
from eyechart.plain import one_line
from eyechart.rows import Reject, RejectKind, Row
from eyechart.stored import file_of

_LOG = logging.getLogger(__name__)
_WHOLE = 2 * 2**30
"""Files up to this size in bytes are hashed completely, larger files only in part."""
_PART, _PARTS = 2**20, 64


@dataclass(frozen=True)
class RowFile:
    """An opened data set: its rows as records, and their layout."""

    path: Path
    records: Records
    understood: Understood
    root: str
    """The image root of its rows."""
    _shared: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows, usable or not."""
        return len(self.records)

    def read(self, rows: Collection[int] | None = None) -> tuple[list[Row], list[Reject]]:
        """Read rows of all kinds, also those with several exchanges or images, or without an image.

        Args:
            rows: row indices to read, in any order; None reads all.

        Returns:
            Rows and rejects, both in file order. Every requested row is in exactly one of the two lists.

        Raises:
            ValueError: a row index is out of range.
        """
        wanted = range(len(self)) if rows is None else sorted(set(rows))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise ValueError(
                f"{self.path}: rows {wanted[0]} to {wanted[-1]} were requested, but the file has rows 0 to "
                f"{len(self) - 1}; is it the file that the split was drawn from?"
            )
        found: list[Row] = []
        rejects: list[Reject] = []
        missing_ids = 0
        for index in wanted:
            try:
                row, has_id = self._row(index)
            except UnusableError as unusable:
                rejects.append(Reject(index, *unusable.args))
            else:
                found.append(row)
                missing_ids += not has_id
        if "id" in self.understood.keys or self.understood.layout is LLAVA:
            _report_ids(self.path, found, missing_ids)
        return found, rejects

    def _row(self, index: int) -> tuple[Row, bool]:
        records = self.records
        if self.understood.layout is LLAVA and isinstance(records, JsonRecords):
            try:
                return llava_row(index, records.raw[index], self.root, self._shared, self.understood.places_optional)
            except NotSimpleError:
                pass
        return row_of(
            index, records.record(index), self.understood, self.root, lambda text: records.locate(index, text)
        )


def open_rows(
    path: str | Path, layout: str = AUTO, image_root: str | Path = "", places_optional: bool = False
) -> RowFile:
    """Open a data set and recognise its layout.

    Args:
        path: a file, a folder, or a pattern such as `data/train-*.parquet`.
        layout: `auto`, the name of a layout, or pairs of role and key (`layouts.layout_choice`).
        image_root: folder that the rows' image paths are relative to; if it is empty, the folder for data in a folder,
            otherwise the working directory.
        places_optional: whether a question needs no `<image>` for its image, because a prompt replaces all questions.

    Raises:
        ValueError: the data is missing, empty or broken, or the layout is not recognised. The message is one line.
    """
    path = Path(path)
    found = find(path)
    root = str(image_root) or (str(found.folder) if found.folder else "")
    records = _records(found, root)
    understood = replace(understand(path, _first(path, records), layout), places_optional=places_optional)
    return RowFile(path, records, understood, root)


def _first(path: Path, records: Records) -> list[Record]:
    """Return those of the first rows that can be read."""
    number = min(FIRST_ROWS, len(records))
    first: list[Record] = []
    why = ""
    for index in range(number):
        try:
            first.append(records.record(index))
        except UnusableError as unusable:
            why = why or f"row {index}: {unusable.args[0]} ({unusable.args[1]})"
    if not first:
        raise InputError(f"{path}: none of the first {number} rows can be read: {why}", "is it the right file?")
    return first


def folder_of(path: str | Path) -> Path:
    """Return the default image root: the path itself if it is a folder, otherwise the folder of the file."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def find_image_root(path: str | Path, images: Iterable[str]) -> Path | None:
    """Search for the folder that image paths are relative to: the data's folder, or one directly inside or above it.

    Returns:
        The first folder that contains any of the images; None if no folder does.
    """
    folder, wanted = folder_of(path), [file_of(image) for image in images]
    inside = sorted(item for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []
    return next(
        (root for root in (folder, *inside, folder / "..") if any((root / image).is_file() for image in wanted)), None
    )


def _records(found: Found, root: str) -> Records:
    first = found.files[0]
    if found.kind in ("parquet", "arrow"):
        return TableRecords(found.files, root, found.kind == "parquet")
    if found.kind == "tar":
        return TarRecords(found.files, root)
    if found.kind == "csv":
        return CsvRecords(first)
    if found.folder is not None and found.kind == "side-files":
        return SideFileRecords(found.files, found.folder, from_root(found.folder, root))
    return JsonRecords(first, from_root(first, root))


def single(row: Row) -> Row | Reject:
    """Return a row with one image, one question and one answer unchanged, and a Reject for any other row.

    This is what Stage 1 and `eyechart score` read.
    """
    if row.image and not row.conversation:
        return row
    if not row.image:
        detail = "expected the key of an image with a path relative to the image root"
        return Reject(row.row, "no image", detail, RejectKind.IMAGE_COUNT)
    roles = [turn.role for turn in row.turns]
    if roles != ["user", "assistant"]:
        reason = "several exchanges" if len(roles) > 3 else "system turn"
        detail = f"not supported yet: expected one question and one answer, got {short(roles)}"
        return Reject(row.row, reason, detail, RejectKind.SEVERAL_EXCHANGES)
    if len(row.images) > 1:
        detail = f"not supported yet: expected one image per row, got {len(row.images)}"
        return Reject(row.row, "several images", detail, RejectKind.IMAGE_COUNT)
    return row


def read_rows(
    path: str | Path,
    rows: Collection[int] | None = None,
    image_root: str | Path = "",
    layout: str = AUTO,
    places_optional: bool = False,
) -> tuple[list[Row], list[Reject]]:
    """Read the rows of a data set that have one image, one question and one answer, and reject all others.

    Missing and duplicate ids are accepted and reported in one log line: rows are identified by their index. Rows of all
    kinds are returned by `open_rows(...).read()`.

    Args:
        path: a file, a folder, or a pattern such as `data/train-*.parquet`; docs/data.md lists the layouts.
        rows: row indices to read, in any order; None reads all.
        image_root: folder that the rows' image paths are relative to; if it is empty, the folder for data in a folder,
            otherwise the working directory.
        layout: `auto`, the name of a layout, or pairs of role and key such as `image=picture,caption=title`.
        places_optional: whether a question needs no `<image>` for its image, because a prompt replaces all questions.

    Returns:
        Rows and rejects, both in file order. Every requested row is in exactly one of the two lists.

    Raises:
        ValueError: the data is missing, empty or broken, its layout is not recognised, or a row index is out of range.
    """
    found, rejects = open_rows(path, layout, image_root, places_optional).read(rows)
    return simple_rows(found, rejects)


def simple_rows(rows: Iterable[Row], rejects: Iterable[Reject] = ()) -> tuple[list[Row], list[Reject]]:
    """Return the rows that `single` accepts, and all rejects including those of `single`, in row order."""
    checked = [single(row) for row in rows]
    left_out = [*rejects, *(item for item in checked if isinstance(item, Reject))]
    return [item for item in checked if isinstance(item, Row)], sorted(left_out, key=lambda reject: reject.row)


def count_rows(path: str | Path, layout: str = AUTO) -> int:
    """Count the rows of a data set, usable or not.

    Raises:
        ValueError: as for `read_rows`.
    """
    return len(open_rows(path, layout))


def content_digest(path: str | Path) -> str:
    """Return the SHA-256 of a data set: of the content of a single file, or of the names and contents of several.

    Of files above 2 GiB, the size and 64 parts of 1 MiB are hashed. Image files are not read.

    Raises:
        ValueError: a file cannot be read.
    """
    found = find(Path(path))
    files = [file for file in found.files if found.kind != "side-files" or file.suffix in (".txt", ".caption", ".json")]
    try:
        if len(files) == 1 and files[0].stat().st_size <= _WHOLE:
            with open_regular(files[0]) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.name}\0".encode() + _digest(path))
        return digest.hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot read the data file ({error.strerror})") from error


def _digest(path: Path) -> bytes:
    size = path.stat().st_size
    with open_regular(path) as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256(str(size).encode())
        for part in range(_PARTS):
            file.seek(part * (size - _PART) // (_PARTS - 1))
            digest.update(file.read(_PART))
        return digest.digest()


def _report_ids(path: Path, records: Iterable[Row], missing: int) -> None:
    counts = Counter(record.id for record in records)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if missing:
        _LOG.warning("%s: %d rows without an id: their row number is used", one_line(str(path)), missing)
    if repeated:
        _LOG.warning(
            "%s: %d ids are used by %d rows, such as %r: accepted, rows are identified by their row number",
            one_line(str(path)),
            len(repeated),
            sum(counts[identity] for identity in repeated),
            repeated[0],
        )
