"""The verdict of a whole run, from its checks and its findings."""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.results import Ablation, Coverage, Finding, Verdict


def overall(ablation: Ablation | None, coverage: Coverage | None, findings: Sequence[Finding] = ()) -> Verdict:
    """FAIL before INCONCLUSIVE before PASS, over the checks that were run; nothing judged is INCONCLUSIVE.

    An error among the findings bars PASS: the gates stay as they are and are shown, but a figure that was measured
    with a fault proves nothing, so the whole is INCONCLUSIVE.
    """
    verdicts = [check.verdict for check in (ablation, coverage) if check is not None]
    if "FAIL" in verdicts:
        return "FAIL"
    if not verdicts or "INCONCLUSIVE" in verdicts or first_error(findings) is not None:
        return "INCONCLUSIVE"
    return "PASS"


def first_error(findings: Sequence[Finding]) -> Finding | None:
    """The most likely cause among the errors; None without one."""
    return next((found for found in findings if found.severity == "error"), None)
