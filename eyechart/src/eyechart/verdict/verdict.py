"""Verdict of check 1: gaps and margins in, PASS, FAIL or INCONCLUSIVE with reasons out.

PASS: every gate's one-sided 99% lower bound lies above its margin. All must hold, so no correction is needed.
FAIL: some gate's one-sided upper bound at level 1 - 0.01/(number of gates) lies at or below its margin, or any scored
loss is not finite. A gap of exactly 0 with no spread fails.
INCONCLUSIVE: neither; or PASS but for something that was not measured: a gate left out of `--conditions`, too few
donors, or a held-out sample among those asked for that could not be scored (unreadable image, no label token). Such a
sample is not part of the evidence, and rows break for reasons that may go with their content, so that a PASS on the
rest would claim more than was seen. A held-out split that is smaller than asked for is only a warning: every sample
there is was scored. What was measured can still FAIL, whatever is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eyechart.results import Verdict
from eyechart.verdict.statistics import Estimate, needed_samples

PASS_LEVEL = 0.99
_FAIL_ERROR = 0.01
"""Chance of a wrong FAIL over all gates together."""
SMALLEST_SET = 64
"""The runbook's smallest held-out set. The sample-size formula takes normal quantiles, too small for less."""


@dataclass(frozen=True)
class Gate:
    """A measured gate."""

    name: str
    margin: float
    """Nats per token that the gap must exceed."""
    estimate: Estimate


@dataclass(frozen=True)
class Missing:
    """What is missing from the evidence, each with its own sentence in the reasons."""

    left_out: Sequence[str] = ()
    """Gates that were not asked for."""
    donor_shortage: str = ""
    """Why there are fewer derangements than asked for, or empty."""
    unscored: Mapping[str, int] = field(default_factory=dict)
    """Held-out samples that could not be scored, by reason."""


@dataclass(frozen=True)
class Judgement:
    """The verdict of check 1 and why."""

    verdict: Verdict
    reasons: list[str]
    needed_samples: int | None
    """Samples that would decide, where more of them can."""


def judge(
    gates: Sequence[Gate], non_finite: Sequence[str], missing: Missing, samples: int, requested: int
) -> Judgement:
    """Judge check 1 by the rules at the top of this file.

    Args:
        gates: the measured gates; a gate with a non-finite loss is not among them.
        non_finite: conditions with a loss that is NaN or infinite.
        missing: what was not measured.
        samples: samples scored.
        requested: samples asked for.
    """
    failures = [
        f"loss({name}) is not finite for at least one label token: look for NaN or infinite weights or features"
        for name in non_finite
    ]
    undecided, passes, needed = [], [], []
    fail_level = level_of_fail(len(gates))
    for gate in gates:
        lower, upper = gate.estimate.lower(PASS_LEVEL), gate.estimate.upper(fail_level)
        standing = stand(gate, fail_level)
        if lower is None or upper is None:
            undecided.append(
                f"gap({gate.name}) {gate.estimate.gap:+.4f} has no standard error: {gate.estimate.samples} samples "
                f"show {gate.estimate.clusters} distinct images, at least 2 are needed"
            )
        elif standing == "PASS":
            passes.append(_sentence(gate, f"its 99% lower bound {lower:+.4f} is above the margin {gate.margin:g}"))
        elif standing == "FAIL":
            failures.append(_failure(gate, upper))
        else:
            size = _decisive(gate, fail_level)
            needed.append((gate, size))
            undecided.append(_sentence(gate, _undecided(gate, lower, upper, size)))
    undecided += _unmeasured(missing, samples)
    warnings = []
    if requested > samples:
        reason = "the rest could not be scored" if missing.unscored else "the held-out split has no more"
        warnings.append(f"warning: {requested} samples were requested and {samples} scored: {reason}")
    verdict: Verdict = "FAIL" if failures else "INCONCLUSIVE" if undecided or not gates else "PASS"
    size = _overall(needed) if verdict == "INCONCLUSIVE" else None
    return Judgement(verdict, failures + undecided + passes + warnings, size)


def level_of_fail(gates: int) -> float:
    """Level of the upper bound by which one of so many gates fails, so that all together err as rarely as intended."""
    return 1 - _FAIL_ERROR / max(1, gates)


def stand(gate: Gate, fail_level: float) -> Verdict:
    """Where one gate stands, by the rules at the top of this file."""
    lower, upper = gate.estimate.lower(PASS_LEVEL), gate.estimate.upper(fail_level)
    if lower is None or upper is None:
        return "INCONCLUSIVE"
    return "PASS" if lower > gate.margin else "FAIL" if upper <= gate.margin else "INCONCLUSIVE"


def _sentence(gate: Gate, finding: str) -> str:
    return f"gap({gate.name}) {gate.estimate.gap:+.4f} +- {gate.estimate.se:.4f} nats/token: {finding}"


def _failure(gate: Gate, upper: float) -> str:
    if gate.estimate.gap == 0 and gate.estimate.se == 0:
        blind = "the content of the picture is" if gate.name == "shuffled" else "the visual tokens are"
        return f"gap({gate.name}) is exactly 0: the change moves no loss at all, so {blind} not used"
    return _sentence(gate, f"its upper bound {upper:+.4f} is not above the margin {gate.margin:g}")


def _undecided(gate: Gate, lower: float, upper: float, size: int | None) -> str:
    advice = f"about {size:,} samples would decide" if size else "no number of samples decides a gap on its margin"
    return f"the margin {gate.margin:g} lies between its bounds {lower:+.4f} and {upper:+.4f}; {advice}"


def _decisive(gate: Gate, fail_level: float) -> int | None:
    """Samples that would part the gap from its margin, on the side where it lies now."""
    assert gate.estimate.sd is not None
    level = PASS_LEVEL if gate.estimate.gap > gate.margin else fail_level
    size = needed_samples(gate.estimate.sd, gate.estimate.gap, gate.margin, level)
    return None if size is None else max(size, gate.estimate.samples + 1, SMALLEST_SET)


def _overall(needed: Sequence[tuple[Gate, int | None]]) -> int | None:
    """One gate below its margin decides alone (FAIL); otherwise the slowest gate does (PASS)."""
    if any(size is None for _, size in needed):
        return None
    failing = [size for gate, size in needed if size is not None and gate.estimate.gap < gate.margin]
    return min(failing) if failing else max((size for _, size in needed if size is not None), default=None)


def _unmeasured(missing: Missing, samples: int) -> list[str]:
    reasons = []
    if samples == 0:
        reasons.append("no held-out sample could be scored, so there is no evidence for or against the connector")
    if missing.left_out:
        reasons.append(
            f"the gates {', '.join(missing.left_out)} were not scored, and without all of them there is no PASS; "
            "use --conditions runbook or standard"
        )
    if missing.donor_shortage:
        reasons.append(missing.donor_shortage)
    if missing.unscored:
        counted = ", ".join(f"{count} {reason}" for reason, count in sorted(missing.unscored.items()))
        reasons.append(
            f"{sum(missing.unscored.values())} held-out samples could not be scored ({counted}), and a PASS needs "
            "every one; mend these rows or take them out of the data file"
        )
    return reasons
