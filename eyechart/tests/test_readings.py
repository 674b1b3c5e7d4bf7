"""The sentences of the first screen say no more than the figures beside them."""

from __future__ import annotations

import pytest

from eyechart.reporting.conclusions import said
from eyechart.reporting.readings import connector, coverage
from html_data import make_full_ablation
from report_data import make_coverage
from standings import Gap, checked, covered, results_of

YES, NO, OPEN = (1.0, 0.05), (-0.1, 0.02), (0.05, 0.1)


@pytest.mark.parametrize(
    ("gaps", "told", "not_told"),
    [
        ((YES, YES, YES), "costs +1.00 nats per token (95% interval", "decided"),
        ((NO, YES, YES), "it does not matter from which picture", "hardly"),
        (((0.02, 0.001), YES, YES), "it hardly matters from which picture", "does not"),
        ((OPEN, YES, YES), "Whether the content of the picture matters is not decided", "does not"),
        ((OPEN, OPEN, OPEN), "Whether the content of the picture matters is not decided", "raise"),
        ((NO, NO, NO), "the model loses almost nothing without the picture", "raise"),
        ((NO, OPEN, NO), "Whether zeros in place of the picture cost anything is not decided", "nothing"),
        ((YES, OPEN, YES), "Whether zeros in its place cost anything is not decided", "noise"),
        ((YES, YES, NO), "Another sample's picture costs +1.00", "zeros"),
    ],
    ids=["sees", "style only", "a little", "content open", "open", "nothing", "rest open", "zeros open", "noise fails"],
)
def test_the_pattern_is_named_only_as_far_as_the_bounds_go(
    gaps: tuple[Gap, Gap, Gap], told: str, not_told: str
) -> None:
    names = ("shuffled", "zero", "noise")
    pattern = said(results_of(checked(dict(zip(names, gaps, strict=True)))), "pattern")
    assert told in pattern and not_told not in pattern


def test_without_all_three_gates_no_pattern_is_named() -> None:
    assert said(results_of(checked({"shuffled": YES, "zero": YES})), "pattern") == ""
    lone = results_of(checked({"shuffled": OPEN, "zero": NO}))
    assert "Whether the content of the picture matters is not decided" in said(lone, "headline")


def test_what_is_cut_is_said_once_and_only_where_something_is() -> None:
    for counted, times in ((make_coverage(), 0), (make_coverage("WARNS"), 1), (make_coverage("FAIL"), 1)):
        told = f"{said(results_of(None, counted), 'coverage')} {coverage(counted)}"
        assert told.count(" are truncated") == times and told.count("max_seq_len 512") == 1
        assert f"a max_seq_len of {counted.smallest_max_seq_len} is enough to stay within the limit." in told.lower()
    assert coverage(covered({})) == ""


def test_the_connector_is_described_by_what_was_measured() -> None:
    inside = make_full_ablation().connector
    assert inside is not None
    assert "is 1.02 times that of text embeddings" in connector(inside)
    assert "Of the 10 images most similar to an image" in connector(inside)
    assert "42% still are after it" in connector(inside)
    fewer = inside.model_copy(update={"knn_overlap": None, "images": 9})
    assert "9 images are too few to compare neighbours" in connector(fewer)
    assert "Among the first 50 images, of the 10" in connector(inside.model_copy(update={"compared": 50}))
