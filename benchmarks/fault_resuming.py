"""Faults of resuming: what is not put back to where it stood when the run was interrupted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fault_site import INSIDE_EPOCH, Case, Site, swap

_RESTORE = "qwen3_vlm.train.resuming.restore"


def _half_a_run(site: Site) -> None:
    """The healthy run as it lay on disk in the middle of its second epoch."""
    site.take_base(step=INSIDE_EPOCH)


def _order_drawn_anew(original: Any) -> Any:
    """The order comes from a generator that was not put back to where it stood."""
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


def _epoch_from_its_start(original: Any) -> Any:
    def restore(run: Any, resumption: Any) -> None:
        original(run, resumption)
        run.progress = replace(run.progress, batches=0)

    return restore


def _averages_rounded(original: Any) -> Any:
    def restore(run: Any, resumption: Any) -> None:
        original(run, resumption)
        for state in run.optimizer.state.values():
            state["exp_avg_sq"] = state["exp_avg_sq"].to(torch.bfloat16).float()

    return restore


RESUMING = (
    Case(
        "order-drawn-anew",
        "resume-drift",
        "after resuming, the order of the data is drawn anew",
        "resume",
        _half_a_run,
        swap("qwen3_vlm.train.schedule.plan_epoch", _order_drawn_anew),
    ),
    Case(
        "optimizer-forgotten",
        "resume-drift",
        "the optimizer's state is not restored",
        "resume",
        _half_a_run,
        swap(_RESTORE, _optimizer_forgotten),
        world="digits",
    ),
    Case(
        "schedule-from-the-start",
        "resume-drift",
        "the count of updates starts at 0, so the learning rate does",
        "resume",
        _half_a_run,
        swap(_RESTORE, _updates_from_zero),
    ),
    Case(
        "epoch-begun-again",
        "resume-drift",
        "after resuming the epoch begins again",
        "resume",
        _half_a_run,
        swap(_RESTORE, _epoch_from_its_start),
    ),
    Case(
        "averages-in-bf16",
        "resume-drift",
        "the optimizer's second moments come back in bfloat16",
        "resume",
        _half_a_run,
        swap(_RESTORE, _averages_rounded),
    ),
)
