"""The verdict of a whole run, from its checks."""

from __future__ import annotations

from eyechart.results import Ablation, Coverage, Verdict


def overall(ablation: Ablation | None, coverage: Coverage | None) -> Verdict:
    """FAIL before INCONCLUSIVE before PASS, over the checks that were run. Without any check: INCONCLUSIVE."""
    verdicts = [check.verdict for check in (ablation, coverage) if check is not None]
    if "FAIL" in verdicts:
        return "FAIL"
    return "PASS" if verdicts and "INCONCLUSIVE" not in verdicts else "INCONCLUSIVE"
