"""Selects rows: at random, with a seed, for scoring; and evenly spaced for the gallery of the results page."""

from __future__ import annotations

import numpy as np


def draw_rows(num_rows: int, seed: int) -> tuple[int, ...]:
    """Return all row indices 0..num_rows-1 in a random order that `seed` determines."""
    return tuple(np.random.Generator(np.random.PCG64(seed)).permutation(num_rows).tolist())


def even_choice(total: int, limit: int) -> list[int]:
    """Return at most `limit` evenly spaced indices from 0..total-1, including the first and the last.

    If `total` is at most `limit`, all indices are returned. If `limit` is 1, only index 0 is returned.
    """
    assert total >= 0 and limit >= 0, f"{limit} of {total}"
    if total <= limit:
        return list(range(total))
    if limit <= 1:
        return list(range(limit))
    return [(i * (total - 1) + (limit - 1) // 2) // (limit - 1) for i in range(limit)]
