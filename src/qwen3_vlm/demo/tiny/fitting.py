"""Trains either tiny backbone with AdamW, a one-cycle learning-rate schedule, gradient clipping and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from eyechart.progress import progress_bar

BETAS = (0.9, 0.98)


def fit(
    parameters: Iterable[nn.Parameter],
    loss_of_step: Callable[[int], Tensor],
    *,
    steps: int,
    rate: float,
    weight_decay: float,
    label: str,
) -> float:
    """Minimise `loss_of_step(step)` over `steps` optimiser steps.

    Args:
        parameters: the parameters to train.
        loss_of_step: a function that draws the batch of a step (counted from 0) and returns its scalar loss.
        steps: number of optimiser steps.
        rate: peak learning rate of the one-cycle schedule.
        weight_decay: weight decay of AdamW.
        label: name of the model, shown on the progress bar and in the error message.

    Returns:
        The mean loss over the last tenth of the steps.

    Raises:
        ValueError: the loss is not finite. The message names the step.
    """
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=BETAS, weight_decay=weight_decay)
    # In short runs, the warm-up is a larger share of the steps, and the schedule has at least ten steps. Without any
    # warm-up step, OneCycleLR would divide by zero.
    warm_up = 0.08 if steps >= 50 else 0.3
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps, 10), pct_start=warm_up)
    tail: list[float] = []
    with progress_bar(steps, label, "step") as bar:
        for step in range(steps):
            loss = loss_of_step(step)
            value = loss.item()
            if not torch.isfinite(loss):
                raise ValueError(f"{label}: the loss is {value} at step {step}; try fewer --steps or other data")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            if step >= steps * 0.9:
                tail.append(value)
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
    return sum(tail) / max(len(tail), 1)
