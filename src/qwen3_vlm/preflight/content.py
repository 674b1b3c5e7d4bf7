"""Checks of the samples: whether each has its row's image, and the pixels, the padding and the length."""

from __future__ import annotations

import math
from typing import Any

import torch

from eyechart.data.images import normalise
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from qwen3_vlm.build import Prepared
from qwen3_vlm.preflight.pixels import compare, references
from qwen3_vlm.preflight.rows import by_share, spread
from qwen3_vlm.preflight.text import Row

# size: images compared
_COMPARED = 64
"""Number of images compared with the output of the tower's own processor."""
# exact: the limit of a PASS of check 2 (coverage.truncated_warn)
_CUT_AT_MOST = 1.0
"""Percent of captions that a suggested data.max_seq_len may still truncate."""


def content_findings(rows: list[Row], allowed: float) -> list[Finding]:
    """Compare each sample's image path with its row and check what its pixels show.

    `allowed` is the share of rows that may have a blank image.
    """
    found = []
    moved = [row for row in rows if row.sample.image != row.raw.image]
    if moved:
        row = moved[0]
        found.append(
            finding(
                "pairs-mismatched",
                f"{len(moved)} of {len(rows)} samples {agree(len(moved), 'has', 'have')} an image that differs from "
                "the one in the data file: row "
                f"{row.sample.row} names {row.raw.image} and gets {row.sample.image}",
                "keep image paths and captions in the same order in the code that reads rows",
                rows=len(moved),
                of=len(rows),
            )
        )
    pixels = {row.sample.row: row.sample.pixels_CHW for row in rows if row.sample.pixels_CHW is not None}
    blank = [r for r, pixels_CHW in pixels.items() if bool((pixels_CHW == pixels_CHW[:, :1, :1]).all())]
    if blank and by_share(len(blank), len(pixels), allowed, sampled=True) == "error":
        found.append(
            finding(
                "images-degenerate",
                f"{len(blank)} of {len(pixels)} images {agree(len(blank), 'is', 'are')} one colour without any "
                f"detail, such as row {blank[0]}'s",
                f"open the image file of row {blank[0]}: if it is blank, fetch these images again or remove their "
                "rows; if it shows a picture, check how it is decoded",
                rows=len(blank),
                of=len(pixels),
                first_rows=blank[:3],
            )
        )
    hashes = {row.sample.image_hash for row in rows}
    one, other = _same_pixels(rows)
    files = {row.raw.image for row in rows}
    if len(files) > 3 and len(hashes) <= 0.1 * len(files):
        found.append(
            finding(
                "images-degenerate",
                f"{len(files)} different image files decode to only {len(hashes)} different "
                f"{agree(len(hashes), 'image', 'images')}, such as those of rows {one} and {other} to one",
                f"open the files of rows {one} and {other}: if they look the same, fetch them again or remove their "
                "rows; if they differ, check how images are decoded (a cache, a buffer used twice, a fixed path)",
                "error" if len(hashes) == 1 else "warning",
                pictures=len(hashes),
                files=len(files),
            )
        )
    return found


def pixel_findings(rows: list[Row], prepared: Prepared, settings: dict[str, Any]) -> list[Finding]:
    """Check the preprocessing of more images than are in the batch for the model."""
    read = [row for row in rows if row.sample.pixels_CHW is not None]
    chosen = [read[p] for p in spread(_COMPARED, len(read))]
    if not chosen:
        return []
    raw = [row.raw for row in chosen]
    pixels_BCHW = torch.stack([row.sample.pixels_CHW for row in chosen if row.sample.pixels_CHW is not None])
    got_BCHW = normalise(pixels_BCHW, prepared.inputs.spec)
    return compare(got_BCHW, references(raw, prepared, settings), raw)


def _same_pixels(rows: list[Row]) -> tuple[int, int]:
    """Return two rows whose image files differ but whose pixels are equal; (0, 0) if there are none."""
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row.sample.image_hash, row)
        if other.raw.image != row.raw.image:
            return other.sample.row, row.sample.row
    return 0, 0


def padding_findings(moved: list[int], total: int) -> list[Finding]:
    """Report samples that the collator does not put at the left edge of their batch.

    Args:
        moved: rows of these samples (see `not_in_front`).
        total: number of samples checked.
    """
    if not moved:
        return []
    return [
        finding(
            "batch-dependent",
            f"{len(moved)} of {total} samples do not begin at the left edge of their batch, first row "
            f"{moved[0]}: with padding on the left and no mask, the model reads the padding, and a caption's "
            "loss depends on the longest sample of its batch",
            "pad on the right in training and scoring; causal attention then never sees the padding",
            rows=len(moved),
            of=total,
        )
    ]


def length_findings(prepared: Prepared, mostly_empty: bool) -> list[Finding]:
    """Report rows that are longer than max_seq_len, and the length that would be enough.

    All rows are counted, not only those that were checked.

    Args:
        prepared: the data of the run.
        mostly_empty: whether most rows are known to have no label for a reason other than their length.
    """
    limit, coverage = prepared.config.data.max_seq_len, prepared.config.coverage
    lengths = sorted(length for dataset in (prepared.train, prepared.eval) for length in dataset.lengths)
    cut = sum(length > limit for length in lengths)
    if not cut or mostly_empty:
        return []
    share = 100 * cut / len(lengths)
    fail, warn = share > coverage.truncated_fail, share > coverage.truncated_warn
    # If the share is already within the limits of all checks, suggest a length that truncates no caption.
    spared = math.floor(len(lengths) * min(coverage.truncated_warn, _CUT_AT_MOST) / 100) if warn else 0
    would_do = lengths[-1 - spared]
    whole = sum(length <= would_do for length in lengths)
    return [
        finding(
            "answer-truncated",
            f"{cut} of {len(lengths)} captions {agree(cut, 'is', 'are')} truncated at data.max_seq_len {limit} "
            f"({share:.3g}%); {would_do} would leave {whole} of {len(lengths)} complete",
            f"set data.max_seq_len to {would_do}, shorten prompt.template, or shorten the long captions",
            "error" if fail else "warning" if warn else "note",
            rows=cut,
            of=len(lengths),
            share_pct=round(share, 3),
            max_seq_len=limit,
            would_do=would_do,
        )
    ]
