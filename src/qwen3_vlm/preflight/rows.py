"""A second reader of the data file, which returns rows before any code of the pipeline has processed them.

For LLaVA's layout in JSON, this reader is intentionally independent of `eyechart.data.llava`, whose output is compared
with it. Rows of other layouts are read again with `eyechart.data.reader`: what is compared then is the way from there
to the model, and tests compare the layouts with each other (`eyechart/tests/test_layouts.py`).
"""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from eyechart.data.dataset import TooManyRejectedError
from eyechart.data.json_rows import JsonRecords
from eyechart.data.layouts import LLAVA
from eyechart.data.reader import open_rows, simple_rows
from eyechart.exits import NamedInputError
from eyechart.faults.rows_shares import SHOWN, severity_by_share
from eyechart.faults.table import FAULTS, agree, finding
from eyechart.results import Finding
from eyechart.rows import PLACEHOLDER, Row
from eyechart.seam import Reject, RejectKind
from qwen3_vlm.config import Config, DataConfig

_FAULT_OF = {
    RejectKind.LAYOUT: "no-labels",
    RejectKind.NO_CAPTION: "no-labels",
    RejectKind.NO_PLACEHOLDER: "no-placeholder",
    RejectKind.IMAGE_COUNT: "placeholder-count",
    RejectKind.SPECIAL_TOKEN: "placeholder-count",
    RejectKind.IMAGE_IN_CAPTION: "placeholder-in-caption",
    RejectKind.IMAGE_CUT: "image-truncated",
    RejectKind.NO_FILE: "images-unreadable",
    RejectKind.UNUSABLE_FILE: "images-unreadable",
    RejectKind.SEVERAL_EXCHANGES: None,
    RejectKind.VISUAL_TOKENS: None,
    RejectKind.OTHER: None,
}
"""Code of the fault for each kind of rejected row. None means that the table of faults has none for it, for example for
valid rows that this package does not train on. Such rows are counted and named separately."""
_SAYS = {
    "no-placeholder": (
        f"an image but no {PLACEHOLDER} in the human turn, so the text has no position for the image",
        f"put {PLACEHOLDER} once into the human turn of these rows",
    ),
    "placeholder-count": (
        f"a number of {PLACEHOLDER} (or of its tokens) in the human turn that differs from the number of images",
        f"leave exactly one image and one {PLACEHOLDER} in each of these rows",
    ),
    "placeholder-in-caption": (
        "an image token inside the caption, which would refer to a second image",
        "remove the token from these captions",
    ),
    "image-truncated": (
        "an image block that data.max_seq_len cuts, so image tokens are lost",
        "raise data.max_seq_len, shorten prompt.template, or lower connector.latents",
    ),
    "images-unreadable": (
        "an image file that is missing, damaged or not an image",
        "restore these files below data.image_root, or remove the rows from the data file",
    ),
    "no-labels": (
        "no usable caption, so there is nothing to learn from them",
        "give these rows the turns human and gpt with a caption that is not blank, or remove them",
    ),
}


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
    """Return findings for rejected rows, with counts, row numbers and fixes."""
    groups: dict[str, list[Reject]] = defaultdict(list)
    for reject in rejects:
        fault = _FAULT_OF[reject.kind]
        if fault is not None:
            groups[fault].append(reject)
    found = []
    for code, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        what, fix = _SAYS[code]
        reasons = Counter(reject.reason for reject in group)
        found.append(
            finding(
                code,
                f"{len(group)} of {total} rows {agree(len(group), 'has', 'have')} {what}: {_examples(group)}",
                fix,
                severity_by_share(len(group), total, config.data.max_rejected, sampled),
                rows=len(group),
                of=total,
                share=round(len(group) / max(1, total), 4),
                allowed_share=config.data.max_rejected,
                reasons=dict(reasons),
                first_rows=[r.row for r in group[:SHOWN]],
            )
        )
    return found


def _examples(group: Sequence[Reject]) -> str:
    """Describe one row in full for each reason, and list only the numbers of other rows with the same reason."""
    firsts: dict[str, Reject] = {}
    for reject in group:
        firsts.setdefault(reject.reason, reject)
    shown = [f"row {r.row}: {r.reason} ({r.detail})" for r in list(firsts.values())[:SHOWN]]
    named = {r.row for r in firsts.values()}
    others = [str(r.row) for r in group if r.row not in named][: SHOWN - 1]
    also = f"; also {agree(len(others), 'row', 'rows')} {', '.join(others)}" if others else ""
    rest = len(group) - len(shown) - len(others)
    return "; ".join(shown) + also + (f" and {rest} more" if others and rest else "")


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
