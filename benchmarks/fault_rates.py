"""Faults of the learning rate: far too high or far too low, in the config or in what the schedule makes of it."""

from __future__ import annotations

from typing import Any

from fault_edits import settings
from fault_site import Case, Change, swap


def _schedule_times(factor: float) -> Change:
    """The config has the right rate, and the optimizer gets another one."""

    def make(original: Any) -> Any:
        return lambda update, total, config: factor * original(update, total, config)

    return swap("qwen3_vlm.train.schedule.learning_rate", make)


RATES = (
    Case(
        "learning-rate-30-times",
        "learning-rate-too-high",
        "train.lr 0.06, 30 times what this world needs",
        set_up=settings(train__lr=0.06),
    ),
    Case(
        "learning-rate-30-times-digits",
        "learning-rate-too-high",
        "train.lr 30 times what the config has",
        set_up=settings(train__lr=0.06),
        world="digits",
    ),
    Case(
        "learning-rate-1000-times",
        "learning-rate-too-high",
        "train.lr 2, a thousand times what this world needs",
        set_up=settings(train__lr=2.0),
        also=("non-finite",),
    ),
    Case(
        "schedule-times-300",
        "learning-rate-too-high",
        "the schedule returns 300 times the rate of the config",
        "training",
        change=_schedule_times(300.0),
    ),
    Case(
        "learning-rate-low",
        "learning-rate-too-low",
        "train.lr 2e-5, a hundredth of what this world needs",
        set_up=settings(train__lr=2e-5),
    ),
    Case(
        "learning-rate-low-digits",
        "learning-rate-too-low",
        "train.lr 2e-5, a hundredth of what the config has",
        set_up=settings(train__lr=2e-5),
        world="digits",
    ),
    Case(
        "learning-rate-3000th",
        "learning-rate-too-low",
        "train.lr 6.7e-7, 1/3000 of what this world needs",
        set_up=settings(train__lr=6.7e-7),
    ),
    Case(
        "learning-rate-3000th-digits",
        "learning-rate-too-low",
        "train.lr 6.7e-7, 1/3000 of what the config has",
        set_up=settings(train__lr=6.7e-7),
        world="digits",
    ),
    Case(
        "schedule-in-thousandths",
        "learning-rate-too-low",
        "the schedule returns a thousandth of the rate of the config",
        "training",
        change=_schedule_times(1e-3),
    ),
)
