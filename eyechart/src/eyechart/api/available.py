"""Which conditions are available for a model, and remarks that explain why others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from eyechart.reporting.remarks import sentence
from eyechart.results import DoorName, Finding, Remark, RemarkCode
from eyechart.scoring.conditions import OF_TOKENS

_NOT_HERE: dict[str, RemarkCode] = {"blind": "blind-not-trained-here", "donors": "donors-need-tower-features"}
"""Conditions that are only available for models trained by qwen3_vlm, with the remark that gives the reason."""


def is_own(scorer: object) -> bool:
    """Return whether a scorer is one of eyechart's own. Only for these can a method disable a check."""
    return type(scorer).__module__.startswith("eyechart.models.")


@runtime_checkable
class Limited(Protocol):
    """A scorer for batches that a collator made; some conditions are not available for it."""

    @property
    def unavailable(self) -> Mapping[str, RemarkCode]:
        """The conditions that are not available for it, with the remark that gives the reason."""
        ...

    def batch_findings(self) -> Sequence[Finding]:
        """Return the faults that are visible in its batches without a forward pass."""
        ...


def unavailable_of(
    train_data: Path | None, scorer: object, layers: int = 1, door: DoorName | None = None
) -> dict[str, RemarkCode]:
    """Return the conditions that are not available, with the remark that gives the reason.

    Args:
        train_data: data file whose images are averaged for `mean-token`.
        scorer: the scorer, or the name of a model that is not loaded yet.
        layers: number of layers at which the language model receives visual tokens.
        door: how the model's images are replaced; None if it is not known yet.
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
    """Return a remark with the reason for each requested condition that is not available for this model.

    Raises:
        ValueError: only `correct` remains.
    """
    found = [Remark(code=code, about=name, left_out=True) for name, code in codes.items() if name in names]
    if found and not set(names) - {"correct", *(remark.about for remark in found)}:
        listed = " ".join(f"{remark.about}: {sentence(remark)}" for remark in found)
        raise ValueError(
            f"--conditions: only `correct` can be scored here ({listed}); name other conditions, such as runbook"
        )
    return found
