"""Which faults rejected rows have."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from eyechart.faults.rows_shares import SHOWN, severity_by_share
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.rows import PLACEHOLDER, Reject, RejectKind

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
        "an image block that max_seq_len cuts, so image tokens are lost",
        "raise max_seq_len, or shorten the prompt",
    ),
    "images-unreadable": (
        "an image file that is missing, damaged or not an image",
        "restore these files below the image root, or remove the rows from the data",
    ),
    "no-labels": (
        "no usable caption, so there is nothing to learn from them",
        "give these rows the turns human and gpt with a caption that is not blank, or remove them",
    ),
}


def diagnose_rejects(rejects: Sequence[Reject], total: int, allowed: float, sampled: bool = False) -> Iterator[Finding]:
    """Yield a finding for each fault of rejected rows, with counts, row numbers and fixes.

    Args:
        rejects: the rejected rows.
        total: number of rows, rejected or not.
        allowed: largest share of rows for which a fault is only a warning, 0 to 1.
        sampled: whether only some rows were checked (`severity_by_share`).
    """
    groups: dict[str, list[Reject]] = defaultdict(list)
    for reject in rejects:
        fault = _FAULT_OF[reject.kind]
        if fault is not None:
            groups[fault].append(reject)
    for code, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        what, fix = _SAYS[code]
        reasons = Counter(reject.reason for reject in group)
        yield finding(
            code,
            f"{len(group)} of {total} rows {agree(len(group), 'has', 'have')} {what}: {_examples(group)}",
            fix,
            severity_by_share(len(group), total, allowed, sampled),
            rows=len(group),
            of=total,
            share=round(len(group) / max(1, total), 4),
            allowed_share=allowed,
            reasons=dict(reasons),
            first_rows=[r.row for r in group[:SHOWN]],
        )


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
