"""A second reader of the data file, which returns rows before any code of the pipeline has processed them.

For LLaVA's layout in JSON, this reader is intentionally independent of `eyechart.data.llava`, whose output is compared
with it. Rows of other layouts are read again with `eyechart.data.reader`: what is compared then is the way from there
to the model, and tests compare the layouts with each other (`eyechart/tests/test_layouts.py`).
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from eyechart.data.dataset import TooManyRejectedError
from eyechart.data.json_rows import JsonRecords
from eyechart.data.layouts import LLAVA
from eyechart.data.reader import open_rows, simple_rows
from eyechart.exits import NamedInputError
from eyechart.faults.rows_rejected import diagnose_rejects
from eyechart.faults.table import FAULTS, finding
from eyechart.results import Finding
from eyechart.rows import Reject, Row
from qwen3_vlm.config import Config, DataConfig

_FIXES = {
    "image-truncated": "raise data.max_seq_len, shorten prompt.template, or lower connector.latents",
    "images-unreadable": "restore these files below data.image_root, or remove the rows from the data file",
}
"""Fixes that name settings of the config."""


def read_unprocessed(data: DataConfig, path: Path, rows: Sequence[int]) -> dict[int, Row]:
    """Read rows of a data file by index, of any layout; rows that are not usable are left out.

    Args:
        data: layout and image root.
        path: `data.json_file` or `data.eval_json`.
        rows: indices of the rows.
    """
    opened = open_rows(path, data.layout, data.image_root)
    if opened.understood.layout is LLAVA and isinstance(opened.records, JsonRecords):
        return read_plainly(path, rows)
    found, _ = simple_rows(opened.read(rows)[0])
    return {row.row: row for row in found}


def read_plainly(path: Path, rows: Iterable[int]) -> dict[int, Row]:
    """Read rows in LLaVA's layout by index, using only a JSON parser; invalid rows are left out.

    Args:
        path: a file with a JSON list or JSON Lines, optionally gzipped.
        rows: indices of the rows.
    """
    data = path.read_bytes()
    data = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] == b"{":
        parts: list[bytes] = [line for line in data.split(b"\n") if line.strip()]
    else:
        # Only split the file into rows here: parsing half a million takes seconds, and only a few are needed.
        parts = [bytes(part) for part in msgspec.json.decode(data, type=list[msgspec.Raw])]
    found = {row: _raw_row(row, parts[row]) for row in rows if row < len(parts)}
    return {row: raw for row, raw in found.items() if raw is not None}


def _raw_row(row: int, text: bytes) -> Row | None:
    try:
        tree = json.loads(text)
        turns = {turn["from"]: turn["value"] for turn in tree["conversations"]}
        image = tree["image"] if isinstance(tree["image"], str) else tree["image"][0]
        return Row(row, str(tree.get("id", row)), image, turns["human"], turns["gpt"].strip())
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None  # the pipeline's reader rejects and counts such a row


def reject_findings(rejects: Sequence[Reject], total: int, config: Config, sampled: bool = False) -> list[Finding]:
    """Return findings for rejected rows, with fixes that name settings of the config."""
    found = diagnose_rejects(rejects, total, config.data.max_rejected, sampled)
    return [f.model_copy(update={"fix": _FIXES.get(f.code, f.fix)}) for f in found]


def findings_of_error(error: ValueError, config: Config) -> list[Finding]:
    """Return findings for an error that rejected the input before a preflight could check it.

    The list is empty if the error does not correspond to a fault in the table.
    """
    if isinstance(error, TooManyRejectedError):
        found = reject_findings(error.rejects, error.total, config)
        # All rejected rows together stop a run, even if each reason alone is below the limit.
        return [f.model_copy(update={"severity": "error"}) for f in found]
    if isinstance(error, NamedInputError):
        return [finding(error.code, error.message, error.fix, "error")] if error.code in FAULTS else []
    return []


def spread(count: int, of: int) -> list[int]:
    """Return `count` evenly spaced positions from 0..of-1, or all of them if there are not more than `count`."""
    if of <= count:
        return list(range(of))
    return [math.floor(i * of / count) for i in range(count)]
