"""Which of very many samples a page shows: an even choice, ends included, never only the best."""

from __future__ import annotations


def even_choice(total: int, limit: int) -> list[int]:
    """Positions of at most `limit` out of `total` things in order, evenly spaced, the first and the last among them.

    All of them where there are no more than `limit`; with a limit of 1 the first alone.
    """
    assert total >= 0 and limit >= 0, f"{limit} of {total}"
    if total <= limit:
        return list(range(total))
    if limit <= 1:
        return list(range(limit))
    return [(i * (total - 1) + (limit - 1) // 2) // (limit - 1) for i in range(limit)]
