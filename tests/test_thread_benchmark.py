"""The benchmark of public threads: it counts right, and its page is made of its kept results and reaches the target."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from thread_launch import LAUNCHED
from thread_table import Row, as_line, reached, read, render, totals

DOCS = Path(__file__).parents[1] / "docs"
ERROR, NOTE = [("image-order", "error")], [("image-order", "note")]


def row(name: str = "case", code: str = "image-order", **values: object) -> Row:
    case = {"name": name, "thread": "29 a/b#1", "how": "a cause", "stack": "Trainer", "family": "llava", "code": code}
    return Row(**{**case, "twin": "healthy", "seed": 0, **values})  # type: ignore[arg-type]


HEALTHY = row("healthy", "", loss=4.0)


def counted(*found: Row, healthy: Row = HEALTHY) -> tuple[int, int]:
    twins = [dataclasses.replace(healthy, seed=one.seed) for one in found]
    total = totals({found[0].name: list(found), "healthy": twins})
    return total.noticed, total.named


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        (ERROR, (1, 1)),
        (NOTE, (1, 1)),
        ([("no-labels", "error"), *ERROR], (1, 0)),
        ([("no-labels", "warning")], (0, 0)),
        ([], (0, 0)),
    ],
)
def test_what_counts_as_noticed_and_as_named(findings: list[tuple[str, str]], expected: tuple[int, int]) -> None:
    assert counted(row(findings=findings)) == expected


def test_what_the_healthy_set_up_has_as_well_does_not_count() -> None:
    assert counted(row(findings=NOTE), healthy=dataclasses.replace(HEALTHY, findings=NOTE)) == (0, 0)


def test_a_thread_counts_only_if_it_does_with_every_seed() -> None:
    assert counted(row(findings=ERROR), row(seed=1)) == (0, 0)


@pytest.mark.parametrize("trouble", [{"findings": ERROR}, {"error": "ValueError: no"}, {"broken": True}])
def test_a_healthy_set_up_with_an_error_misses_the_target(trouble: dict[str, object]) -> None:
    assert reached(totals({"healthy": [HEALTHY]}))
    assert not reached(totals({"healthy": [dataclasses.replace(HEALTHY, **trouble)]}))  # type: ignore[arg-type]


def test_a_result_comes_back_from_its_line() -> None:
    one = row(findings=ERROR, loss=4.25, also=["no-labels"])
    assert read(as_line(one)) == one


def kept(name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for line in (DOCS / name).read_text(encoding="utf-8").splitlines()[1:]:
        one = read(line)
        found.setdefault(one.name, []).append(one)
    return found


def test_the_page_is_made_of_the_kept_results() -> None:
    about = json.loads((DOCS / "threads.jsonl").read_text(encoding="utf-8").splitlines()[0])
    page = render(kept("threads.jsonl"), kept("threads-first.jsonl"), about)
    assert page == (DOCS / "threads.md").read_text(encoding="utf-8")


def test_the_kept_results_reach_the_target() -> None:
    total = totals(kept("threads.jsonl"))
    assert total.threads >= 15 and total.healthy >= 10 and reached(total)
    assert all(len(rows) == 3 or rows[0].stack in LAUNCHED for rows in kept("threads.jsonl").values())
