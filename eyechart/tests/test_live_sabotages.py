"""A few sabotages of `benchmarks/live_sabotages.py`, which runs all of them: none is a PASS."""

from __future__ import annotations

import pytest

from colour_worlds import World, make_world
from live_sabotages import OF_LIVE, OWN, Sabotage, outcome

BY_NAME = {sabotage.name: sabotage for sabotage in (*OF_LIVE, *OWN)}
EXPECTED = {
    "features of the first call are kept forever": ("FAIL", "pixels-unused"),
    "the language model takes features kept inside": ("refused", "image-order"),
    "features are averaged over the batch": ("INCONCLUSIVE", "batch-dependent"),
}
ROWS = 32


@pytest.fixture(scope="module")
def world() -> World:
    return make_world("llava", steps=100)


def test_the_healthy_model_passes_and_has_no_error(world: World) -> None:
    found = outcome(world, rows=ROWS)
    assert found.verdict.startswith("PASS") and found.errors == ()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_sabotage_never_passes(world: World, name: str) -> None:
    found = outcome(world, BY_NAME[name], ROWS)
    verdict, error = EXPECTED[name]
    assert found.verdict.startswith(verdict) and error in found.errors


def test_features_that_are_lost_at_one_depth_are_refused() -> None:
    found = outcome(make_world("qwen3_vl", steps=2), BY_NAME["deepstack features are not handed on"], ROWS)
    assert found.verdict.startswith("refused") and "sentinel" in found.verdict and "not-injected" in found.errors


def test_every_sabotage_has_a_change() -> None:
    assert all(isinstance(s, Sabotage) and (s.model or s.batch) for s in BY_NAME.values()) and len(OWN) >= 10
