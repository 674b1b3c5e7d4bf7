"""Makes the figures of the page: each has a drawing, sentences about it, and links to the definitions of its terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from eyechart.reporting import plots, readings
from eyechart.reporting.conclusions import said
from eyechart.reporting.gallery import gap_of
from eyechart.reporting.looks import read_onset
from eyechart.reporting.plots import Bar
from eyechart.reporting.tiles import counted
from eyechart.reporting.wording import between, estimated, signed
from eyechart.results import Ablation, Decomposition, Results


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, the sentences about it, and the keys of the definitions of its terms."""

    title: str
    svg: Markup
    reading: str
    definitions: tuple[str, ...]


def figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each part of the results for which there are data."""
    if results.ablation:
        yield from _ablation_figures(results, results.ablation)
        yield from _sample_figures(results)
    training = results.training
    if training and training.curve:
        reading = readings.training_loss(training)
        svg = plots.training_loss(training.curve, training.looks, reading, "training-loss")
        yield "training-loss", Figure("Loss", svg, reading, ("loss", "looks"))
    if training and training.looks:
        reading = read_onset(training.looks)
        svg = plots.training_gaps(training.looks, reading, "training-gaps")
        yield "training-gaps", Figure("Gaps at the looks", svg, reading, ("looks", "gap"))
    coverage = results.coverage
    if coverage:
        reading = said(results, "coverage") + _then(readings.coverage(coverage))
        drawn = plots.lengths(coverage, reading, "lengths") if coverage.lengths else Markup()
        yield "lengths", Figure(f"Lengths of the {counted(coverage)}samples", drawn, reading, ("coverage",))


def _ablation_figures(results: Results, ablation: Ablation) -> Iterator[tuple[str, Figure]]:
    gates = [(name, ablation.conditions[name]) for name in readings.GATES if name in ablation.conditions]
    if gates:
        bars = [Bar(name, c.gap, c.ci95, c.margin) for name, c in gates]
        told = [
            f"{name} {signed(c.gap)}{between(c.ci95)}" if c.gap is not None else f"{name} none" for name, c in gates
        ]
        alt = f"Gaps in nats per token: {'; '.join(told)}."
        svg = plots.intervals(bars, "gap: nats per token lost without the right picture", "margin", alt, "gates")
        reading = "Only the first gap depends on the content of the picture; a constant prompt can pass the other two."
        yield "gates", Figure("Cost of removing the picture", svg, reading, ("gap", "interval"))
    if ablation.order and "correct" in ablation.order:
        reading = readings.losses(results, ablation)
        svg = plots.losses(ablation.conditions, ablation.order, reading, "losses")
        reading += _then(readings.unigram(ablation))
        yield "losses", Figure("Loss per condition", svg, reading, ("loss", "interval", "unigram"))
    if ablation.decomposition:
        yield "decomposition", _decomposition(results, ablation.decomposition, ablation)
    matching = ablation.matching
    if matching:
        bars = [
            Bar("R@1", matching.r_at_1.value, matching.r_at_1.ci95, 1 / matching.k),
            Bar("hard R@1", matching.hard_r_at_1.value, matching.hard_r_at_1.ci95, 1 / matching.k),
            Bar("MRR", matching.mrr.value, matching.mrr.ci95),
        ]
        reading = said(results, "matching") + _then(said(results, "twins"))
        svg = plots.intervals(bars, "share of captions (MRR: mean)", "chance", reading, "matching", signs=False)
        yield "matching", Figure("Own picture among others", svg, reading, ("matching",))
        if matching.deciles:
            reading = said(results, "likeness")
            svg = plots.deciles(matching.deciles, reading, "deciles")
            yield "deciles", Figure("Gap by similarity of the wrong picture", svg, reading, ("deciles",))
    inside = ablation.connector
    if inside:
        reading = readings.internals(inside)
        svg = plots.shares(inside.variance_share, "share of variance between images", reading, "internals")
        yield "internals", Figure("Differences between images at each stage", svg, reading, ("internals",))


def _then(sentence: str) -> str:
    return f" {sentence}" if sentence else ""


def _decomposition(results: Results, split: Decomposition, ablation: Ablation) -> Figure:
    """Draw those parts of the gaps that were measured.

    Shock is measured only if the condition zero was scored, and misdirection only if shuffled was.
    """
    parts = {"information": split.information, "shock": split.shock, "misdirection": split.misdirection}
    measured = {name: part for name, part in parts.items() if part.value is not None}
    bars = [Bar(name, part.value, part.ci95) for name, part in measured.items()]
    alt = "; ".join(f"{name} {estimated(part)}" for name, part in measured.items())
    svg = plots.intervals(bars, "nats per token", "", alt, "decomposition") if bars else Markup()
    reading = said(results, "information") + _then(readings.decomposition(split, ablation))
    absent = [name for name in ("zero", "shuffled") if name not in ablation.conditions]
    if not split.blind_under_trained and absent:
        rest = "were not scored: their gaps are" if len(absent) > 1 else "was not scored: its gap is"
        reading = f"{reading} {' and '.join(absent).capitalize()} {rest} not split."
    return Figure("Parts of the gaps", svg, reading, ("decomposition",))


def _sample_figures(results: Results) -> Iterator[tuple[str, Figure]]:
    gaps = [gap for sample in results.scored if (gap := gap_of(sample)) is not None]
    if gaps and results.ablation:
        reading = readings.sample_gaps(gaps, results.ablation.samples)
        shuffled = results.ablation.conditions.get("shuffled")
        svg = plots.dots(gaps, shuffled.margin if shuffled else None, reading, "dots")
        yield "dots", Figure("Gap of each sample", svg, reading, ("sample-gap",))
