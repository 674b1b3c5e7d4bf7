"""Faults of resuming: parts of the state that are not restored to their values at the interruption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fault_site import INSIDE_EPOCH, Case, Site, swap

_RATE = "qwen3_vlm.train.schedule.learning_rate"
_RESTORE = "qwen3_vlm.train.resuming.restore"


def half_a_run(site: Site) -> None:
    """Copy the healthy run as it was on disk in the middle of its second epoch."""
    site.take_base(step=INSIDE_EPOCH)


def _order_drawn_anew(original: Any) -> Any:
    """Draw the order from a generator whose state was not restored."""
    return lambda samples, epoch, seed, batch_size, accumulation: original(
        samples, epoch, seed + 1, batch_size, accumulation
    )


def _optimizer_forgotten(original: Any) -> Any:
    def restore(run: Any, resumption: Any) -> None:
        fresh = run.optimizer.state_dict()
        original(run, resumption)
        run.optimizer.load_state_dict(fresh)
        run.optimizer.state.clear()

    return restore


def _updates_from_zero(original: Any) -> Any:
    def restore(run: Any, resumption: Any) -> None:
        original(run, resumption)
        run.updates = 0

    return restore


def _schedule_of_the_rest(original: Any) -> Any:
    """Make a schedule for only the remaining updates, which starts with a new warm-up."""
    start: list[int] = []

    def rate(update: int, total: int, config: Any) -> float:
        if not start:
            start.append(update)
        result: float = original(update - start[0], total - start[0], config)
        return result

    return rate


def _epoch_from_its_start(original: Any) -> Any:
    def restore(run: Any, resumption: Any) -> None:
        original(run, resumption)
        run.progress = replace(run.progress, batches=0)

    return restore


RESUMING = (
    Case(
        "order-drawn-anew",
        "resume-drift",
        "after resuming, the order of the data is drawn anew",
        "resume",
        half_a_run,
        swap("qwen3_vlm.train.schedule.plan_epoch", _order_drawn_anew),
    ),
    Case(
        "optimizer-forgotten",
        "resume-drift",
        "the optimizer's state is not restored",
        "resume",
        half_a_run,
        swap(_RESTORE, _optimizer_forgotten),
        world="digits",
    ),
    Case(
        "schedule-from-the-start",
        "resume-drift",
        "the count of updates starts at 0, so the learning rate does",
        "resume",
        half_a_run,
        swap(_RESTORE, _updates_from_zero),
    ),
    Case(
        "schedule-of-the-rest",
        "resume-drift",
        "after resuming the schedule is made anew for the updates that are left: it warms up again",
        "resume",
        half_a_run,
        swap(_RATE, _schedule_of_the_rest),
    ),
    Case(
        "epoch-begun-again",
        "resume-drift",
        "after resuming the epoch begins again",
        "resume",
        half_a_run,
        swap(_RESTORE, _epoch_from_its_start),
    ),
)
