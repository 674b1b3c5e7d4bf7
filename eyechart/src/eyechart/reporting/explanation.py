"""Writes the verdict and its reasons as lines of text, for the terminal and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from eyechart.reporting.conclusions import said
from eyechart.reporting.reasons import reasons_of
from eyechart.results import Finding, Results, Verdict


class Line(NamedTuple):
    """One line of text, with its indentation in spaces and its kind: a verdict, a warning, or neither."""

    text: str
    indent: int = 0
    kind: Verdict | Literal["warning", ""] = ""


def explain(results: Results) -> str:
    """Return the verdict, the headline, the verdict of every check and its reasons, each on its own line."""
    return "\n".join(" " * line.indent + line.text for line in explanation(results))


def explanation(results: Results) -> Iterator[Line]:
    """Yield the lines that `explain` joins, with their indentation and kind."""
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
    """Return a sentence that names the findings that may have caused this one; empty if there are none."""
    return f"This can be a consequence of {', '.join(finding.explained_by)}." if finding.explained_by else ""
