"""Batches from a trainer's data set, made by the trainer's own collator without using its loader.

A loader cannot be rewound: `next(iter(loader))` advances random states, and iterable data sets lose rows. Rows are
therefore read from the data set by their indices and collated by the loader's own function. Iterable data sets are not
read here; for them, the first batch is checked within the first training step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eyechart.faults.uncollated import cut_in_image
from eyechart.results import Finding

Source = Literal["held-out", "training"]
"""Which of the trainer's data sets the rows come from."""


@dataclass(frozen=True)
class Indexed:
    """A data set with indices, and the collator that makes batches of its rows."""

    rows: Any
    """Anything with `__len__` and `__getitem__`."""
    collate: Callable[[list[Any]], Any]
    source: Source

    def drawn(self, count: int, seed: int) -> list[int]:
        """Return the indices of the first `count` rows in an order drawn by `seed`."""
        return [int(index) for index in np.random.default_rng(seed).permutation(len(self.rows))[:count]]

    def batches(self, count: int, size: int, seed: int) -> list[Mapping[str, Any]]:
        """Return batches of `size` rows each, with `count` rows in total, or all rows if there are fewer.

        Rows are drawn at random with `seed`, so that the sample is representative even if the data set is sorted.
        Transforms of the data set may use the global random generators; the caller restores these.

        Raises:
            ValueError: the collator does not return a dict.
        """
        drawn = self.drawn(count, seed)
        found = []
        for start in range(0, len(drawn), size):
            batch = self.collate([self.rows[index] for index in drawn[start : start + size]])
            if not isinstance(batch, Mapping):
                raise ValueError(
                    f"expected the trainer's collator to return a dict of tensors, got {type(batch).__name__}; "
                    "pass a collator that returns the keyword arguments of the model's forward"
                )
            found.append(batch)
        return found

    def cut(self, count: int, seed: int, processor: Any, config: Any, error: Exception) -> Finding | None:
        """Return a finding if some of the rows that `batches` could not collate are cut off inside an image."""
        drawn = self.drawn(count, seed)
        return cut_in_image(drawn, [self.rows[index] for index in drawn], processor, config, error)


def indexed(loader: Any, source: Source) -> Indexed | None:
    """Return the data set and the collator of a loader; None if its rows have no indices."""
    rows, collate = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
    if rows is None or collate is None or not _has_indices(rows):
        return None
    return Indexed(rows, collate, source)


def given(rows: Any, loader: Any) -> Indexed | None:
    """Return a data set that the user passed, with the collator of the training loader."""
    collate = getattr(loader, "collate_fn", None)
    if isinstance(rows, Sequence) or _has_indices(rows):
        return None if collate is None else Indexed(rows, collate, "held-out")
    return indexed(rows, "held-out")


def _has_indices(rows: Any) -> bool:
    if not (hasattr(rows, "__getitem__") and hasattr(rows, "__len__")):
        return False
    try:
        return len(rows) > 0
    except TypeError:  # iterable data sets of PyTorch may define a length that is unknown
        return False
