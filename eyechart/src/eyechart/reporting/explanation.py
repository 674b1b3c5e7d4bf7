"""The verdict with its reasons as lines of text, for the terminal and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from eyechart.reporting.conclusions import said
from eyechart.reporting.reasons import reasons_of
from eyechart.results import Finding, Results, Verdict


class Line(NamedTuple):
    """One line with its indentation and kind."""

    text: str
    indent: int = 0
    kind: Verdict | Literal["warning", ""] = ""


def explain(results: Results) -> str:
    """Return the verdict, the headline, and every check with its reasons, one per line."""
    return "\n".join(" " * line.indent + line.text for line in explanation(results))


def explanation(results: Results) -> Iterator[Line]:
    """Yield the lines of `explain`, with their indentation and kind."""
    yield Line(f"VERDICT: {results.verdict}", 0, results.verdict)
    if headline := said(results, "headline"):
        yield Line(headline, 2)
    for name, check in (("check 1", results.ablation), ("check 2", results.coverage)):
        if check is None:
            continue
        yield Line(f"{name}: {check.verdict}", 0, check.verdict)
        for reason, sentence in reasons_of(check):
            yield Line(f"- {sentence}", 2, "warning" if reason.effect == "warns" else "")


def consequence(finding: Finding) -> str:
    """Return a sentence saying that other findings can have caused this one; empty if there are none."""
    return f"This can be a consequence of {', '.join(finding.explained_by)}." if finding.explained_by else ""
