"""What a run has written down about its faults: findings.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from eyechart.files import write_atomic
from eyechart.results import Finding

FINDINGS_NAME = "findings.jsonl"


def write_findings(folder: Path, findings: Sequence[Finding], step: int, forced: bool = False) -> None:
    """Add findings of a run to its findings.jsonl; `forced` marks errors that `--force` went past."""
    lines = [
        json.dumps({"step": step, "forced": forced and f.severity == "error", "finding": f.model_dump(mode="json")})
        for f in findings
    ]
    path = folder / FINDINGS_NAME
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if lines:
        write_atomic(path, before + "".join(f"{line}\n" for line in lines))


def read_findings(folder: Path) -> list[Finding]:
    """What a run wrote down about its faults, oldest first; none without the file.

    Raises:
        ValueError: a line is not a finding.
    """
    return [found for found, _, _ in _read(folder)]


def read_forced(folder: Path) -> list[str]:
    """Codes of the errors that `--force` went past, each once."""
    return list(dict.fromkeys(found.code for found, _, forced in _read(folder) if forced))


def forget_findings(folder: Path, after: int) -> None:
    """Drop what was found behind step `after`: a resumed run will find it again."""
    kept = [(found, step, forced) for found, step, forced in _read(folder) if step <= after]
    (folder / FINDINGS_NAME).unlink(missing_ok=True)
    for found, step, forced in kept:
        write_findings(folder, [found], step, forced)


def _read(folder: Path) -> list[tuple[Finding, int, bool]]:
    path = folder / FINDINGS_NAME
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            tree = json.loads(line)
            found.append((Finding.model_validate(tree["finding"]), int(tree["step"]), bool(tree["forced"])))
        except (ValueError, KeyError, TypeError) as error:
            message = f"{path}, line {number}: not a finding ({type(error).__name__}); delete the file or that line"
            raise ValueError(message) from error
    return found
