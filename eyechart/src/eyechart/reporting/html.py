"""report.html: everything that a run measured on one page, in one file that works offline and makes no requests.

The page is made only from `Results` and image files, and contains no script. Figures come from `plots`, their sentences
from `readings`, and their definitions from `definitions`; the template arranges them. All text is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from eyechart.faults.table import FAULTS
from eyechart.plain import one_line
from eyechart.reporting import readings, text
from eyechart.reporting.conclusions import said
from eyechart.reporting.conditions import MEANINGS
from eyechart.reporting.definitions import DEFINITIONS
from eyechart.reporting.explanation import consequence
from eyechart.reporting.figures import figures
from eyechart.reporting.gallery import FULL_COLOUR, make_gallery
from eyechart.reporting.reasons import reasons_of
from eyechart.reporting.remarks import made
from eyechart.reporting.tiles import source, tiles
from eyechart.reporting.wording import estimated, percent, plain, signed
from eyechart.results import Ablation, Finding, Results
from eyechart.settings import flatten, setting

_GALLERY = 100
"""Number of cards in the gallery if the config does not set it."""
_MAX_PIXELS = 178_956_970
_STATES = {"good": "\u2713", "bad": "\u2717", "open": "?"}
_MARKS = {"PASS": "\u2713", "FAIL": "\u2717", "INCONCLUSIVE": "?"}
_SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class FindingView:
    """A finding with the link to its page."""

    finding: Finding
    title: str
    page: str
    link: str | None
    evidence: list[tuple[str, str]]
    consequence: str


def render_html(results: Results, image_root: Path | None = None, docs: str | None = None) -> str:
    """Return the page as HTML.

    Args:
        results: the results to show; if a figure was not measured, its section is left out or states this.
        image_root: folder that the samples' image paths are relative to; the config's `data.image_root` if None.
        docs: relative URL of the documentation folder, for links to the faults' pages; without it they are only named.
    """
    ablation = results.ablation
    root = image_root or _image_root(results.config)
    limit = setting(results.config, "ablation", "gallery")
    gallery = make_gallery(
        results.scored,
        limit if isinstance(limit, int) else _GALLERY,
        root,
        setting(results.config, "data", "max_pixels") or _MAX_PIXELS,
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            ablation=ablation,
            mark=_MARKS[results.verdict],
            marks=_STATES,
            headline=said(results, "headline"),
            pattern=said(results, "pattern"),
            words_reading=said(results, "words"),
            connector_reading=readings.connector(ablation.connector) if ablation and ablation.connector else "",
            reasons=[sentence for check in (ablation, results.coverage) if check for _, sentence in reasons_of(check)],
            made=made(ablation) if ablation else [],
            meanings=MEANINGS,
            counted_in=source(results.coverage) if results.coverage else "",
            tiles=list(tiles(results)),
            figures=dict(figures(results)),
            conditions=list(ablation.conditions.items()) if ablation else [],
            standard_errors=ablation is not None and any(c.se is not None for c in ablation.conditions.values()),
            gallery=gallery,
            unordered=_unordered(ablation),
            ablation_samples=ablation.samples if ablation else len(results.scored),
            full_colour=FULL_COLOUR,
            findings=_findings(results.diagnosis, docs),
            settings=[(key, _written(value)) for key, value in flatten(results.config).items()],
            definitions=DEFINITIONS,
        )
    )


def docs_link(folder: Path) -> str | None:
    """Return the relative URL from a page in `folder` to the documentation, if both are in the same source tree."""
    tree = Path(__file__).parents[4]
    if not (tree / "docs" / "faults").is_dir() or not folder.resolve().is_relative_to(tree):
        return None
    return Path(os.path.relpath(tree / "docs", folder.resolve())).as_posix()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eyechart.reporting"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": lambda value: text.isolated(one_line(str(value))),
        "portable": lambda value: text.isolated(text.without_folders(one_line(str(value)))),
        "signed": lambda value: "\u2013" if value is None else signed(value),
        "plain": lambda value: "\u2013" if value is None else plain(value),
        "percent": lambda value: "\u2013" if value is None else percent(value),
        "between": lambda ends: "\u2013" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}",
        "estimated": estimated,
        "count": lambda value: f"{value:,}",
    }
    return environment


def _image_root(config: Mapping[str, Any]) -> Path | None:
    root = setting(config, "data", "image_root")
    return Path(root) if isinstance(root, str) else None


def _written(value: object) -> str:
    return text.without_folders(one_line("none" if value is None else str(value)))


def _unordered(ablation: Ablation | None) -> str:
    """Return the reason why the gallery cannot be ordered by a gap, for the page."""
    if ablation and "shuffled" in ablation.conditions:
        return "No sample has a finite gap of shuffled to order them by"
    return "Shuffled was not scored, so there is no gap to order them by"


def _findings(diagnosis: list[Finding], docs: str | None) -> list[FindingView]:
    ordered = sorted(diagnosis, key=lambda finding: _SEVERITIES.index(finding.severity))
    views = []
    for finding in ordered:
        known = FAULTS.get(finding.code)
        page = f"faults/{finding.code}.md"
        evidence = [(key, _evidence(value)) for key, value in finding.evidence.items()]
        link = f"{docs}/{page}" if docs and known else None
        views.append(
            FindingView(finding, known.title if known else "", f"docs/{page}", link, evidence, consequence(finding))
        )
    return views


def _evidence(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_evidence(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_evidence(item)}" for key, item in value.items())
    return _written(value)
