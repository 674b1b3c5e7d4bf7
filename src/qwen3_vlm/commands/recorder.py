"""Adapts our model to the scoring seam and records what its images look like at each stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from eyechart.results import Internals
from eyechart.scoring.internals import AT_ONCE, OUTPUT, Inside, internals
from eyechart.scoring.ranks import Ranks
from eyechart.seam import Batch, TokenNLL, VisualTokens
from qwen3_vlm.models.vlm import VLM

_COMMON = 4096
"""Token ids whose embeddings represent text: a BPE vocabulary gives its lowest ids to the most common pieces."""


class Recorder:
    """Our model, adapted to the scoring seam; records each image at the stages of the connector.

    An image is recorded the first time it is encoded; check 1 encodes it unchanged before it changes its pixels.
    """

    def __init__(self, vlm: VLM, scratch: Path | None = None) -> None:
        """Start without records; `scratch` is the folder for temporary files, by default the system's."""
        self.vlm = vlm
        self.inside = Inside(scratch)

    def encode(self, batch: Batch) -> VisualTokens:
        """Like the model's own method; the tower runs once."""
        stages = self.vlm.stages(batch)
        new = [i for i, sample in enumerate(batch.samples) if not self.inside.has(sample.row)]
        if new:
            rows = [batch.samples[i].row for i in new]
            self.inside.add(rows, {name: values[new].float().cpu().numpy() for name, values in stages.items()})
        return VisualTokens((stages[OUTPUT],))

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Like the model's own method."""
        return self.vlm.nll(batch, visual)

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """Like the model's own method."""
        return self.vlm.pair_nll(batch, visual, images_B)

    def over(self, ranks: Ranks) -> Inside:
        """The records of all processes; called by all of them."""
        if ranks.count == 1:
            return self.inside
        whole = Inside(self.inside.scratch)
        for sums in ranks.gather(self.inside.sums()):
            whole.merge(sums)
        for start in range(0, max(ranks.gather(len(self.inside.places))), AT_ONCE):
            for pooled in ranks.gather(self.inside.pooled(start, start + AT_ONCE)):
                whole.take(pooled)
        return whole


@torch.no_grad()
def look_inside(inside: Inside, vlm: VLM) -> Internals | None:
    """Figures from the records; None without an image.

    The scale of text is computed from the embeddings that the language model uses: the connector's own value
    (`LanguageModel.text_rms`) is what this checks.
    """
    common_KE = vlm.llm.embed(torch.arange(min(_COMMON, vlm.llm.model.config.vocab_size), device=vlm.device))
    return internals(inside, float(common_KE.float().square().mean().sqrt()))
