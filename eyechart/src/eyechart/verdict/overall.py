"""Decides the verdict of a whole run from its checks and its findings."""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.results import Ablation, Coverage, Finding, Verdict


def overall(ablation: Ablation | None, coverage: Coverage | None, findings: Sequence[Finding] = ()) -> Verdict:
    """Return the worst verdict of the checks that were run (FAIL, INCONCLUSIVE, PASS); INCONCLUSIVE if none was run.

    If the findings contain an error, a PASS becomes INCONCLUSIVE, because figures measured in the presence of a fault
    prove nothing. The gates (the conditions that decide check 1) are still shown as measured.
    """
    verdicts = [check.verdict for check in (ablation, coverage) if check is not None]
    if "FAIL" in verdicts:
        return "FAIL"
    if not verdicts or "INCONCLUSIVE" in verdicts or first_error(findings) is not None:
        return "INCONCLUSIVE"
    return "PASS"


def first_error(findings: Sequence[Finding]) -> Finding | None:
    """Return the first finding that is an error, which is the most likely cause; None if there is no error."""
    return next((found for found in findings if found.severity == "error"), None)
