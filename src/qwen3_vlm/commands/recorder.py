"""A scorer (`eyechart.seam`) for the model that also records the features of each image at the connector's stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from eyechart.faults.pattern_of_tokens import Untrained
from eyechart.results import Internals
from eyechart.scoring.internals import AT_ONCE, OUTPUT, Inside, internals
from eyechart.scoring.ranks import Ranks
from eyechart.seam import Batch, TokenNLL, VisualTokens
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.untrained import fresh_stages

_COMMON = 4096
"""Number of token ids, from 0, whose embeddings represent text. In a BPE vocabulary, the most common pieces have the
lowest ids."""


class Recorder:
    """A scorer for the model that also records the features of each image at the stages of the connector.

    An image is recorded when it is encoded for the first time. At that time it is unchanged, because check 1 encodes
    every image before it changes any pixels.
    """

    def __init__(self, vlm: VLM, scratch: Path | None = None) -> None:
        """Start without records; `scratch` is the folder for temporary files (by default the system's)."""
        self.vlm = vlm
        self.inside = Inside(scratch)

    def encode(self, batch: Batch) -> VisualTokens:
        """Encode the images as the model's own `encode` does, and record their features; the tower runs only once."""
        stages = self.vlm.stages(batch)
        new = [i for i, sample in enumerate(batch.samples) if not self.inside.has(sample.row)]
        if new:
            rows = [batch.samples[i].row for i in new]
            self.inside.add(rows, {name: values[new].float().cpu().numpy() for name, values in stages.items()})
        return VisualTokens((stages[OUTPUT],))

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Return the losses from the model's own `nll`."""
        return self.vlm.nll(batch, visual)

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """Return the losses from the model's own `pair_nll`."""
        return self.vlm.pair_nll(batch, visual, images_B)

    def over(self, ranks: Ranks) -> Inside:
        """Combine the records of all processes. Every process must call this method."""
        if ranks.count == 1:
            return self.inside
        whole = Inside(self.inside.scratch)
        for sums in ranks.gather(self.inside.sums()):
            whole.merge(sums)
        for start in range(0, max(ranks.gather(len(self.inside.places))), AT_ONCE):
            for pooled in ranks.gather(self.inside.pooled(start, start + AT_ONCE)):
                whole.take(pooled)
        return whole


def fresh_reference(vlm: VLM, batch: Batch, seed: int) -> Untrained | None:
    """Measure a newly initialised connector on the images of a batch; None if its outputs are not finite.

    The connector has the same shape as the model's own.
    """
    inside, stages = Inside(), fresh_stages(vlm, batch, seed)
    inside.add([sample.row for sample in batch.samples], {n: v.float().cpu().numpy() for n, v in stages.items()})
    found = look_inside(inside, vlm)
    return None if found is None else Untrained(found, vlm.connector.shape.output_norm)


@torch.no_grad()
def look_inside(inside: Inside, vlm: VLM) -> Internals | None:
    """Compute the figures of the connector's stages from the records; None if no image was recorded.

    The scale of the text embeddings is computed here from the embeddings that the language model uses. It is an
    independent check of the value that the connector uses (`LanguageModel.text_rms`).
    """
    common_KE = vlm.llm.embed(torch.arange(min(_COMMON, vlm.llm.model.config.vocab_size), device=vlm.device))
    return internals(inside, float(common_KE.float().square().mean().sqrt()))
