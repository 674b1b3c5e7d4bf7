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
from eyechart.processors.answers import IGNORED
from eyechart.processors.image_ids import image_ids_of
from eyechart.results import Finding

# size: one row of a length is no limit
_FEWEST = 2
"""Rows that have to be cut off at one length, where as many were read."""


def cut_in_image(
    indices: Sequence[int], rows: Sequence[Any], processor: Any, config: Any, error: Exception
) -> Finding | None:
    """Return a finding if rows of one length, the longest, end in an image position, or their prompts do.

    A prompt ends where labels begin; most templates close the image or the turn before that. Rows that are cut off have
    one length; a prompt that is only an image leaves rows of many lengths, and is not named.

    Args:
        indices: index of each row in its data set.
        rows: the rows as the data set returns them.
        processor: the model's processor, or None.
        config: the model's config, or None.
        error: what the collator raised.
    """
    ids = set(image_ids_of(processor, config))
    lengths = [_length(row) for row in rows]
    cut = [
        index
        for index, row, length in zip(indices, rows, lengths, strict=True)
        if length == max(lengths) > 0 and not ids.isdisjoint(_last_ids(row))
    ]
    if len(cut) < min(len(rows), _FEWEST):
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


def _length(row: Any) -> int:
    """Return the number of token ids of a row; 0 for rows without ids."""
    ids = row.get("input_ids") if isinstance(row, Mapping) else None
    return 0 if ids is None or getattr(ids, "ndim", 1) != 1 else len(ids)


def _last_ids(row: Any) -> set[int]:
    """Return the last token id of a row with ids, and of its prompt."""
    ids, labels = row["input_ids"], row.get("labels")
    first = next((place for place, label in enumerate(() if labels is None else labels) if label != IGNORED), 0)
    return {int(ids[-1])} | ({int(ids[first - 1])} if 0 < first <= len(ids) else set())
