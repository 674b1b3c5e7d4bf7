"""The sentences of the first screen say no more than the figures beside them."""

from __future__ import annotations

import pytest

from eyechart.reporting.readings import pattern
from eyechart.results import Ablation, Condition
from report_data import make_ablation

MARGIN = 0.05


def gate(gap: float, half: float, margin: float = 0.0) -> Condition:
    """A gap with a 95% interval of gap -+ half."""
    ends = (gap - half, gap + half)
    return Condition(
        loss=1 + gap, gate=True, margin=margin, gap=gap, se=half / 2, ci95=ends, lower99=gap - 1.2 * half, meaning=""
    )


def ablation(shuffled: tuple[float, float], zero: tuple[float, float], noise: tuple[float, float]) -> Ablation:
    made: Ablation = make_ablation()
    gates = {"shuffled": gate(*shuffled, MARGIN), "zero": gate(*zero), "noise": gate(*noise)}
    return made.model_copy(update={"conditions": {**made.conditions, **gates}})


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        (((2.0, 0.1), (1.0, 0.1), (1.0, 0.1)), "It matters which picture it is"),
        (((0.0, 0.01), (1.0, 0.1), (1.0, 0.1)), "how captions sound"),
        (((0.002, 0.001), (1.0, 0.1), (1.0, 0.1)), "hardly does"),
        (((0.1, 0.2), (1.0, 0.1), (1.0, 0.1)), "is not settled"),
        (((0.99, 0.82), (2.0, 2.5), (2.0, 2.5)), "nothing is settled"),
        (((0.0, 0.01), (-0.1, 0.05), (-0.1, 0.05)), "the pictures are not read"),
    ],
    ids=["sees", "style only", "reads a little", "shuffled undecided", "all undecided", "nothing"],
)
def test_the_pattern_is_named_only_as_far_as_the_intervals_go(
    gaps: tuple[tuple[float, float], tuple[float, float], tuple[float, float]], said: str
) -> None:
    assert said in pattern(ablation(*gaps))
