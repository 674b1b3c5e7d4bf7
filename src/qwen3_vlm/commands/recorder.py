"""Adapts the model to the scoring interface (`eyechart.seam`) and records the features of images at each stage."""

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
    """The model with the scoring interface; it records the features of each image at the stages of the connector.

    An image is recorded the first time it is encoded. Check 1 encodes each image unchanged before it changes pixels.
    """

    def __init__(self, vlm: VLM, scratch: Path | None = None) -> None:
        """Start without records; `scratch` is the folder for temporary files (by default that of the system)."""
        self.vlm = vlm
        self.inside = Inside(scratch)

    def encode(self, batch: Batch) -> VisualTokens:
        """Do the same as the model's method, and record the images; the tower runs only once."""
        stages = self.vlm.stages(batch)
        new = [i for i, sample in enumerate(batch.samples) if not self.inside.has(sample.row)]
        if new:
            rows = [batch.samples[i].row for i in new]
            self.inside.add(rows, {name: values[new].float().cpu().numpy() for name, values in stages.items()})
        return VisualTokens((stages[OUTPUT],))

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Call the model's method of the same name."""
        return self.vlm.nll(batch, visual)

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """Call the model's method of the same name."""
        return self.vlm.pair_nll(batch, visual, images_B)

    def over(self, ranks: Ranks) -> Inside:
        """Return the records of all processes. All processes must call this."""
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
    """Measure a fresh connector of the model's shape on the images of a batch; None if nothing is finite."""
    inside, stages = Inside(), fresh_stages(vlm, batch, seed)
    inside.add([sample.row for sample in batch.samples], {n: v.float().cpu().numpy() for n, v in stages.items()})
    found = look_inside(inside, vlm)
    return None if found is None else Untrained(found, vlm.connector.shape.output_norm)


@torch.no_grad()
def look_inside(inside: Inside, vlm: VLM) -> Internals | None:
    """Compute numbers about the connector's stages from the records; None if no image was recorded.

    The scale of text is computed here from the embeddings that the language model uses, as an independent check of the
    value that the connector uses (`LanguageModel.text_rms`).
    """
    common_KE = vlm.llm.embed(torch.arange(min(_COMMON, vlm.llm.model.config.vocab_size), device=vlm.device))
    return internals(inside, float(common_KE.float().square().mean().sqrt()))
