"""Writing and reading findings.jsonl, the findings that a run has recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eyechart.files import Log
from eyechart.results import Finding

FINDINGS_NAME = "findings.jsonl"


@dataclass(frozen=True)
class _Found:
    """One line of findings.jsonl."""

    step: int
    forced: bool
    """Whether the finding is an error that `--force` ignored."""
    finding: Finding


FINDINGS_LOG = Log(FINDINGS_NAME, "a finding", _Found, lambda found: found.step)
forget_findings = FINDINGS_LOG.forget


def write_findings(folder: Path, findings: Sequence[Finding], step: int, forced: bool = False) -> None:
    """Append findings of a run to the file; `forced` marks errors that `--force` ignored."""
    FINDINGS_LOG.append(folder, *(_Found(step, forced and f.severity == "error", f) for f in findings))


def read_findings(folder: Path) -> list[Finding]:
    """Return the findings that a run recorded, oldest first.

    Raises:
        ValueError: a line is not a finding.
    """
    return [found.finding for found in FINDINGS_LOG.read(folder)]


def read_forced(folder: Path) -> list[str]:
    """Return the codes of the errors that `--force` ignored, without repeats."""
    return list(dict.fromkeys(found.finding.code for found in FINDINGS_LOG.read(folder) if found.forced))
