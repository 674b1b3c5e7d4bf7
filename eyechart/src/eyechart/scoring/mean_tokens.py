"""Computes the mean visual tokens over many images, which the condition `mean-token` uses for every sample."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from eyechart.progress import Bar
from eyechart.scoring.contract import encode
from eyechart.seam import Batch, Reject, ScorerOfBatches


@torch.no_grad()
def mean_tokens(scorer: ScorerOfBatches, batches: Iterable[Batch], bar: Bar) -> tuple[Tensor | None, list[Reject]]:
    """Average the visual tokens of all images that can be read.

    Args:
        scorer: the model that encodes the images; the first layer of its visual tokens is averaged.
        batches: the batches with the images.
        bar: a progress bar whose unit is one image.

    Returns:
        The mean [Q,E] in float32 on the CPU, or None if no image could be read; and the rows that could not be read.
    """
    total_QE, seen = torch.zeros(()), 0
    unread: list[Reject] = []
    for batch in batches:
        unread += batch.rejects
        if len(batch):
            visual_BQE = encode(scorer, batch).layers[0].float().cpu()
            total_QE, seen = total_QE + visual_BQE.sum(0), seen + len(batch)
        bar.update(len(batch) + len(batch.rejects))
    return (total_QE / seen if seen else None), unread
