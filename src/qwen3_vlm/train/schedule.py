"""The learning rate as a function of the update, and the order of the data as a function of the epoch.

Both depend only on their arguments, so a resumed run needs no state for them.
"""

from __future__ import annotations

import math

import torch

from qwen3_vlm.config import TrainConfig

_ONE_CYCLE_START, _ONE_CYCLE_END = 25.0, 250_000.0

Window = list[list[int]]
"""The batches of one optimizer update, each a list of positions in the training split."""


def learning_rate(update: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of update `update` (counted from 0) of `total`.

    The warm-up is linear from lr/warm to lr. After it, the rate is constant, falls linearly to 0, or follows the cosine
    lr * (1 + cos(pi * x)) / 2. With one-cycle, the warm-up is a cosine, too: from lr/25 to lr, and then down to
    lr/250000 (Smith and Topin 2018, with PyTorch's default factors; the momentum is not changed).
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
    """Return the order of one epoch as windows of batches of positions 0..samples-1.

    Every position appears exactly once. The last batch and the last window may be smaller than the others: 4,900
    samples in batches of 4 with accumulation 4 give 1,225 batches in 307 windows.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(samples, generator=generator).tolist()
    batches = [order[i : i + batch_size] for i in range(0, samples, batch_size)]
    return [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]


def micro_batches(window: Window, lengths: list[int], size: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Split this rank's share of a window into forward passes of at most `size` samples of similar length.

    The gradient of a window does not depend on how it is split, because the loss is a sum that is divided once by the
    number of label tokens of the window over all ranks.
    """
    positions = sorted((p for batch in window for p in batch), key=lambda p: (lengths[p], p))
    mine = positions[rank::world]
    return [mine[i : i + size] for i in range(0, len(mine), size)]
