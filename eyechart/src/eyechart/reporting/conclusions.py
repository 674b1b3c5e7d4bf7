"""Verdicts in sentences. A sentence follows the verdict and never the figures: a FAIL cannot read like a PASS."""

from __future__ import annotations

from eyechart.results import Ablation, Coverage

WARNING = "warning: "
"""Reasons that begin so leave the verdict as it is (the checks write them)."""


def ablation_conclusion(ablation: Ablation | None) -> str:
    """What check 1 allows to say about the connector, in one or two sentences."""
    if ablation is None:
        return "Check 1 was not run: nothing is known about whether the picture is used."
    if ablation.verdict == "PASS":
        return (
            "The connector carries the picture into the language model: a wrong picture, zeros and noise each raise "
            "the loss by more than chance and the margins explain."
        )
    if ablation.verdict == "FAIL":
        return f"NOT shown: this run fails check 1. Do not rely on this connector. {_first(ablation.reasons)}"
    advice = f" About {ablation.needed_samples:,} samples would decide." if ablation.needed_samples else ""
    first = _first(ablation.reasons)
    return f"UNDECIDED: this run neither shows nor rules out that the picture is used. {first}{advice}"


def coverage_conclusion(coverage: Coverage | None) -> str:
    """What check 2 allows to say about max_seq_len, in one or two sentences."""
    if coverage is None:
        return "Check 2 was not run: nothing is known about truncation."
    if coverage.verdict == "FAIL":
        return f"FAILS at max_seq_len {coverage.max_seq_len}. {' '.join(map(_sentence, coverage.reasons))}"
    if coverage.verdict == "INCONCLUSIVE":
        return f"UNDECIDED at max_seq_len {coverage.max_seq_len}. {_first(coverage.reasons)}"
    warnings = [reason for reason in coverage.reasons if reason.startswith(WARNING)]
    if warnings:
        return f"Within the limits at max_seq_len {coverage.max_seq_len}, but: {' '.join(map(_sentence, warnings))}"
    if coverage.truncated_pct:
        return f"Little is cut at max_seq_len {coverage.max_seq_len}, and within the limits."
    return f"Nothing is cut at max_seq_len {coverage.max_seq_len}."


def summary(check: Ablation | Coverage | None) -> str:
    """Verdict and reasons on one line, for the pass/fail summary."""
    if check is None:
        return "NOT RUN"
    return f"{check.verdict} ({'; '.join(check.reasons) or 'no reason was recorded'})"


def _first(reasons: list[str]) -> str:
    return _sentence(reasons[0]) if reasons else "No reason was recorded."


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith((".", "!", "?")) else ".")
