"""Newly initialised connectors of a model's shape: the reference for what a trained one has learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from eyechart.faults.rivals import Rival, Rivals, rival_gaps
from eyechart.scoring.batching import collate
from eyechart.seam import Batch, Sample, VisualTokens
from qwen3_vlm.models.connector import fresh_connector
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.update import SampleSource

_FRESH = 6
"""Number of fresh connectors. With only three, 2 of 24 untrained connectors beat them by more than their spread."""
_AVERAGED = 64
"""Number of training pictures in the average; its error is then an eighth of the spread between pictures."""


def fresh_stages(vlm: VLM, batch: Batch, seed: int) -> dict[str, Tensor]:
    """Return the stages of a fresh connector for a batch, as `VLM.stages` does for the model's own."""
    fresh = fresh_connector(vlm.connector.shape, seed, vlm.connector.text_rms)
    return vlm.stages(batch, fresh.to(vlm.device).eval())


def all_rivals(vlm: VLM, batch: Batch, training: SampleSource, pad_id: int, seed: int) -> Rivals | None:
    """Compare also with the average over evenly spaced training pictures. Other arguments as for `fresh_rivals`."""
    step = max(1, len(training) // _AVERAGED)
    items = [training[place] for place in range(0, len(training), step)][:_AVERAGED]
    seen = [item for item in items if isinstance(item, Sample)]
    return fresh_rivals(vlm, batch, seed, collate(seen, pad_id) if seen else None)


@torch.no_grad()
def fresh_rivals(vlm: VLM, batch: Batch, seed: int, averaged: Batch | None = None) -> Rivals | None:
    """Compare the connector's tokens with those of fresh connectors; None if the losses cannot be compared.

    Args:
        vlm: the model.
        batch: samples with their pictures and label tokens.
        seed: seed of the run; its own start is the first of the fresh connectors.
        averaged: samples of which the connector's average tokens are also compared.
    """
    rivals = [_tokens_of(vlm, seed + number) for number in range(_FRESH)]
    if averaged is not None:
        mean_QE = vlm.encode(averaged).layers[0].mean(dim=0)
        rivals.append(lambda given: VisualTokens((mean_QE.expand(len(given), -1, -1),)))
    gaps = [gap for gap in rival_gaps(vlm, batch, rivals) if gap is not None]
    if len(gaps) < len(rivals):
        return None
    return Rivals(tuple(gaps[:_FRESH]), None if averaged is None else gaps[_FRESH])


def _tokens_of(vlm: VLM, seed: int) -> Rival:
    return lambda batch: VisualTokens((fresh_stages(vlm, batch, seed)["projector"],))
