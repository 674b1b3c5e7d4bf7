"""Bad input, through the commands: a one-line error that states what, where, and how to fix it; docs/errors.md lists
them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from bad_cases import ACCEPTED, CASES
from bad_inputs import Case, Outcome, make_template, reasons, render, run, shown

DOCS = Path(__file__).parents[1] / "docs" / "errors.md"


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Outcome]:
    """Each case is run once, for all the tests that look at it."""
    root = tmp_path_factory.mktemp("bad")
    template = make_template(root / "template")

    @cache
    def outcome(case: Case) -> Outcome:
        return run(case, template, root / f"{abs(hash((case.name, case.command)))}")

    return outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}: {case.command.split()[0]}")
def test_each_bad_input_has_its_exit_code_and_its_message(case: Case, outcome_of: Callable[[Case], Outcome]) -> None:
    outcome = outcome_of(case)
    assert outcome.code == case.code, outcome.err
    for part in case.says:
        assert part in shown(case, outcome)
    assert "Traceback" not in outcome.err + outcome.out
    if case.kind == "stops":
        assert len(outcome.err.splitlines()) == 1, outcome.err
        assert outcome.err.startswith("error: ") and outcome.out == "", "nothing was begun"


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_what_is_accepted_loses_no_row(case: Case, outcome_of: Callable[[Case], Outcome]) -> None:
    coverage = json.loads(outcome_of(case).out)["coverage"]
    assert (coverage["samples"], coverage["rejected"]) == (18, {})


@pytest.mark.parametrize("case", [c for c in CASES if c.command == "audit --data.max_rejected 0"], ids=lambda c: c.name)
def test_up_to_the_limit_the_row_is_counted_with_a_warning(case: Case, outcome_of: Callable[[Case], Outcome]) -> None:
    stopped = outcome_of(case)
    outcome = outcome_of(replace(case, command="audit --json"))
    coverage = json.loads(outcome.out)["coverage"]
    assert outcome.code == 0 and coverage["samples"] == 17
    (reason,) = coverage["rejected"]
    assert f"1 {reason}" in " ".join(reasons(outcome))
    counted = stopped.message.removeprefix("error: ").split(". That is more")[0]
    assert f"warning: {counted}; they are left out" in outcome.err, "the same words, below the limit and above"


@pytest.mark.slow
def test_the_page_of_errors_is_what_the_commands_say(outcome_of: Callable[[Case], Outcome]) -> None:
    page = render([(case, outcome_of(case)) for case in CASES])
    assert DOCS.read_text(encoding="utf-8") == page, "run `python tests/bad_inputs.py > docs/errors.md`"
