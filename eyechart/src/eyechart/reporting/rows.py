"""Prints how a data set is read. Control characters in its texts are escaped, so they cannot affect the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TextIO

from eyechart.data.summary import RowsReport, ShownImage, ShownRow
from eyechart.plain import one_line
from eyechart.printing import out
from eyechart.reporting.batch_text import finding_lines, verdict_of
from eyechart.reporting.text import shortened
from eyechart.results import Finding

_TEXT = 300
"""Maximum number of characters of a turn that are shown."""


def print_rows(report: RowsReport, findings: list[Finding], stream: TextIO) -> None:
    """Print layout, counts, reasons and a few rows, one fact a line, and then the findings."""
    lines = [f"{' ' * indent}{line}" for indent, line in _lines(report)]
    if report.usable:
        lines += [verdict_of(findings, "checks of the rows"), *finding_lines(findings)]
    for line in lines:
        out(line, stream=stream)


def _lines(report: RowsReport) -> Iterator[tuple[int, str]]:
    files = f"{report.files} {report.kind} files" if report.files > 1 else report.kind
    keys = ", ".join(f"{role} from `{key}`" for role, key in report.keys.items())
    yield 0, f"{report.path}: {files}, layout {report.layout}: {keys}"
    yield 0, f"keys that are not read: {', '.join(report.unread) or 'none'}"
    yield 0, f"image paths are relative to {report.image_root}"
    rejected = report.rows - report.usable
    yield 0, f"rows: {report.rows:,}, usable {report.usable:,}, rejected {rejected:,}"
    for reason, count in report.rejected.items():
        yield 2, f"{reason}: {count:,}"
    for reject in report.examples:
        yield 2, f"row {reject.row}: {reject.reason} ({reject.detail})"
    if report.usable:
        yield 0, f"turns per row: {_histogram(report.turns)}"
        yield 0, f"images per row: {_histogram(report.images)}"
    if report.not_simple:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.not_simple.items())
        yield (
            0,
            f"eyechart score and Stage 1 read {report.simple:,} of them, with one image, one question and one answer; "
            f"they reject the others: {reasons}",
        )
    for row in report.shown:
        yield from _row(row)


def _histogram(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{number} in {count:,}" for number, count in counts.items())


def _row(row: ShownRow) -> Iterator[tuple[int, str]]:
    yield 0, f"row {row.row} (id {row.id})"
    for number, image in enumerate(row.images, 1):
        yield 2, f"image {number}: {image.image}: {_facts(image)}"
    for role, text in row.turns:
        yield 2, f"{role}: {shortened(one_line(text), _TEXT)}"


def _facts(image: ShownImage) -> str:
    return image.problem or f"{image.width}x{image.height} pixels, {image.format}"
