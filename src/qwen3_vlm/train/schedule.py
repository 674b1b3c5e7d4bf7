"""The learning-rate schedule, and the order in which an epoch uses the training samples.

All functions depend only on their arguments, so a checkpoint needs no state of the schedule or of the order.
"""

from __future__ import annotations

import math

import torch

from qwen3_vlm.config import TrainConfig

_ONE_CYCLE_START, _ONE_CYCLE_END = 25.0, 250_000.0

Window = list[list[int]]
"""The batches of one optimizer update. Each batch is a list of positions in the training split."""


def learning_rate(update: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of one update out of `total` updates; `update` is counted from 0.

    During the warm-up of `warm` updates, the rate increases linearly from lr/warm to lr. Afterwards, it depends on the
    schedule: it is constant, decreases linearly towards 0, or follows the cosine lr * (1 + cos(pi * x)) / 2, where x
    increases from 0 towards 1. With the schedule one-cycle, the rate follows a cosine from lr/25 to lr during the
    warm-up, and then another cosine down to lr/250000 (Smith and Topin 2018, with PyTorch's default factors). The
    momentum is not changed.
    """
    warm = round(config.warmup_ratio * total)
    if update < warm:
        if config.schedule == "one-cycle":
            return _cosine(config.lr / _ONE_CYCLE_START, config.lr, update / warm)
        return config.lr * (update + 1) / warm
    passed = (update - warm) / max(1, total - 1 - warm)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "linear":
        return config.lr * (1 - (update - warm) / max(1, total - warm))
    if config.schedule == "cosine":
        return _cosine(config.lr, 0.0, (update - warm) / max(1, total - warm))
    return _cosine(config.lr, config.lr / _ONE_CYCLE_END, passed)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def plan_epoch(samples: int, epoch: int, seed: int, batch_size: int, accumulation: int) -> list[Window]:
    """Return the random order of the samples in one epoch, divided into windows of batches.

    A window contains the batches of one optimizer update (`accumulation` batches). The positions from 0 to samples-1
    occur exactly once each. The last batch and the last window may be smaller than the others. For example, 4,900
    samples in batches of 4 give 1,225 batches, and gradient accumulation over 4 batches gives 307 windows.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(samples, generator=generator).tolist()
    batches = [order[i : i + batch_size] for i in range(0, samples, batch_size)]
    return [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]


def micro_batches(window: Window, lengths: list[int], size: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Split this rank's share of a window into micro-batches of at most `size` samples of similar length.

    The gradient of a window does not depend on how the window is split. The loss is a sum over all label tokens, which
    is divided only once, by the number of label tokens in the window over all ranks.
    """
    positions = sorted((p for batch in window for p in batch), key=lambda p: (lengths[p], p))
    mine = positions[rank::world]
    return [mine[i : i + size] for i in range(0, len(mine), size)]
