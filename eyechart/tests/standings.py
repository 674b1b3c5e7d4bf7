"""Results from gaps, standard errors and counts alone, judged by the verdict's own functions.

So no fixture contradicts itself: no verdict, standing, reason or conclusion is written by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eyechart.results import Ablation, Condition, Coverage, Decomposition, Estimated, Results
from eyechart.rows import CollateStats
from eyechart.settings import CoverageSettings
from eyechart.verdict.conclusions import conclude
from eyechart.verdict.coverage import Counted, judge_coverage
from eyechart.verdict.overall import overall
from eyechart.verdict.pair_statistics import as_result
from eyechart.verdict.standing import stand
from eyechart.verdict.statistics import Estimate
from eyechart.verdict.verdict import Counts, Gate, Missing, judge, judged_figures

MARGINS = {"shuffled": 0.05, "zero": 0.0, "noise": 0.0}
Gap = tuple[float, float | None]
"""A gap and its standard error, in nats per token."""


def held(name: str, correct: float, gap: Gap, gates: int = 3, samples: int = 100, **figures: Any) -> Condition:
    """One condition; a gate is judged as one of so many."""
    estimate = Estimate(*gap, samples, samples)
    return condition_of(correct, estimate, _gate(name, estimate, gates), **figures)


def condition_of(correct: float, estimate: Estimate, gate: Gate | None, **figures: Any) -> Condition:
    """As `scoring.summary` writes it."""
    return Condition(loss=correct + estimate.gap, gate=gate is not None, **judged_figures(estimate, gate), **figures)


def checked(
    gaps: Mapping[str, Gap],
    correct: float = 0.8,
    samples: int = 100,
    requested: int | None = None,
    missing: Missing | None = None,
    beyond: Mapping[str, Gap] | None = None,
    not_finite: Sequence[str] = (),
    **changes: Any,
) -> Ablation:
    """Check 1 of these gaps.

    Args:
        gaps: of the scored conditions.
        correct: loss with the right picture, nats per token.
        samples: scored; distinct images too, unless `clusters` is given.
        requested: samples asked for.
        missing: what was not measured; by default the gates without a gap were left out.
        beyond: gaps of shuffled over conditions without content.
        not_finite: conditions with a loss that is not finite; `correct` leaves no gap at all.
        **changes: other fields.
    """
    clusters = changes.get("clusters", samples)
    finite = {name: gap for name, gap in gaps.items() if name not in not_finite}
    measured = {} if "correct" in not_finite else finite
    estimates = {name: Estimate(*gap, samples, clusters) for name, gap in measured.items()}
    gates = {name: _gate(name, e, len(MARGINS.keys() & measured)) for name, e in estimates.items() if name in MARGINS}
    left_out = MARGINS.keys() - {*gaps, *not_finite} if samples else ()
    judgement = judge(
        [gate for gate in gates.values() if gate is not None],
        not_finite,
        missing or Missing(left_out=tuple(name for name in MARGINS if name in left_out)),
        Counts(samples, requested or samples, changes.get("available")),
    )
    conditions = {"correct": Condition(loss=correct)} if samples else {}
    conditions |= {name: Condition(loss=correct + gap, gate=name in MARGINS) for name, (gap, _) in finite.items()}
    conditions |= {name: condition_of(correct, e, gates.get(name)) for name, e in estimates.items()}
    conditions |= {name: Condition(loss=None, gate=name in MARGINS) for name in not_finite}
    losses = {name: c.loss for name, c in conditions.items() if c.loss is not None}
    fields: dict[str, Any] = {
        "verdict": judgement.verdict,
        "reasons": judgement.reasons,
        "samples": samples,
        "requested": requested or samples,
        "label_tokens": 14 * samples,
        "clusters": clusters,
        "seed": 0,
        "derangements": 4,
        "conditions": conditions,
        "order": sorted(losses, key=lambda name: losses[name]),
        "shuffled_beyond": {name: estimated(*gap, samples=samples) for name, gap in (beyond or {}).items()},
        "needed_samples": judgement.needed_samples,
        "rejected": dict(missing.unscored) if missing else {},
    }
    return Ablation(**{**fields, **changes})


def covered(
    lengths: Mapping[int, int], max_seq_len: int = 512, zero_label: int = 0, block: int = 66, **counted: Any
) -> Coverage:
    """Check 2 of these lengths (a histogram, in tokens), with the limits of the default settings.

    Args:
        lengths: before the cut; those over `max_seq_len` are truncated.
        max_seq_len: the limit, in tokens.
        zero_label: samples without a label token.
        block: tokens of the image block.
        **counted: other fields of `Counted`.
    """
    samples = sum(lengths.values())
    stats = CollateStats(
        samples=samples,
        truncated=sum(count for length, count in lengths.items() if length > max_seq_len),
        zero_label=zero_label,
        label_tokens=131 * samples // 10,
        lengths=Counter(lengths),
    )
    fields: dict[str, Any] = {"source": "training", "split": "train", "epoch": 3} if "source" not in counted else {}
    fields |= {"rejected": {}, "image_cut": 0, "wrapper_tokens": 7.5, **counted}
    found = Counted(stats=stats, max_seq_len=max_seq_len, block_tokens=block, **fields)
    return judge_coverage(found, CoverageSettings())


def results_of(ablation: Ablation | None = None, coverage: Coverage | None = None, **changes: Any) -> Results:
    """Results of these checks: the verdict over both, and what it allows to say."""
    found = changes.get("diagnosis", ())
    fields = {"verdict": overall(ablation, coverage, found), "conclusions": conclude(ablation, coverage, found)}
    return Results(ablation=ablation, coverage=coverage, **fields, **changes)


def share(value: float, se: float = 0.02, chance: float | None = None) -> Estimated:
    """A share of the captions, held against chance where that is given."""
    found = estimated(value, se, chance or 0.0)
    assert found.ci95 is not None and found.lower99 is not None and found.upper99 is not None
    lower, upper = max(0.0, found.lower99), min(1.0, found.upper99)
    standing = None if chance is None else stand(lower, upper, chance)
    ends = (max(0.0, found.ci95[0]), min(1.0, found.ci95[1]))
    held = {"ci95": ends, "margin": chance, "lower99": lower, "upper99": upper, "standing": standing}
    return found.model_copy(update=held)


def split_of(gaps: Mapping[str, Gap], se: float = 0.02, rival: str = "no-image", **changes: Any) -> Decomposition:
    """What the gaps of zero and shuffled are made of, by the gap of the blind prompt; nothing if that is worse."""
    blind, nothing = gaps["blind"][0], Estimated(value=None)
    deficit = estimated(blind - gaps[rival][0], se) if rival in gaps else None
    short = deficit is not None and deficit.standing == "costs"
    parts = {"information": ("blind", 0.0), "shock": ("zero", blind), "misdirection": ("shuffled", blind)}
    fields: dict[str, Any] = {
        part: nothing if short or name not in gaps else estimated(gaps[name][0] - taken, se)
        for part, (name, taken) in parts.items()
    }
    fields |= {"blind_rival": rival if deficit else None, "blind_deficit": deficit, "blind_captions": 4096}
    return Decomposition(**{**fields, **changes})


def estimated(value: float, se: float | None, margin: float = 0.0, samples: int = 100) -> Estimated:
    """A figure with its standing."""
    return as_result(Estimate(value, se, samples, samples), margin)


def codes_of(ablation: Ablation) -> dict[str, str]:
    """What check 1 allows to say, by topic; of several comparisons the last."""
    return {conclusion.topic: conclusion.code for conclusion in conclude(ablation, None)}


def _gate(name: str, estimate: Estimate, gates: int) -> Gate | None:
    return Gate.of(name, MARGINS[name], estimate, gates) if name in MARGINS else None
