"""The verdict in the terminal: a table, what each line means, and the reasons. Legible without colour and when piped.

Text from data files is never read as markup, nor sent to the terminal as control codes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eyechart.reporting.conclusions import WARNING, ablation_conclusion, coverage_conclusion
from eyechart.reporting.text import one_line
from eyechart.results import Ablation, Condition, Coverage, Results

_LEFT_OUT = "Left out: "
"""How the checks begin the reason why a condition that was asked for was not scored."""
_COLOURS = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


def print_results(results: Results, stream: TextIO) -> None:
    """Print tables, conclusions and the verdict line; colour only where `stream` is a terminal."""
    page = _Page(stream)
    if results.ablation:
        _ablation(page, results.ablation)
    if results.coverage:
        _coverage(page, results.coverage)
    for finding in results.diagnosis:
        fix = f" Mend: {finding.fix}" if finding.fix else ""
        page.line(f"{finding.severity} {finding.code}: {finding.message}{fix}")
    page.line(_verdict_line(results), _COLOURS[results.verdict])


def absent_images(results: Results, image_root: Path | None = None) -> str:
    """The line that says how many of the samples' images are not there for a page; empty where all of them are.

    Args:
        results: what the page is made of.
        image_root: folder that the images are in; the config's `data.image_root` if None.
    """
    images = {sample.image for sample in results.scored}
    data = results.config.get("data")
    recorded = data.get("image_root") if isinstance(data, Mapping) else None
    root = image_root or (Path(recorded) if isinstance(recorded, str) else None)
    if not images:
        return ""
    if root is None:
        return f"{len(images)} images not looked for: the results do not say where they are; give --image_root"
    absent = sum(not os.path.isfile(root / image) for image in images)  # noqa: PTH113 - no error where none may look
    return (
        f"{absent} of {len(images)} images not found below {one_line(str(root))}; give --image_root" if absent else ""
    )


def _verdict_line(results: Results) -> str:
    """The verdict, and what it hangs on where it is not a PASS: the last line is the one that is read."""
    checks = [("check 1", results.ablation), ("check 2", results.coverage)]
    judged = [(name, check) for name, check in checks if check is not None]
    if not judged:
        return f"VERDICT: {results.verdict}: neither check was run"
    if results.verdict == "PASS":
        return "VERDICT: PASS"
    causes = [
        f"{name}, {check.reasons[0] if check.reasons else 'no reason was recorded'}"
        for name, check in judged
        if check.verdict == results.verdict
    ]
    return f"VERDICT: {results.verdict}: {'; '.join(causes)}"


class _Page:
    """A console that takes plain text only."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False, markup=False, emoji=False)

    def text(self, words: str, style: str = "") -> Text:
        """Plain text in characters that the stream can carry."""
        encoding = self.console.encoding
        return Text(one_line(words).encode(encoding, "backslashreplace").decode(encoding), style=style)

    def line(self, words: str, style: str = "", indent: int = 0) -> None:
        """One paragraph, wrapped with a hanging indent and no trailing blanks."""
        width = max(20, self.console.width - indent - 2)
        for number, part in enumerate(self.text(words).wrap(self.console, width)):
            part.rstrip()
            margin = " " * (indent + (2 if number else 0))
            self.console.print(Text(margin) + Text(part.plain, style=style), soft_wrap=True)

    def gap(self) -> None:
        self.console.print()


def _ablation(page: _Page, ablation: Ablation) -> None:
    page.line("Check 1: ablation (teacher-forced loss, nats per label token)", "bold")
    page.line(
        f"samples {ablation.samples:,} of {ablation.requested:,} requested, {ablation.clusters:,} distinct images, "
        f"{ablation.label_tokens:,} label tokens, {ablation.derangements} derangements"
    )
    page.console.print(_table(page, ablation))
    for name, condition in ablation.conditions.items():
        if condition.meaning:
            page.line(f"{name}: {condition.meaning}", indent=2)
    for name, sentence in ablation.wording.items():
        if name not in ablation.conditions and sentence.startswith(_LEFT_OUT):
            page.line(f"{name}: {sentence[:1].lower()}{sentence[1:]}", indent=2)
    page.line(f"order: {' < '.join(ablation.order) or 'none'}")
    page.line(f"reading: {ablation.order_reading}")
    for name, sentence in _readings(ablation):
        page.line(f"{name}: {sentence}")
    _judgement(page, "check 1", ablation, ablation_conclusion(ablation))


def _readings(ablation: Ablation) -> Iterator[tuple[str, str]]:
    """What was measured beside the conditions, in its own words; report.html has the figures."""
    if ablation.decomposition:
        yield "decomposition", "; ".join(ablation.decomposition.sentences)
    for name, part in (("matching", ablation.matching), ("words", ablation.words), ("connector", ablation.connector)):
        if part is not None and part.reading:
            yield name, part.reading


def _table(page: _Page, ablation: Ablation) -> Table:
    # No box: the columns stand without one, and it costs 18 of the 80 columns.
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
    """What lower99 must exceed, and whether it does. Not met is not yet a FAIL: the verdict line tells."""
    if not condition.gate or condition.margin is None:
        return "-"
    met = condition.lower99 is not None and condition.lower99 > condition.margin
    return f"> {condition.margin:g} {'met' if met else 'NOT MET'}"


def _coverage(page: _Page, coverage: Coverage) -> None:
    page.line(f"Check 2: truncation and label coverage ({coverage.source})", "bold")
    page.line(
        f"samples {coverage.samples:,}, truncated {coverage.truncated_pct:.2f}%, zero-label "
        f"{coverage.zero_label_pct:.2f}%, label tokens {coverage.avg_label_tokens:.1f} on average"
    )
    page.line(
        f"max_seq_len {coverage.max_seq_len}, {coverage.smallest_max_seq_len} would do; image block "
        f"{coverage.image_block_tokens} tokens, prompt around it {coverage.wrapper_tokens:.1f}"
    )
    _judgement(page, "check 2", coverage, coverage_conclusion(coverage))


def _judgement(page: _Page, name: str, check: Ablation | Coverage, conclusion: str) -> None:
    page.line(f"{name}: {check.verdict}", _COLOURS[check.verdict])
    page.line(conclusion, indent=2)
    for reason in check.reasons:
        page.line(f"- {reason}", "yellow" if reason.startswith(WARNING) else "", indent=2)
    page.gap()
