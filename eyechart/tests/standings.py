"""Check 1 from gaps and standard errors alone, judged by the verdict's own functions: no fixture contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyechart.results import Ablation, Condition, Estimated
from eyechart.verdict.conclusions import conclude
from eyechart.verdict.pair_statistics import as_result
from eyechart.verdict.standing import Stand, stand_gap, unmoved
from eyechart.verdict.statistics import Estimate
from eyechart.verdict.verdict import Counts, Gate, Missing, judge

MARGINS = {"shuffled": 0.05, "zero": 0.0, "noise": 0.0}
Gap = tuple[float, float | None]
"""A gap and its standard error, in nats per token."""


def held(name: str, correct: float, gap: Gap, gates: int = 3, samples: int = 100, **figures: Any) -> Condition:
    """One condition; a gate is judged as one of so many."""
    estimate = Estimate(*gap, samples, samples)
    return condition_of(correct, estimate, _gate(name, estimate, gates), **figures)


def condition_of(correct: float, estimate: Estimate, gate: Gate | None, **figures: Any) -> Condition:
    """As `scoring.summary` writes it."""
    stand: Stand = gate.stand if gate else stand_gap(estimate)
    return Condition(
        loss=correct + estimate.gap,
        gate=gate is not None,
        gap=estimate.gap,
        se=estimate.se,
        ci95=estimate.interval(0.95),
        margin=stand.margin,
        lower99=stand.lower,
        upper=stand.upper,
        upper_level=stand.upper_level,
        standing=stand.standing,
        above_zero=stand.lower is not None and stand.lower > 0 and not unmoved(estimate.gap, estimate.se),
        needed_samples=gate.needed if gate else None,
        **figures,
    )


def checked(
    gaps: Mapping[str, Gap],
    correct: float = 0.8,
    samples: int = 100,
    requested: int | None = None,
    missing: Missing | None = None,
    beyond: Mapping[str, Gap] | None = None,
    **changes: Any,
) -> Ablation:
    """Check 1 of these gaps; `beyond` are those of shuffled over conditions without content."""
    estimates = {name: Estimate(*gap, samples, samples) for name, gap in gaps.items()}
    gates = {name: _gate(name, e, len(MARGINS.keys() & gaps)) for name, e in estimates.items() if name in MARGINS}
    judgement = judge(
        [gate for gate in gates.values() if gate is not None],
        [],
        missing or Missing(left_out=tuple(MARGINS.keys() - gaps.keys())),
        Counts(samples, requested or samples, changes.get("available")),
    )
    conditions = {"correct": Condition(loss=correct)}
    conditions |= {name: condition_of(correct, e, gates.get(name)) for name, e in estimates.items()}
    losses = {name: c.loss for name, c in conditions.items() if c.loss is not None}
    fields: dict[str, Any] = {
        "verdict": judgement.verdict,
        "reasons": judgement.reasons,
        "samples": samples,
        "requested": requested or samples,
        "label_tokens": 14 * samples,
        "clusters": samples,
        "seed": 0,
        "derangements": 4,
        "conditions": conditions,
        "order": sorted(losses, key=lambda name: losses[name]),
        "shuffled_beyond": {name: estimated(*gap, samples=samples) for name, gap in (beyond or {}).items()},
        "needed_samples": judgement.needed_samples,
    }
    return Ablation(**{**fields, **changes})


def estimated(value: float, se: float | None, margin: float = 0.0, samples: int = 100) -> Estimated:
    """A figure with its standing."""
    return as_result(Estimate(value, se, samples, samples), margin)


def codes_of(ablation: Ablation) -> dict[str, str]:
    """What check 1 allows to say, by topic; of several comparisons the last."""
    return {conclusion.topic: conclusion.code for conclusion in conclude(ablation, None)}


def _gate(name: str, estimate: Estimate, gates: int) -> Gate | None:
    return Gate.of(name, MARGINS[name], estimate, gates) if name in MARGINS else None
