"""Writes the lines about a training run in another framework, and selects the figures for experiment trackers.

A *look* is a quick measurement on a few samples during training. A *finding* is a suspected fault and its fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eyechart.reporting.wording import number
from eyechart.results import Finding, Look


@dataclass(frozen=True)
class Passage:
    """How far into the model the images of one forward pass had an effect."""

    forward: int
    """The number of the forward pass, counted from 1."""
    inputs: tuple[str, ...]
    """The names of the image inputs that the forward pass received; empty if it received none."""
    read: bool | None = None
    """True if the output of at least one module depends on the pixels, False if none does; None if this was not
    tested."""
    output_change: float | None = None
    """The largest absolute change of any logit when the sign of all pixel values is flipped; None if this was not
    tested."""
    last_module: str = ""
    """The name of the last module in the forward pass whose output depends on the pixels."""


def first_batch_lines(found: Sequence[Finding]) -> list[str]:
    """Return a heading and one line for each finding in the first batch, the most likely fault first."""
    if not found:
        return ["eyechart: first batch: no fault found"]
    lines = [f"eyechart: first batch: {number(len(found), 'finding')}"]
    return lines + [f"  {one.severity} {one.code}: {one.message}. Fix: {one.fix}" for one in found]


def stop_line(fatal: Sequence[Finding]) -> str:
    """Return the message of the error that stops the training because of fatal findings."""
    codes = ", ".join(one.code for one in fatal)
    return (
        f"eyechart: the training was stopped before its first update: {codes}: {fatal[0].message}. Fix: "
        f"{fatal[0].fix}. To train nevertheless, pass watching=eyechart.Watching(stop='never')"
    )


def plan_line(rows: int, source: str, steps: Sequence[int]) -> str:
    """Return a line that states the rows and the steps of the planned looks."""
    listed = ", ".join(map(str, steps[:7])) + (", ..." if len(steps) > 7 else "")
    return f"eyechart: looks at {number(rows, f'{source} row')}, at step {listed}"


def failure_line(what: str, error: Exception) -> str:
    """Return a line about an error in a measurement, after which the training continues."""
    text = " ".join(str(error).split())[:300]
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"eyechart: no {what}: {kind}{text}"


def tracker_figures(look: Look) -> dict[str, float]:
    """Return the figures of a look by name; experiment trackers group the names by their common prefix `eyechart/`."""
    figures = {
        "loss_correct": look.correct,
        "gap_shuffled": look.gap_shuffled,
        "gap_shuffled_lower": look.lower_shuffled,
        "gap_shuffled_upper": look.upper_shuffled,
        "seconds": look.seconds,
    }
    return {f"eyechart/{name}": value for name, value in figures.items() if value is not None}


def watch_line(passage: Passage) -> str:
    """Return a line about how far into the model the images of one forward pass had an effect."""
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
