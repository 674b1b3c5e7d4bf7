"""Faults of training: which parameters the optimizer changes, how much, when, and from which rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fault_edits import built, settings
from fault_site import Case, swap

_OPTIMIZER = "torch.optim.AdamW"


def _trains(part: Callable[[Any], nn.Module]) -> Callable[[Any], None]:
    """Also register a frozen module in the connector, so that the optimizer trains it."""

    def change(vlm: Any) -> None:
        vlm.connector.borrowed = part(vlm).requires_grad_(True)

    return change


def _of_copies(original: Any) -> Any:
    """Give the optimizer copies of the parameters, as if it had been made before the model was moved."""

    def make(parameters: Any, **options: Any) -> Any:
        return original([nn.Parameter(p.detach().clone()) for p in parameters], **options)

    return make


def _without_matrices(original: Any) -> Any:
    return lambda parameters, **options: original([p for p in parameters if p.ndim < 2], **options)


def _gradients_kept(original: Any) -> Any:
    return lambda self, set_to_none=True: None


def _skipping(original: Any) -> Any:
    """Skip every step, like a gradient scaler that finds an overflow in every update."""

    def make(parameters: Any, **options: Any) -> Any:
        optimizer = original(parameters, **options)
        optimizer.step = lambda closure=None: None
        return optimizer

    return make


@torch.no_grad()
def _projector_dead(vlm: Any) -> None:
    """Set the projector's hidden biases to -30, where GELU and its gradient are 0."""
    vlm.connector.projector.net[0].bias.fill_(-30.0)


def _quarter_of_the_rows(original: Any) -> Any:
    """Use a sampler for four ranks in a job with one rank."""
    return lambda samples, epoch, seed, batch_size, accumulation: original(
        samples // 4, epoch, seed, batch_size, accumulation
    )


TRAINING = (
    Case(
        "language-norm-trained",
        "frozen-moved",
        "the optimizer also has the language model's last norm",
        "training",
        change=built(_trains(lambda vlm: vlm.llm.model.model.norm)),
    ),
    Case(
        "tower-decays",
        "frozen-moved",
        "the optimizer also has the tower's last norm: no gradient, but weight decay",
        "training",
        change=built(_trains(lambda vlm: vlm.tower.model.post_layernorm)),
        world="digits",
    ),
    Case(
        "optimizer-of-copies",
        "no-gradient",
        "the optimizer holds copies of the connector's parameters",
        "training",
        change=swap(_OPTIMIZER, _of_copies),
    ),
    Case(
        "resampler-frozen",
        "no-gradient",
        "the resampler does not require gradients",
        "training",
        change=built(lambda vlm: vlm.connector.resampler.requires_grad_(False)),
    ),
    Case(
        "learning-rate-zero",
        "no-gradient",
        "the schedule returns 0",
        "training",
        world="digits",
        change=swap("qwen3_vlm.train.schedule.learning_rate", lambda original: lambda update, total, config: 0.0),
    ),
    Case(
        "optimizer-without-matrices",
        "no-gradient",
        "the optimizer has lost its group of matrices",
        "training",
        change=swap(_OPTIMIZER, _without_matrices),
    ),
    Case(
        "every-step-skipped",
        "no-gradient",
        "a gradient scaler skips the optimizer's step in every update",
        "training",
        change=swap(_OPTIMIZER, _skipping),
    ),
    Case("clip-tiny", "no-gradient", "train.clip is 1e-9", set_up=settings(train__clip=1e-9)),
    Case(
        "projector-dead",
        "collapsed",
        "all hidden units of the projector are shut at the start, so that only its last bias learns",
        "training",
        change=built(_projector_dead),
        also=("no-gradient",),
    ),
    Case(
        "gradients-kept",
        "gradients-kept",
        "gradients are never set to zero",
        "training",
        change=swap("torch.optim.Optimizer.zero_grad", _gradients_kept),
    ),
    Case(
        "quarter-of-the-rows",
        "under-trained",
        "the sampler hands out the same quarter of the rows in every epoch",
        "training",
        change=swap("qwen3_vlm.train.schedule.plan_epoch", _quarter_of_the_rows),
    ),
    Case("weight-decay-huge", "collapsed", "train.weight_decay is 300", set_up=settings(train__weight_decay=300.0)),
    Case(
        "learning-rate-huge",
        "learning-rate-too-high",
        "train.lr is 3",
        set_up=settings(train__lr=3.0),
        also=("non-finite",),
    ),
)
