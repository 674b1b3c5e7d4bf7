"""Whether captions go with their images, brought to the pure check: pooled tower features of some rows of each side."""

from __future__ import annotations

import numpy as np
import torch

from qwen3_vlm.build import Prepared
from qwen3_vlm.checks.pairing import Association, Pairing, association
from qwen3_vlm.data.collate import collate
from qwen3_vlm.data.dataset import Dataset
from qwen3_vlm.models.vlm import VLM

ROWS = 128
"""Rows of each side: true pairs of the embedded worlds are 40 standard deviations from chance with so many."""
_BATCH = 32


def pairing_of(prepared: Prepared, vlm: VLM) -> Pairing:
    """Measure both sides of the split, on their first rows; the tower runs once over them."""
    seed = prepared.config.seed
    train = _side(prepared.train, prepared.inputs.pad_id, vlm, seed)
    return Pairing(train, _side(prepared.eval, prepared.inputs.pad_id, vlm, seed))


@torch.no_grad()
def _side(dataset: Dataset, pad_id: int, vlm: VLM, seed: int) -> Association:
    pooled, captions = [], []
    rows = min(ROWS, len(dataset))
    for start in range(0, rows, _BATCH):
        batch = collate([dataset[p] for p in range(start, min(start + _BATCH, rows))], pad_id)
        if len(batch):
            pooled.append(vlm.features(batch).float().mean(dim=1).cpu().numpy())
            captions += [sample.caption for sample in batch.samples]
    if not captions:
        return Association(0, None)
    return association(np.concatenate(pooled), captions, seed)
