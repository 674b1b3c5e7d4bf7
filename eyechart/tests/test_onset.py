"""When a connector begins to look, by the standings of its looks, and the sentences about looks."""

from __future__ import annotations

from typing import Any

import pytest

from eyechart.reporting.looks import look_line, read_onset
from eyechart.results import Look, Standing
from eyechart.verdict.onset import last_ruled_out, onset

NO, YES, OPEN = "ruled out", "costs", "open"


def looks(*standings: Standing, **changes: Any) -> list[Look]:
    """At steps 10, 100, 1000 ..., with gaps of 0.1, 0.2, 0.3 ... that no sentence and no rule may judge."""
    fields = {"correct": 1.0, "gap_zero": 0.5, "r_at_1": 0.75, "k": 8, **changes}
    return [
        Look(step=10 ** (i + 1), gap_shuffled=0.1 * (i + 1), shuffled=standing, **fields)
        for i, standing in enumerate(standings)
    ]


@pytest.mark.parametrize(
    ("standings", "first"),
    [
        ((NO, OPEN, YES, YES), 2),
        ((NO, YES, OPEN), 1),
        ((YES, NO, YES), 2),
        ((YES, OPEN, YES), 0),
        ((OPEN, YES), 1),
        ((YES, NO), None),
        ((YES, NO, OPEN), None),
        ((NO, OPEN), None),
        ((), None),
    ],
)
def test_the_onset_is_the_first_look_that_costs_after_the_last_that_is_ruled_out(
    standings: tuple[Standing, ...], first: int | None
) -> None:
    assert onset(looks(*standings)) == first


def test_the_last_look_that_is_ruled_out_is_found_or_there_is_none() -> None:
    assert last_ruled_out(looks(NO, NO, OPEN)) == 1 and last_ruled_out(looks(OPEN, YES)) is None


def test_the_onset_lies_between_the_last_look_that_rules_it_out_and_the_first_that_shows_it() -> None:
    assert read_onset(looks(NO, OPEN, YES, lower_shuffled=0.06, upper_shuffled=0.9)) == (
        "The connector began to use the picture between step 10 and step 1,000; at step 1,000 a wrong picture "
        "costs +0.300 (+0.060 to +0.900) nats per token, zeros cost +0.500, and 75% of captions are "
        "likeliest with their own among 8 pictures (guessing: 12%)."
    )


def test_without_a_look_that_rules_it_out_only_the_latest_step_of_the_onset_is_said() -> None:
    assert read_onset(looks(YES, YES)).startswith("The connector began to use the picture by step 10; at step 100")
    assert read_onset(looks(OPEN, YES)).startswith("The connector began to use the picture by step 100; ")


def test_what_is_ruled_out_has_not_begun_and_what_is_open_is_called_open() -> None:
    assert read_onset(looks(YES, NO)).startswith("The connector had not begun to use the picture: at step 100 ")
    assert read_onset(looks(OPEN, OPEN)).startswith("Whether the connector uses the picture is open: at step 100 ")
    assert read_onset(looks(NO, OPEN)).endswith("(guessing: 12%); at step 10 it had not begun to use it.")
    assert read_onset([]) == ""


def test_looks_of_an_older_version_are_open_however_large_their_gap() -> None:
    older = Look(step=919, correct=1.0, gap_shuffled=2.0, gap_zero=0.5)
    assert read_onset([older]) == (
        "Whether the connector uses the picture is open: at step 919 a wrong picture costs +2.000 nats per token, "
        "zeros cost +0.500."
    )


def test_a_look_is_one_line_with_its_bounds_and_standings() -> None:
    (look,) = looks(YES, lower_shuffled=0.06, upper_shuffled=0.14, zero=OPEN)
    assert look_line(look) == (
        "look at step 10 | loss 1.000 | wrong picture +0.100 (+0.060 to +0.140) costs | zeros +0.500 open | own "
        "picture first of 8: 75%"
    )
    assert look_line(look.model_copy(update={"r_at_1": None, "lower_shuffled": None})) == (
        "look at step 10 | loss 1.000 | wrong picture +0.100 costs | zeros +0.500 open"
    )
