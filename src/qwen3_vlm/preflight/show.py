"""Prints findings and one decoded sample to the terminal. The output is readable without colour.

Captions cannot affect the terminal, whatever they contain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from eyechart.faults.table import page_of
from eyechart.outside.shown import short
from eyechart.plain import encodable
from eyechart.printing import indented
from eyechart.results import Finding
from qwen3_vlm.preflight.view import Span, View

_COLOURS = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}
_KINDS = {"prompt": ("prompt", ""), "image": ("IMAGE ", "cyan"), "label": ("LABEL ", "green")}
# size: spans that are printed
_MOST_SPANS = 12
# size: letters that are printed
_LONG = 200
_RUN = re.compile(r"(<\|[^|<>]+\|>)(\s?)(?:\1\2){2,}")
# size: figures that are printed
_FIGURES = 8


def print_sample(view: View, stream: TextIO) -> None:
    """One sample as the model reads it: prompt, image and label, each part on its own line with its tokens."""
    page = _Page(stream)
    page.line(f"One sample as the model reads it (row {view.row}, {view.image}):", "bold")
    for span in view.spans[:_MOST_SPANS]:
        name, style = _KINDS[span.kind]
        page.line(f"  {name} {span.tokens:>4} token{' ' if span.tokens == 1 else 's'}  {_decoded(span)}", style)
    if len(view.spans) > _MOST_SPANS:
        page.line(f"  ... {len(view.spans) - _MOST_SPANS} more parts")
    page.line("  LABEL is what the model learns to write, IMAGE the positions of the picture, prompt is only input.")
    page.line(f"  caption in the data file: {short(view.caption, _LONG)}")


def print_findings(findings: Sequence[Finding], looked_at: str, stream: TextIO) -> None:
    """Every finding with its evidence, its fix and its page; finally a summary line."""
    page = _Page(stream)
    for number, found in enumerate(findings, start=1):
        page.line(f"{number}. {found.severity} {found.code}: {found.message}", _COLOURS[found.severity])
        evidence = [f"{name} {value}" for name, value in found.evidence.items() if _plain(value)][:_FIGURES]
        if evidence:
            page.line(f"   evidence: {', '.join(evidence)}")
        page.line(f"   fix: {found.fix}")
        page.line(f"   page: {page_of(found.code)}")
    page.line(summary(findings, looked_at), _COLOURS[findings[0].severity] if findings else "bold green")


def summary(findings: Sequence[Finding], looked_at: str) -> str:
    """The last line, a summary."""
    if not findings:
        return f"DIAGNOSIS: no fault found in {looked_at}"
    counts = [
        f"{count} {severity}{'s' if count > 1 else ''}"
        for severity in ("error", "warning", "note")
        if (count := sum(f.severity == severity for f in findings))
    ]
    return f"DIAGNOSIS: {', '.join(counts)} in {looked_at}; first {findings[0].code}"


def _plain(value: object) -> bool:
    return isinstance(value, int | float | str) or (
        isinstance(value, list)
        and len(value) <= _FIGURES
        and all(isinstance(item, int | float | str) for item in value)
    )


def _decoded(span: Span) -> str:
    def shorter(match: re.Match[str]) -> str:
        return f"{match[1]} x{len(match[0]) // len(match[1] + match[2])} "

    return short(_RUN.sub(shorter, span.text), _LONG)


class _Page:
    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def line(self, words: str, style: str = "") -> None:
        self.console.print(Text(encodable(indented(words), self.console.encoding), style=style))
