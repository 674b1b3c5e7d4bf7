"""The figures that carry the verdict, each with where it stands, in words as well as in colour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scipy.special import stdtrit

from eyechart.reporting import readings
from eyechart.reporting.wording import percent, plain, signed
from eyechart.results import Ablation, Condition, Coverage, Matching, Results

_FAIL_ERROR = 0.01
"""Chance of a wrong FAIL over all gates together, as in `verdict.verdict`."""
_STOOD_FOR = {"shuffled": "Another picture", "zero": "Zeros", "noise": "Noise"}
_COUNTED = {"training": "training ", "audit of train": "training ", "audit of eval": "held-out "}
"""What samples are called by the beginning of `Coverage.source`; those of a model not trained here are just samples."""
_STANDINGS = {"good": "exceeds its margin", "bad": "does not exceed it", "open": "not decided"}


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


def tiles(results: Results) -> Iterator[Tile]:
    """The tiles of the first screen: the primary gate, matching, the other gates, coverage."""
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
    note = f"of {coverage.samples:,} {counted(coverage)}captions at max_seq_len {coverage.max_seq_len}"
    return Tile("Cut captions", f"{plain(coverage.truncated_pct)}%", note, state, words, "coverage")


def counted(coverage: Coverage) -> str:
    """What comes before `captions` or `samples`: which they are."""
    return next((what for start, what in _COUNTED.items() if coverage.source.startswith(start)), "")
