"""Rows that a collator cannot make a batch of: are they cut off inside an image?

Some stacks tokenise their rows before they are collated, and cut them at a length there. Their collator then computes
positions from image sizes and fails with shapes that name no cause (hiyouga/LLaMA-Factory#9313).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eyechart.faults.batch_evidence import rows_in_words
from eyechart.faults.batch_images import LENGTH_FIX
from eyechart.faults.table import agree, finding
from eyechart.processors.image_ids import image_ids_of
from eyechart.results import Finding


def cut_in_image(
    indices: Sequence[int], rows: Sequence[Any], processor: Any, config: Any, error: Exception
) -> Finding | None:
    """Return a finding if rows end in an image position; None if none does, or if rows hold no token ids.

    Args:
        indices: index of each row in its data set.
        rows: the rows as the data set returns them.
        processor: the model's processor, or None.
        config: the model's config, or None.
        error: what the collator raised.
    """
    ids = set(image_ids_of(processor, config))
    cut = [index for index, row in zip(indices, rows, strict=True) if _last_id(row) in ids]
    if not cut:
        return None
    reason = " ".join(str(error).split())[:120]
    return finding(
        "image-truncated",
        f"{rows_in_words(cut)} of the training data {agree(len(cut), 'ends', 'end')} inside an image, and the "
        f"trainer's collator fails on {agree(len(cut), 'it', 'them')} ({type(error).__name__}: {reason})",
        LENGTH_FIX,
        rows=cut,
        rows_read=len(rows),
    )


def _last_id(row: Any) -> int | None:
    """Return the last token id of a row; None if it has none."""
    ids = row.get("input_ids") if isinstance(row, Mapping) else None
    if ids is None or len(ids) == 0 or getattr(ids, "ndim", 1) != 1:
        return None
    return int(ids[-1])
