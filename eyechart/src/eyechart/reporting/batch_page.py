"""Writes the result of `check_batch` as one HTML page, which makes no requests and has no scripts. Text is escaped."""

from __future__ import annotations

import jinja2

from eyechart.faults.batch_check import BatchFacts
from eyechart.faults.batch_evidence import BatchEvidence, Unchecked
from eyechart.plain import one_line
from eyechart.reporting import text
from eyechart.reporting.batch_row import stretches, thumbnails
from eyechart.reporting.batch_text import looked_at, not_checked, verdict_of
from eyechart.reporting.explanation import consequence
from eyechart.results import Finding


def render_batch(
    findings: list[Finding], facts: BatchFacts, unchecked: list[Unchecked], evidence: BatchEvidence, row: int
) -> str:
    """Return the page: findings, one row with its images, and figures of the batch.

    Raises:
        InputError: there is no such row.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eyechart.reporting"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda value: text.isolated(one_line(str(value)))
    return environment.get_template("batch.html.j2").render(
        verdict=verdict_of(findings),
        findings=[(found, consequence(found) if found.explained_by else "") for found in findings],
        row=row,
        rows=facts.rows,
        images=thumbnails(evidence, row),
        stretches=stretches(evidence, row),
        looked_at=looked_at(facts),
        unchecked=list(not_checked(unchecked)),
    )
