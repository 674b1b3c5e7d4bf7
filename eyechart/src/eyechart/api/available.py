"""Decides which conditions can be scored for a model, and returns remarks that explain why others cannot.

A condition states what replaces the right picture: another sample's picture, zeros, noise, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from eyechart.reporting.remarks import sentence
from eyechart.results import DoorName, Finding, Remark, RemarkCode
from eyechart.scoring.conditions import OF_TOKENS

_NOT_HERE: dict[str, RemarkCode] = {"blind": "blind-not-trained-here", "donors": "donors-need-tower-features"}
"""The conditions that only models trained by qwen3_vlm have, each with the remark that explains this."""


def is_own(scorer: object) -> bool:
    """Return whether a scorer's class is defined in eyechart itself.

    Some methods of a scorer can disable a check. These methods are only used if the scorer is eyechart's own.
    """
    return type(scorer).__module__.startswith("eyechart.models.")


@runtime_checkable
class Limited(Protocol):
    """A scorer for batches that a trainer's collator made. Some conditions cannot be scored with it."""

    @property
    def unavailable(self) -> Mapping[str, RemarkCode]:
        """Return the conditions that this scorer does not support, each with the remark that explains why."""
        ...

    def batch_findings(self) -> Sequence[Finding]:
        """Return the faults that are visible in the scorer's batches without a forward pass."""
        ...


def unavailable_of(
    train_data: Path | None, scorer: object, layers: int = 1, door: DoorName | None = None
) -> dict[str, RemarkCode]:
    """Return the conditions that cannot be scored, each with the remark that explains why.

    Args:
        train_data: the data file for the condition `mean-token`, in which each visual token is the average over the
            images of this file.
        scorer: the scorer, or the name of a model if it is not loaded yet.
        layers: the number of layers of the language model that receive visual tokens.
        door: the way in which the model's images are replaced; None if it is not known yet.
    """
    codes = dict(_NOT_HERE)
    if isinstance(scorer, Limited):
        codes |= scorer.unavailable
    elif train_data is None:
        codes["mean-token"] = "mean-needs-train-data"
    if door == "pixels":
        codes |= dict.fromkeys(OF_TOKENS, "not-for-pixels")
    if layers > 1:
        codes.setdefault("mean-token", "mean-of-several-depths")
    return codes


def left_out_of(names: Sequence[str], codes: Mapping[str, RemarkCode]) -> list[Remark]:
    """Return a remark for each requested condition that cannot be scored for this model.

    Args:
        names: the requested conditions.
        codes: the conditions that cannot be scored, as `unavailable_of` returns them.

    Raises:
        ValueError: of the requested conditions, only `correct` (the right picture) can be scored.
    """
    found = [Remark(code=code, about=name, left_out=True) for name, code in codes.items() if name in names]
    if found and not set(names) - {"correct", *(remark.about for remark in found)}:
        listed = " ".join(f"{remark.about}: {sentence(remark)}" for remark in found)
        raise ValueError(
            f"--conditions: only `correct` can be scored here ({listed}); name other conditions, such as runbook"
        )
    return found
