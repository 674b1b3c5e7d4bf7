"""Sentences about a training run of another stack, and the figures for its trackers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyechart.reporting.wording import number
from eyechart.results import Finding, Look


@dataclass(frozen=True)
class Passage:
    """How far the images of one forward pass reached into the model."""

    forward: int
    """Number of the forward pass, from 1."""
    inputs: tuple[str, ...]
    """Names of the image inputs that arrived; empty if there are none."""
    read: bool | None = None
    """Whether the output of at least one module depends on the pixels; None if this was not tested."""
    output_change: float | None = None
    """Largest absolute change of a logit when pixels are negated; None if this was not tested."""
    last_module: str = ""
    """The last module of the forward pass whose output depends on the pixels."""


def first_batch_lines(found: Sequence[Finding]) -> list[str]:
    """Return the findings of the first batch as lines, the most likely fault first."""
    if not found:
        return ["eyechart: first batch: no fault found"]
    lines = [f"eyechart: first batch: {number(len(found), 'finding')}"]
    return lines + [f"  {one.severity} {one.code}: {one.message}. Fix: {one.fix}" for one in found]


def stop_line(fatal: Sequence[Finding]) -> str:
    """Return the message of the error that stops the training."""
    codes = ", ".join(one.code for one in fatal)
    return (
        f"eyechart: the training was stopped before its first update: {codes}: {fatal[0].message}. Fix: "
        f"{fatal[0].fix}. To train nevertheless, pass watching=eyechart.Watching(stop='never')"
    )


def plan_line(rows: int, source: str, steps: Sequence[int]) -> str:
    """Return a line about the planned looks."""
    listed = ", ".join(map(str, steps[:7])) + (", ..." if len(steps) > 7 else "")
    return f"eyechart: looks at {number(rows, f'{source} row')}, at step {listed}"


def failure_line(what: str, error: Exception) -> str:
    """Return a line about an error that does not end the training."""
    text = " ".join(str(error).split())[:300]
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"eyechart: no {what}: {kind}{text}"


def tracker_figures(look: Look) -> dict[str, float]:
    """Return the figures of a look; their names have the common prefix `eyechart/`, by which trackers group them."""
    figures = {
        "loss_correct": look.correct,
        "gap_shuffled": look.gap_shuffled,
        "gap_shuffled_lower": look.lower_shuffled,
        "gap_shuffled_upper": look.upper_shuffled,
        "seconds": look.seconds,
    }
    return {f"eyechart/{name}": value for name, value in figures.items() if value is not None}


def watch_line(passage: Passage) -> str:
    """Return a line about how far the images of one forward pass reached into the model."""
    start = f"forward {passage.forward}: "
    if not passage.inputs:
        return start + "no images arrive (the model's forward pass gets no pixels)"
    arrived = f"{start}images arrive ({', '.join(passage.inputs)})"
    if passage.read is None:
        return f"{arrived} again"
    if not passage.read:
        return f"{arrived}, but no module's output depends on them: the model does not encode its images"
    if passage.output_change is None:
        return f"{arrived} and are encoded; the forward pass returns no logits, so their effect was not tested"
    if passage.output_change == 0:
        return (
            f"{arrived} and are encoded, but the logits do not depend on them; the last module that does is "
            f"{passage.last_module}"
        )
    return f"{arrived}, are encoded and change the logits by up to {passage.output_change:.3g}"
