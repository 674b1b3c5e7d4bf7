"""Compares the inputs that a collator made with those that reach the model in the first training step."""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.faults.table import agree, finding
from eyechart.results import Finding


def dropped_images(collated: Sequence[str], arrived: Sequence[str], arguments: Sequence[str]) -> Finding | None:
    """Return a finding if the collated batch has image inputs, but none of them reaches the model; otherwise None.

    Args:
        collated: names of the image inputs of the collated batch.
        arrived: names of the image inputs among the arguments of the model's forward pass.
        arguments: names of all arguments of the forward pass.
    """
    if arrived or not collated:
        return None
    names = ", ".join(collated)
    return finding(
        "pixels-unused",
        f"the collator makes {names}, but {agree(len(collated), 'it does', 'they do')} not reach the model: its "
        f"forward is called with {', '.join(arguments)}",
        "pass the whole batch to the model: check for a list of columns, for remove_unused_columns, and for a "
        "compute_loss that selects keys",
        collated=list(collated),
        arguments=list(arguments),
    )
