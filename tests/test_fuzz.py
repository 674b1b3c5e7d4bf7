"""Damaged files end in a result or one clear error; and the harness that says so sees when they do not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import Report, fuzz, image_case, json_case, read_json
from fuzz_mutations import BYTE_MUTATIONS, TREE_MUTATIONS, Draw, base_images, base_rows


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make", "count"), [("data file", json_case, 500), ("image", image_case, 200)])
def test_mutated_files_give_a_result_or_one_clear_error(name: str, make: Callable[[], object], count: int) -> None:
    report = fuzz(name, make(), count)  # type: ignore[arg-type]
    assert report.failures == []
    assert report.outcomes.total() == count
    assert min(report.outcomes["result"], report.outcomes["clear error"]) > count / 20, "both kinds are met"


def test_every_mutation_changes_its_file() -> None:
    rows, data = base_rows(), base_images()[0]
    for change in TREE_MUTATIONS:
        assert any(change(Draw(seed), rows) != change(Draw(0), rows) for seed in range(1, 9)), change
    for mutate in BYTE_MUTATIONS:
        assert any(mutate(Draw(seed), data) != data for seed in range(5)), mutate
    assert rows == base_rows(), "the base is not touched"


def outcome(draw: Draw, folder: Path) -> str:
    return "result"


def run_with(bad: Callable[[], object], seconds: float) -> Report:
    """Four cases, of which the last does `bad`."""
    calls: list[int] = []

    def case(draw: Draw, folder: Path) -> str:
        calls.append(1)
        if len(calls) == 4:
            bad()
        return outcome(draw, folder)

    return fuzz("thing", case, 4, seconds=seconds)


def raising() -> None:
    raise KeyError("something unexpected")


def growing() -> None:
    bytearray(400_000_000)[::4096] = b"x" * -(-400_000_000 // 4096)


@pytest.mark.parametrize(
    ("bad", "seconds", "told"),
    [
        (raising, 60, "thing 3: KeyError: 'something unexpected'"),
        (lambda: time.sleep(60), 2, "thing 3: took longer than 2 s"),
        (lambda: os.kill(os.getpid(), 9), 60, "thing 3: ended the process (-9)"),
        (growing, 60, "thing 3: memory grew by "),
    ],
    ids=["an exception", "a hang", "a crash", "growth"],
)
def test_what_must_not_happen_is_seen_and_numbered(bad: Callable[[], object], seconds: float, told: str) -> None:
    # Only the hang has a bound worth meeting: on a busy machine the others take what they take.
    report = run_with(bad, seconds)
    assert len(report.failures) == 1 and report.failures[0].startswith(told), report.failures
    assert report.outcomes == {"result": 3}


def test_a_reader_that_loses_a_row_or_raises_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fuzz as module

    path = tmp_path / "data.json"
    path.write_text('[{"conversations": 1}, 2]')

    class Prompts:
        def encode(self, records: list[object]) -> list[object]:
            return []

    assert read_json(path, Prompts()) == "result, with rejected rows"  # type: ignore[arg-type]
    monkeypatch.setattr(module, "read_rows", lambda path: ([], []))
    with pytest.raises(AssertionError, match="exit 4: internal error: AssertionError: rows were lost"):
        read_json(path, Prompts())  # type: ignore[arg-type]
