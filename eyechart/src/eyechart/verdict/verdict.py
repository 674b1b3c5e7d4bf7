"""Decides the verdict of check 1 (PASS, FAIL or INCONCLUSIVE), with reasons, from the standings of the gates.

A gate is a condition that decides the verdict: another input takes the place of the picture, and the gap is the rise of
the loss. The standing of a gate says whether its gap exceeds the margin.

PASS: every gate has the standing `costs`. All gates are required, so no correction for multiple tests is needed.
FAIL: at least one gate is `ruled out`, or a scored loss is not finite. The upper bound of a gate has the confidence
1 - 0.01/(number of gates). A gap of exactly 0 with no spread is ruled out.
INCONCLUSIVE: neither of these, or every measured gate has the standing `costs` but something was not measured. A
measurement is missing if a gate is not in `--conditions`, if there were too few donors (samples that provide wrong
pictures), or if a requested held-out sample could not be scored (unreadable image, no label token).

Whether a row can be scored may be related to its content, so a PASS based on the other samples would claim more than
was measured. A held-out split that is smaller than requested causes only a warning, because every sample in it was
scored. Missing measurements do not prevent a FAIL.

`standing` decides the standing of each gate. The verdict depends on the standings and not on the bounds themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eyechart.results import Reason, Verdict
from eyechart.verdict.standing import LEVEL, Stand, shared_level, stand_gap, unmoved
from eyechart.verdict.statistics import Estimate, needed_samples

SMALLEST_SET = 64
"""Smallest number of held-out samples that the runbook (the procedure of check 1) allows. For fewer samples, the normal
quantiles of the sample-size formula are too small."""


@dataclass(frozen=True)
class Gate:
    """A gate whose gap was measured."""

    name: str
    estimate: Estimate
    stand: Stand

    @classmethod
    def of(cls, name: str, margin: float, estimate: Estimate, gates: int) -> Gate:
        """Create a gate and decide its standing; `margin` is in nats per token.

        The confidence level allows for `gates` gates being tested together.
        """
        return cls(name, estimate, stand_gap(estimate, margin, shared_level(gates)))

    @property
    def needed(self) -> int | None:
        """The number of samples that would separate an open gap from its margin if the estimate is the true gap."""
        estimate, margin = self.estimate, self.stand.margin
        if self.stand.standing != "open" or estimate.sd is None:
            return None
        level = LEVEL if estimate.gap > margin else self.stand.upper_level
        size = needed_samples(estimate.sd, estimate.gap, margin, level)
        return None if size is None else max(size, estimate.samples + 1, SMALLEST_SET)


def judged_figures(estimate: Estimate, gate: Gate | None) -> dict[str, Any]:
    """Return the fields of `results.Condition` that follow from a gap; the margin is 0 without a gate."""
    held = gate.stand if gate else stand_gap(estimate)
    return {
        "gap": estimate.gap,
        "se": estimate.se,
        "ci95": estimate.interval(0.95),
        "margin": held.margin,
        "lower99": held.lower,
        "upper": held.upper,
        "upper_level": held.upper_level,
        "standing": held.standing,
        "above_zero": held.above_zero,
        "needed_samples": gate.needed if gate else None,
    }


@dataclass(frozen=True)
class Missing:
    """The measurements that are missing."""

    left_out: Sequence[str] = ()
    """Gates that were not requested."""
    donor_shortage: Mapping[str, int] = field(default_factory=dict)
    """Figures that explain why there are fewer derangements (assignments of donors to samples) than requested, as in
    `Donors.shortage`; empty if there are enough."""
    unscored: Mapping[str, int] = field(default_factory=dict)
    """Number of held-out samples that could not be scored, by reason."""


@dataclass(frozen=True)
class Judgement:
    """The verdict of check 1 with its reasons."""

    verdict: Verdict
    reasons: list[Reason]
    needed_samples: int | None
    """Number of samples that would decide an INCONCLUSIVE verdict; None if more samples would not decide it."""


@dataclass(frozen=True)
class Counts:
    """The numbers of samples that were scored, requested and available."""

    scored: int
    requested: int
    available: int | None = None
    """Number of samples available; None if unknown."""


def judge(gates: Sequence[Gate], non_finite: Sequence[str], missing: Missing, counts: Counts) -> Judgement:
    """Decide the verdict of check 1 by the rules in the docstring of this module.

    Args:
        gates: the measured gates, without any gate that has a non-finite loss.
        non_finite: conditions with a loss that is NaN or infinite.
        missing: what was not measured.
        counts: numbers of samples.
    """
    failures = [Reason(code="not-finite", effect="fails", about=name) for name in non_finite]
    failures += [_failed(gate) for gate in gates if gate.stand.standing == "ruled out"]
    open_gates = [gate for gate in gates if gate.stand.standing == "open"]
    undecided = [*map(_undecided, open_gates), *_unmeasured(missing, counts.scored)]
    passes = [
        Reason(code="gap-costs", effect="passes", about=gate.name) for gate in gates if gate.stand.standing == "costs"
    ]
    warnings = []
    if counts.requested > counts.scored:
        figures = {"requested": counts.requested, "scored": counts.scored, "unscored": sum(missing.unscored.values())}
        warnings.append(Reason(code="fewer-than-requested", effect="warns", figures=figures))
    verdict: Verdict = "FAIL" if failures else "INCONCLUSIVE" if undecided or not gates else "PASS"
    size = _overall(open_gates) if verdict == "INCONCLUSIVE" else None
    return Judgement(verdict, failures + undecided + passes + warnings, size)


def _failed(gate: Gate) -> Reason:
    unchanged = unmoved(gate.estimate.gap, gate.estimate.se)
    return Reason(code="gap-unmoved" if unchanged else "gap-ruled-out", effect="fails", about=gate.name)


def _undecided(gate: Gate) -> Reason:
    if gate.estimate.se is not None:
        return Reason(code="gap-open", effect="undecided", about=gate.name)
    figures = {"samples": gate.estimate.samples, "images": gate.estimate.clusters}
    return Reason(code="one-distinct-image", effect="undecided", about=gate.name, figures=figures)


def _overall(gates: Sequence[Gate]) -> int | None:
    """Return the number of samples that would decide the verdict.

    If a gap is below its margin, deciding this gate is enough (FAIL); otherwise every gate must be decided (PASS).
    """
    needed = [(gate, gate.needed) for gate in gates]
    if any(size is None for _, size in needed):
        return None
    failing = [size for gate, size in needed if size is not None and gate.estimate.gap < gate.stand.margin]
    return min(failing) if failing else max((size for _, size in needed if size is not None), default=None)


def _unmeasured(missing: Missing, samples: int) -> list[Reason]:
    reasons = []
    if samples == 0:
        reasons.append(Reason(code="nothing-scored", effect="undecided"))
    if missing.left_out:
        reasons.append(Reason(code="gates-not-scored", effect="undecided", figures={"gates": [*missing.left_out]}))
    if missing.donor_shortage:
        reasons.append(Reason(code="too-few-donors", effect="undecided", figures=dict(missing.donor_shortage)))
    if missing.unscored:
        counted = dict(sorted(missing.unscored.items()))
        reasons.append(Reason(code="samples-not-scored", effect="undecided", figures={"by_reason": counted}))
    return reasons
