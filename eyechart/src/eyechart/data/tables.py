"""Parquet and Arrow files, such as `datasets` writes, as records: text is loaded, images stay in their file.

Images are structs with the field `bytes` (the Image feature of `datasets`: `{bytes, path}`) and columns of bytes. Of a
Parquet file, all columns except these bytes are read.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyechart.data.records import Record, StoredImage, from_root, no_base64
from eyechart.exits import InputError
from eyechart.outside.patience import Patience
from eyechart.outside.regular import UnreadableError, require_regular
from eyechart.stored import arrow_table, cell_address, require_table_size, stamp_of

_FIRST_ROWS, _BATCH_BYTES = 8, 2**26
"""Rows whose size decides how many rows of a Parquet file are read at once, and the size to aim at."""


class TableRecords:
    """The rows of Parquet or Arrow files, in the order of the files; `Records`."""

    def __init__(self, paths: Sequence[Path], root: str, parquet: bool) -> None:
        """Read everything except images.

        Raises:
            ValueError: a file is broken, or the columns of the files differ.
        """
        self.kind = "Parquet" if parquet else "Arrow"
        self.files = tuple(paths)
        self._tables = [_Table(path, from_root(path, root), parquet) for path in paths]
        for table in self._tables[1:]:
            if table.names != self._tables[0].names:
                raise InputError(
                    f"{table.path}: columns {', '.join(table.names)}, but {self._tables[0].path} has "
                    f"{', '.join(self._tables[0].names)}",
                    "name files with the same columns",
                )
        self._starts = [0]
        for table in self._tables:
            self._starts.append(self._starts[-1] + len(table))
        if not self._starts[-1]:
            raise InputError(f"{paths[0]}: the table has zero rows", "is the file complete?")

    def __len__(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    def record(self, index: int) -> Record:
        """See `Records`."""
        place = bisect.bisect_right(self._starts, index) - 1
        return self._tables[place].record(index - self._starts[place])

    def locate(self, index: int, text: str) -> str:
        """See `Records`."""
        raise no_base64("a table")


class _Table:
    """One file."""

    def __init__(self, path: Path, name: str, parquet: bool) -> None:
        import pyarrow as pa

        self.path, self._name = path, name
        try:
            require_regular(path)
            self._table, self._schema, self._empty = _read_parquet(path) if parquet else _read_arrow(path)
            self._lists = _lists_of_bytes(path, self._schema, self._table.column_names)
        except UnreadableError:
            raise
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:  # also of a truncated name
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            kind = "Parquet" if parquet else "Arrow"
            raise InputError(f"{path}: not a readable {kind} file ({first})", "copy or download it again") from error
        self.names = list(self._schema.names)
        self._plain = [name for name in self._table.column_names if not _has_image(self._schema.field(name).type)]
        self._columns = {name: self._table.column(name) for name in self._table.column_names}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def record(self, row: int) -> Record:
        record: dict[str, object] = {}
        for name in self.names:
            column = self._columns.get(name)
            kind = self._schema.field(name).type
            if name in self._lists:
                record[name] = self._marked(self._lists[name][row], kind, _escaped(name), row)
            elif column is None:  # a column of bytes, which was not read
                record[name] = StoredImage(cell_address(self._name, _escaped(name), row))
            elif name in self._plain:
                record[name] = column[row].as_py()
            elif _is_bytes(kind):
                valid = column[row].is_valid
                record[name] = StoredImage(cell_address(self._name, _escaped(name), row)) if valid else None
            else:
                record[name] = self._marked(_light(column[row]), kind, _escaped(name), row)
        return record

    def _marked(self, value: object, kind: Any, pointer: str, row: int) -> object:
        """Replace images in a value by `StoredImage`."""
        import pyarrow as pa

        if value is None or not _has_image(kind):
            return value
        if _is_bytes(kind):
            return StoredImage(cell_address(self._name, pointer, row))
        if pa.types.is_struct(kind):
            assert isinstance(value, dict)
            if _is_image(kind):
                if value.get("bytes") is None and ("bytes" in value or pointer.split("/")[0] in self._empty):
                    return value.get("path")
                return StoredImage(cell_address(self._name, pointer, row))
            return {
                field.name: self._marked(value.get(field.name), field.type, f"{pointer}/{_escaped(field.name)}", row)
                for field in kind
            }
        assert isinstance(value, list)
        items = enumerate(value)
        return [self._marked(item, kind.value_type, f"{pointer}/{place}", row) for place, item in items]


def _read_parquet(path: Path) -> tuple[Any, Any, set[str]]:
    """Return a table without the bytes of images, the complete schema, and the columns whose images have no bytes."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
        owners = [field.name for field in schema for _ in range(_leaves(field.type))]
        if len(owners) != len(file.schema):
            raise InputError(
                f"{path}: a column has a type that is not supported", "leave it out, or convert it to text"
            )
        light: list[str] = []
        heavy: list[int] = []
        for leaf, owner in enumerate(owners):
            column = file.schema.column(leaf)
            is_bytes = column.physical_type == "BYTE_ARRAY" and column.logical_type.type == "NONE"
            if is_bytes and _has_image(schema.field(owner).type):
                heavy.append(leaf)
            else:
                light.append(column.path)
        table = _read_columns(path, file, light)
        if table.num_columns == 0:
            raise InputError(
                f"{path}: every column contains bytes: {', '.join(schema.names)}", "add a column with texts"
            )
        return (
            table,
            schema,
            {_escaped(owners[leaf]) for leaf in heavy if _all_null(metadata, leaf)},
        )


def _read_columns(path: Path, file: Any, columns: Sequence[str]) -> Any:
    """Read columns in batches of about `_BATCH_BYTES`, until they take more memory than is allowed.

    The metadata does not tell the size in memory: a value of 10 MB that a million rows share is stored once. So the
    first rows of each row group decide how many rows are read at once.
    """
    import pyarrow as pa

    patience = Patience(f"reading {path}", "rows")
    batches: list[Any] = []
    size = rows = 0
    for group in range(file.num_row_groups):
        options = {"row_groups": [group], "columns": columns, "use_threads": False}
        first = next(file.iter_batches(_FIRST_ROWS, **options), None)
        if first is None:
            continue
        at_once = max(1, _BATCH_BYTES * first.num_rows // max(1, first.nbytes))
        for batch in file.iter_batches(min(at_once, file.metadata.row_group(group).num_rows), **options):
            batches.append(batch)
            size, rows = size + batch.nbytes, rows + batch.num_rows
            require_table_size(size, path)
            patience.tick(rows)
    return pa.Table.from_batches(batches) if batches else file.read(columns=columns, use_threads=False)


def _leaves(kind: Any) -> int:
    """Return the number of columns that Parquet stores for a type."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return sum(_leaves(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    if _is_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaves(kind.value_type)
    return 1


def _lists_of_bytes(path: Path, schema: Any, read: Sequence[str]) -> dict[str, list[object]]:
    """Return the columns that are lists of bytes; to know the lengths of these lists, the bytes must be read."""
    import pyarrow.parquet

    names = [name for name in schema.names if name not in read and _is_list(schema.field(name).type)]
    lists: dict[str, list[object]] = {name: [] for name in names}
    if names:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64, columns=names, use_threads=False):
                for name in names:
                    lists[name] += [_light(item) for item in batch.column(name)]
    return lists


def _all_null(metadata: Any, leaf: int) -> bool:
    """Return whether a column has no value, according to the statistics of its row groups."""
    groups = [metadata.row_group(group).column(leaf) for group in range(metadata.num_row_groups)]
    return all(
        group.statistics is not None
        and group.statistics.has_null_count
        and group.statistics.null_count == group.num_values
        for group in groups
    )


def _read_arrow(path: Path) -> tuple[Any, Any, set[str]]:
    table = arrow_table(str(path), stamp_of(path))
    return table, table.schema, set()


def _light(scalar: Any) -> object:
    """Return a value as Python objects, with one byte in place of each image's bytes, so that none are copied."""
    import pyarrow as pa

    if not scalar.is_valid:
        return None
    if _is_bytes(scalar.type):
        return b"-"
    if not _has_image(scalar.type):
        return scalar.as_py()
    if pa.types.is_struct(scalar.type):
        return {name: _light(scalar[name]) for name in (field.name for field in scalar.type)}
    return [_light(item) for item in scalar.values]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_image(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind)


def _has_image(kind: Any) -> bool:
    """Return whether a type has bytes anywhere."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_has_image(field.type) for field in kind)
    if _is_list(kind):
        return _has_image(kind.value_type)
    return _is_bytes(kind)
