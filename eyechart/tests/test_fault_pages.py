"""Every fault has its page, every page its fault, and a reader finds the same five headings on each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eyechart.faults.table import FAULTS, page_of

FOLDER = Path("docs/faults")
HEADINGS = ["Symptom", "Mechanism", "How it is detected", "How to fix", "A public example"]


def test_every_page_has_a_fault() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md")} - {"README"}
    assert pages == set(FAULTS)


@pytest.mark.parametrize("code", FAULTS)
def test_a_page_says_what_the_table_says_under_five_filled_headings_in_under_60_lines(code: str) -> None:
    page = Path(page_of(code)).read_text(encoding="utf-8")
    lines = page.splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 120
    assert lines[0] == f"# {code}"
    fault = FAULTS[code]
    assert FAULTS[code].title.lower() in lines[2].lower()
    severity = f"Severity: {fault.severity}{', by share of rows' if fault.by_share else ''}"
    assert re.search(rf"{severity}\.$", lines[2])
    assert re.findall(r"^## (.+)$", page, re.M) == HEADINGS
    for text in re.split(r"^## .+$", page, flags=re.M)[1:]:
        assert len(text.split()) >= 4, "an empty section"


@pytest.mark.parametrize("code", FAULTS)
def test_a_page_names_its_synonyms_and_links_lead_somewhere(code: str) -> None:
    page = Path(page_of(code)).read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([a-z-]+)\.md\)", page))
    assert linked == set(FAULTS[code].synonyms)


@pytest.mark.parametrize("code", FAULTS)
def test_public_examples_are_cited_by_repository_and_number_or_said_to_be_missing(code: str) -> None:
    example = Path(page_of(code)).read_text(encoding="utf-8").split("## A public example")[1]
    cited = re.findall(r"\b[\w.-]+/[\w.-]+#\d+\b", example)
    assert cited or "known" in example or "None" in example
    assert len(re.findall(r"#\d+", example)) == len(cited), "a number without its repository"


def test_the_index_lists_every_fault_once_in_the_order_of_the_table() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[([a-z-]+)\]\(\1\.md\) \|", index, re.M) == list(FAULTS)
    for code, fault in FAULTS.items():
        assert re.search(rf"^\| \[{code}\].*\| {fault.severity}.*\| {re.escape(fault.title)} \|$", index, re.M)
