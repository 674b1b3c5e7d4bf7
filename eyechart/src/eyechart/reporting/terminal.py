"""Results in the terminal: the verdict and its reasons, then tables. They are legible without colour and when piped.

Text from data files is never interpreted as markup, and never sent to the terminal as control codes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eyechart.plain import encodable, one_line
from eyechart.reporting import readings
from eyechart.reporting.conclusions import said
from eyechart.reporting.conditions import MEANINGS
from eyechart.reporting.explanation import consequence, explanation
from eyechart.reporting.remarks import sentence as sentence_of
from eyechart.reporting.tiles import source
from eyechart.results import Ablation, Condition, Coverage, Results, Topic
from eyechart.stored import file_of

_MATCHING: tuple[Topic, ...] = ("matching", "twins", "likeness")
_COLOURS = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow", "warning": "yellow", "": ""}


def print_results(results: Results, stream: TextIO) -> None:
    """Print the verdict, its reasons, the findings and the tables; with colour only if `stream` is a terminal."""
    page = _Page(stream)
    for text, indent, kind in explanation(results):
        page.line(text, _COLOURS[kind], indent)
    for finding in results.diagnosis:
        page.line(f"{finding.severity} {finding.code}: {finding.message}")
        if finding.explained_by:
            page.line(consequence(finding), indent=2)
        if finding.fix:
            page.line(f"Fix: {finding.fix}", indent=2)
    page.gap()
    if results.ablation:
        _ablation(page, results, results.ablation)
    if results.coverage:
        _coverage(page, results.coverage)


def absent_images(results: Results, image_root: Path | None = None) -> str:
    """Return a line that says how many of the samples' images are missing on the page; empty if none is.

    Args:
        results: the results that the page shows.
        image_root: folder of the images; the config's `data.image_root` if None.
    """
    images = {sample.image for sample in results.scored}
    data = results.config.get("data")
    recorded = data.get("image_root") if isinstance(data, Mapping) else None
    root = image_root or (Path(recorded) if isinstance(recorded, str) else None)
    if not images:
        return ""
    if root is None:
        return f"{len(images)} images were not looked for: the results do not record their folder; set --image_root"
    files = [file_of(root / image) for image in images]
    absent = sum(not os.path.isfile(file) for file in files)  # noqa: PTH113 - no error for unreadable folders
    return f"{absent} of {len(images)} images not found below {one_line(str(root))}; set --image_root" if absent else ""


class _Console(Console):
    """Passes a closed pipe on to the command: rich would end the process with exit code 1, which means FAIL here."""

    def on_broken_pipe(self) -> None:
        """Raise the error instead of ending the process."""
        raise BrokenPipeError("the reader of the output has closed the pipe")


class _Page:
    """A console that only accepts plain text."""

    def __init__(self, stream: TextIO) -> None:
        self.console = _Console(file=stream, highlight=False, markup=False, emoji=False)

    def text(self, words: str, style: str = "") -> Text:
        """Return plain text in characters that the stream can encode."""
        return Text(encodable(one_line(words), self.console.encoding), style=style)

    def line(self, words: str, style: str = "", indent: int = 0) -> None:
        """Print one paragraph, wrapped with a hanging indent and without trailing blanks."""
        width = max(20, self.console.width - indent - 2)
        for number, part in enumerate(self.text(words).wrap(self.console, width)):
            part.rstrip()
            margin = " " * (indent + (2 if number else 0))
            self.console.print(Text(margin) + Text(part.plain, style=style), soft_wrap=True)

    def gap(self) -> None:
        self.console.print()


def _ablation(page: _Page, results: Results, ablation: Ablation) -> None:
    page.line("Check 1: ablation (teacher-forced loss, nats per label token)", "bold")
    page.line(
        f"samples {ablation.samples:,} of {ablation.requested:,} requested, {ablation.clusters:,} distinct images, "
        f"{ablation.label_tokens:,} label tokens, {ablation.derangements} derangements"
    )
    page.console.print(_table(page, ablation))
    for name in ablation.conditions:
        page.line(f"{name}: {MEANINGS[name]}", indent=2)
    for remark in ablation.remarks:
        if remark.left_out:
            page.line(f"{remark.about}: left out. {sentence_of(remark)}", indent=2)
    page.line(f"order: {' < '.join(ablation.order) or 'none'}")
    for name, sentence in _details(results, ablation):
        page.line(f"{name}: {sentence}")
    page.gap()


def _details(results: Results, ablation: Ablation) -> Iterator[tuple[str, str]]:
    """Yield what was measured in addition to the gates, in words; report.html has the figures."""
    split = readings.decomposition(ablation.decomposition, ablation) if ablation.decomposition else ""
    sentences = {
        "unigram": readings.unigram(ablation),
        "pattern": said(results, "pattern"),
        "reading of the order": said(results, "order"),
        "information": f"{said(results, 'information')} {split}",
        "matching": " ".join([*(said(results, topic) for topic in _MATCHING), _amounts(ablation)]),
        "words": said(results, "words"),
        "connector": readings.connector(ablation.connector) if ablation.connector else "",
    }
    yield from ((name, sentence) for name, sentence in sentences.items() if sentence.strip())


def _amounts(ablation: Ablation) -> str:
    return readings.amounts(ablation.matching) if ablation.matching else ""


def _table(page: _Page, ablation: Ablation) -> Table:
    # The table has no box, because it is readable without one, and a box would use 18 of the 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("condition", no_wrap=True, min_width=10)
    for heading in ("loss", "gap", "95% interval", "lower99"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("gate", overflow="fold")
    for name, condition in ablation.conditions.items():
        loss = "not finite" if condition.loss is None else f"{condition.loss:.4f}"
        interval = "-" if condition.ci95 is None else f"{condition.ci95[0]:+.3f} {condition.ci95[1]:+.3f}"
        cells = (loss, _signed(condition.gap), interval, _signed(condition.lower99), _gate(condition))
        table.add_row(*(page.text(cell) for cell in (name, *cells)))
    return table


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _gate(condition: Condition) -> str:
    """Return the margin that lower99 must exceed, and the standing of the gate."""
    if not condition.gate or condition.standing is None:
        return "-"
    state = {"costs": "met", "ruled out": "NOT MET", "open": "open"}[condition.standing]
    return f"> {condition.margin:g} {state}"


def _coverage(page: _Page, coverage: Coverage) -> None:
    page.line(f"Check 2: truncation and label coverage ({source(coverage)})", "bold")
    page.line(
        f"samples {coverage.samples:,}, truncated {coverage.truncated_pct:.2f}%, without a label "
        f"{coverage.zero_label_pct:.2f}%, label tokens {coverage.avg_label_tokens:.1f} on average"
    )
    page.line(
        f"max_seq_len {coverage.max_seq_len} ({coverage.smallest_max_seq_len} is enough); image block "
        f"{coverage.image_block_tokens} tokens, prompt around it {coverage.wrapper_tokens:.1f}"
    )
