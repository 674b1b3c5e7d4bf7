"""Checks of the samples: whether each has its row's image, and the pixels, the padding and the length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from eyechart.data.dataset import Dataset
from eyechart.data.images import normalise
from eyechart.faults.prepared_pixels import compare
from eyechart.faults.rows_pictures import Decoded, diagnose_decoded
from eyechart.faults.rows_twins import Namesakes, diagnose_twins
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.rows import CollateStats
from eyechart.seam import Sample
from eyechart.verdict.coverage import smallest_max_seq_len
from qwen3_vlm.build import Prepared
from qwen3_vlm.preflight.pixels import references
from qwen3_vlm.preflight.rows import spread
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
                f"the one in the data file: row {row.sample.row} names {row.raw.image} and gets {row.sample.image}",
                "keep image paths and captions in the same order in the code that reads rows",
                rows=len(moved),
                of=len(rows),
            )
        )
    return [*found, *diagnose_decoded([_decoded(row.sample, row.raw.image) for row in rows], allowed)]


def _decoded(sample: Sample, image: str) -> Decoded:
    pixels_CHW = None if sample.pixels_CHW is None else sample.pixels_CHW.numpy()
    return Decoded(sample.row, image, sample.image_hash, pixels_CHW)


def twin_findings(rows: Mapping[str, list[Row]], namesakes: Namesakes, train: Dataset, allowed: float) -> list[Finding]:
    """Compare held-out images with training images of the same caption; rows that cannot be read are counted elsewhere.

    Args:
        rows: rows that were read, by side of the split.
        namesakes: training rows by caption.
        train: the training data.
        allowed: largest share of rows for which a leak is only a warning.
    """
    place = {row: p for p, row in enumerate(train.rows)}

    def decode(row: int) -> Decoded | None:
        twin = train[place[row]] if row in place else None
        return _decoded(twin, twin.image) if isinstance(twin, Sample) else None

    train_side, held_out = (
        [(_decoded(row.sample, row.sample.image), namesakes.of(row.raw.caption, row.raw.image)) for row in rows[side]]
        for side in ("train", "eval")
    )
    return [*diagnose_twins(held_out, train_side, decode, allowed)]


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
    lengths = [length for dataset in (prepared.train, prepared.eval) for length in dataset.lengths]
    cut = sum(length > limit for length in lengths)
    if not cut or mostly_empty:
        return []
    stats = CollateStats(samples=len(lengths), truncated=cut, lengths=Counter(lengths))
    share = stats.truncated_pct
    fail, warn = share > coverage.truncated_fail, share > coverage.truncated_warn
    # If the share is already within the limits of all checks, suggest a length that truncates no caption.
    spared = min(coverage.truncated_warn, _CUT_AT_MOST) if warn else 0.0
    would_do = smallest_max_seq_len(stats, spared, prepared.config.image_block_tokens)
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
