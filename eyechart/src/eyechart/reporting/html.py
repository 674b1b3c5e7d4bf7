"""report.html: everything a run measured on one page, in one file that works offline and asks nothing of anyone.

The page is made from `Results` and image files alone, without a script. Figures come from `plots`, their sentences from
`readings`, their definitions from `definitions`; the template places them. All text is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from scipy.special import stdtrit

from eyechart.faults.table import FAULTS
from eyechart.reporting import plots, readings, text
from eyechart.reporting.definitions import DEFINITIONS
from eyechart.reporting.gallery import FULL_COLOUR, gap_of, make_gallery
from eyechart.reporting.plots import Bar
from eyechart.reporting.wording import between, estimated, percent, plain, signed
from eyechart.results import Ablation, Condition, Coverage, Decomposition, Finding, Matching, Results
from eyechart.settings import flatten

_GALLERY = 100
"""Cards where the config does not say."""
_MAX_PIXELS = 178_956_970
_FAIL_ERROR = 0.01
"""Chance of a wrong FAIL over all gates together, as in checks/verdict.py, which this room does not know."""
_STATES = {"good": "\u2713", "bad": "\u2717", "open": "?"}
_MARKS = {"PASS": "\u2713", "FAIL": "\u2717", "INCONCLUSIVE": "?"}
_SEVERITIES = ("error", "warning", "note")
_STOOD_FOR = {"shuffled": "Another picture", "zero": "Zeros", "noise": "Noise"}
_COUNTED = {"training": "training ", "audit of train": "training ", "audit of eval": "held-out "}
"""What samples are called by the beginning of `Coverage.source`; elsewhere they are just samples."""
_STANDINGS = {"good": "exceeds its margin", "bad": "does not exceed it", "open": "not decided"}


@dataclass(frozen=True)
class Figure:
    """A drawing, its sentence and where its terms are defined."""

    title: str
    svg: Markup
    reading: str
    definitions: tuple[str, ...]


@dataclass(frozen=True)
class Tile:
    """One of the figures that carry the verdict."""

    label: str
    value: str
    note: str
    state: str
    """`good`, `bad` or `open`: said in words as well as in colour."""
    state_text: str
    definition: str
    """Where its label leads."""
    primary: bool = False


@dataclass(frozen=True)
class FindingView:
    """A finding with the page it links to."""

    finding: Finding
    title: str
    page: str
    link: str | None
    evidence: list[tuple[str, str]]


def render_html(results: Results, image_root: Path | None = None, docs: str | None = None) -> str:
    """The page.

    Args:
        results: what to show; sections of what was not measured are left out, or say so.
        image_root: folder that the samples' image paths are relative to; the config's `data.image_root` if None.
        docs: relative URL of the documentation folder, for links to the faults' pages; without it they are only named.
    """
    ablation = results.ablation
    root = image_root or _image_root(results.config)
    limit = _setting(results.config, "ablation", "gallery")
    gallery = make_gallery(
        results.scored,
        limit if isinstance(limit, int) else _GALLERY,
        root,
        _setting(results.config, "data", "max_pixels") or _MAX_PIXELS,
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            ablation=ablation,
            mark=_MARKS[results.verdict],
            marks=_STATES,
            headline=readings.headline(results),
            pattern=readings.pattern(ablation),
            tiles=list(_tiles(results)),
            figures=dict(_figures(results)),
            conditions=list(ablation.conditions.items()) if ablation else [],
            standard_errors=any("+-" in reason for reason in results.reasons),
            gallery=gallery,
            unordered=_unordered(ablation),
            ablation_samples=ablation.samples if ablation else len(results.scored),
            full_colour=FULL_COLOUR,
            findings=_findings(results.diagnosis, docs),
            settings=[(key, _written(value)) for key, value in flatten(results.config).items()],
            definitions=DEFINITIONS,
        )
    )


def docs_link(folder: Path) -> str | None:
    """Relative URL from a page in `folder` to the documentation, where both are in the same source tree."""
    tree = Path(__file__).parents[4]
    if not (tree / "docs" / "faults").is_dir() or not folder.resolve().is_relative_to(tree):
        return None
    return Path(os.path.relpath(tree / "docs", folder.resolve())).as_posix()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eyechart.reporting"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": lambda value: text.isolated(text.one_line(str(value))),
        "portable": lambda value: text.isolated(text.without_folders(text.one_line(str(value)))),
        "signed": lambda value: "\u2013" if value is None else signed(value),
        "plain": lambda value: "\u2013" if value is None else plain(value),
        "percent": lambda value: "\u2013" if value is None else percent(value),
        "between": lambda ends: "\u2013" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}",
        "estimated": estimated,
        "count": lambda value: f"{value:,}",
    }
    return environment


def _setting(config: Mapping[str, Any], section: str, key: str) -> Any:
    node = config.get(section)
    return node.get(key) if isinstance(node, Mapping) else None


def _image_root(config: Mapping[str, Any]) -> Path | None:
    root = _setting(config, "data", "image_root")
    return Path(root) if isinstance(root, str) else None


def _written(value: Any) -> str:
    return text.without_folders(text.one_line("none" if value is None else str(value)))


def _unordered(ablation: Ablation | None) -> str:
    """Why the gallery cannot be ordered by a gap; said where it is not."""
    if ablation and "shuffled" in ablation.conditions:
        return "No sample has a finite gap of shuffled to order them by"
    return "Shuffled was not scored, so there is no gap to order them by"


def _tiles(results: Results) -> Iterator[Tile]:
    ablation, coverage = results.ablation, results.coverage
    if ablation:
        names = [name for name in readings.GATES if name in ablation.conditions]
        gates = [_gate_tile(name, ablation) for name in names]
        yield from gates[:1]
        if ablation.matching and ablation.matching.r_at_1.value is not None:
            yield _matching_tile(ablation.matching, ablation.matching.r_at_1.value)
        yield from gates[1:]
    if coverage:
        yield _coverage_tile(coverage)


def _gate_tile(name: str, ablation: Ablation) -> Tile:
    label, condition = f"{_STOOD_FOR[name]} ({name})", ablation.conditions[name]
    if condition.gap is None:
        return Tile(label, "no gap", "a loss is not finite", "bad", "not finite", "gap")
    limit = f"must exceed {condition.margin:g}" if condition.margin is not None else "not judged"
    sure = f"99% sure of {signed(condition.lower99)}, {limit}" if condition.lower99 is not None else limit
    state, primary = standing(condition, ablation), name == "shuffled"
    note = f"nats per token lost; {sure}"
    return Tile(label, signed(condition.gap), note, state, _STANDINGS[state], "gap", primary)


def standing(condition: Condition, ablation: Ablation) -> str:
    """`good`, `bad` or `open`: where a measured gate stands by the rules of check 1.

    Results hold its bound for a PASS. That for a FAIL follows from its standard error, at a level for all gates.
    """
    if readings.met(condition):
        return "good"
    if condition.gap is None or condition.se is None or condition.margin is None:
        return "open"
    conditions = (ablation.conditions.get(name) for name in readings.GATES)
    gates = sum(c is not None and c.gap is not None for c in conditions)
    upper = condition.gap + float(stdtrit(ablation.clusters - 1, 1 - _FAIL_ERROR / gates)) * condition.se
    return "bad" if upper <= condition.margin else "open"


def _matching_tile(matching: Matching, value: float) -> Tile:
    chance = 1 / matching.k
    low = matching.r_at_1.ci95[0] if matching.r_at_1.ci95 else value
    state, words = ("good", "above chance") if low > chance else ("bad", "not above chance")
    note = f"of {matching.captions:,} captions prefer their own among {matching.k} images; chance {percent(chance)}"
    return Tile("Own picture found (R@1)", percent(value), note, state, words, "matching", primary=True)


def _coverage_tile(coverage: Coverage) -> Tile:
    states = {"PASS": ("good", "within the limits"), "FAIL": ("bad", "too many")}
    state, words = states.get(coverage.verdict, ("open", "not decided"))
    note = f"of {coverage.samples:,} {_counted(coverage)}captions at max_seq_len {coverage.max_seq_len}"
    return Tile("Cut captions", f"{plain(coverage.truncated_pct)}%", note, state, words, "coverage")


def _counted(coverage: Coverage) -> str:
    """What comes before `captions` or `samples`: which they are."""
    return next((what for start, what in _COUNTED.items() if coverage.source.startswith(start)), "")


def _findings(diagnosis: list[Finding], docs: str | None) -> list[FindingView]:
    ordered = sorted(diagnosis, key=lambda finding: _SEVERITIES.index(finding.severity))
    views = []
    for finding in ordered:
        known = FAULTS.get(finding.code)
        page = f"faults/{finding.code}.md"
        evidence = [(key, _evidence(value)) for key, value in finding.evidence.items()]
        link = f"{docs}/{page}" if docs and known else None
        views.append(FindingView(finding, known.title if known else "", f"docs/{page}", link, evidence))
    return views


def _evidence(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_evidence(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_evidence(item)}" for key, item in value.items())
    return _written(value)


def _figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Every figure that the results have the figures for, by name."""
    if results.ablation:
        yield from _ablation_figures(results.ablation)
        yield from _sample_figures(results)
    training = results.training
    if training and training.curve:
        reading = readings.training_loss(training)
        svg = plots.training_loss(training.curve, training.looks, reading, "training-loss")
        yield "training-loss", Figure("Loss", svg, reading, ("loss", "looks"))
    if training and training.looks:
        margin = _setting(results.config, "ablation", "margin_shuffled") or 0.0
        reading = readings.training_gaps(training.looks, margin)
        svg = plots.training_gaps(training.looks, reading, "training-gaps")
        yield "training-gaps", Figure("Gaps at the looks", svg, reading, ("looks", "gap"))
    coverage = results.coverage
    if coverage:
        reading = readings.coverage(coverage)
        drawn = plots.lengths(coverage, reading, "lengths") if coverage.lengths else Markup()
        yield "lengths", Figure(f"Lengths of the {_counted(coverage)}samples", drawn, reading, ("coverage",))


def _ablation_figures(ablation: Ablation) -> Iterator[tuple[str, Figure]]:
    gates = [(name, ablation.conditions[name]) for name in readings.GATES if name in ablation.conditions]
    if gates:
        bars = [Bar(name, c.gap, c.ci95, c.margin) for name, c in gates]
        told = [
            f"{name} {signed(c.gap)}{between(c.ci95)}" if c.gap is not None else f"{name} none" for name, c in gates
        ]
        alt = f"Gaps in nats per token: {'; '.join(told)}."
        svg = plots.intervals(bars, "gap: nats per token lost without the right picture", "margin", alt, "gates")
        reading = "Only the first line depends on what is in the picture; a constant prompt passes the others."
        yield "gates", Figure("What taking the picture away costs", svg, reading, ("gap", "interval"))
    if ablation.order and "correct" in ablation.order:
        reading = readings.losses(ablation)
        svg = plots.losses(ablation.conditions, ablation.order, reading, "losses")
        yield "losses", Figure("Loss per condition", svg, reading, ("loss", "interval"))
    if ablation.decomposition:
        yield "decomposition", _decomposition(ablation.decomposition, ablation)
    matching = ablation.matching
    if matching:
        bars = [
            Bar("R@1", matching.r_at_1.value, matching.r_at_1.ci95, 1 / matching.k),
            Bar("hard R@1", matching.hard_r_at_1.value, matching.hard_r_at_1.ci95, 1 / matching.k),
            Bar("MRR", matching.mrr.value, matching.mrr.ci95),
        ]
        reading = readings.matching(matching)
        svg = plots.intervals(bars, "share of captions (MRR: mean)", "chance", reading, "matching", signs=False)
        yield "matching", Figure("Own picture among others", svg, reading, ("matching",))
        if matching.deciles:
            reading = readings.deciles(matching.deciles)
            svg = plots.deciles(matching.deciles, reading, "deciles")
            yield "deciles", Figure("Gap by likeness of the wrong picture", svg, reading, ("deciles",))
    inside = ablation.connector
    if inside:
        reading = readings.internals(inside)
        svg = plots.shares(inside.variance_share, "share of variance between images", reading, "internals")
        yield "internals", Figure("What is left of the differences between images", svg, reading, ("internals",))


def _decomposition(split: Decomposition, ablation: Ablation) -> Figure:
    """The parts that were measured: without zero there is no shock, without shuffled no misdirection."""
    parts = {"information": split.information, "shock": split.shock, "misdirection": split.misdirection}
    measured = {name: part for name, part in parts.items() if part.value is not None}
    bars = [Bar(name, part.value, part.ci95) for name, part in measured.items()]
    alt = "; ".join(f"{name} {estimated(part)}" for name, part in measured.items())
    svg = plots.intervals(bars, "nats per token", "", alt, "decomposition") if bars else Markup()
    reading = readings.decomposition(split)
    absent = [name for name in ("zero", "shuffled") if name not in ablation.conditions]
    if not split.blind_under_trained and absent:
        told = reading if split.sentences else "Information is what the picture tells beyond the best constant prompt."
        what = " and ".join(absent)
        rest = "were not scored: their gaps are" if len(absent) > 1 else "was not scored: its gap is"
        reading = f"{told} {what.capitalize()} {rest} not split."
    return Figure("The parts", svg, reading, ("decomposition",))


def _sample_figures(results: Results) -> Iterator[tuple[str, Figure]]:
    gaps = [gap for sample in results.scored if (gap := gap_of(sample)) is not None]
    if gaps and results.ablation:
        reading = readings.sample_gaps(gaps, results.ablation.samples)
        shuffled = results.ablation.conditions.get("shuffled")
        svg = plots.dots(gaps, shuffled.margin if shuffled else None, reading, "dots")
        yield "dots", Figure("Every sample", svg, reading, ("sample-gap",))
