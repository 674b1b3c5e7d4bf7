"""What is measured beside the conditions of check 1, on the same samples: matching, words, inside the connector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from qwen3_vlm.batch import Batch, TokenNLL, VisualTokens
from qwen3_vlm.checks.conditions import MEASUREMENTS
from qwen3_vlm.checks.internals import AT_ONCE, OUTPUT, Inside, internals
from qwen3_vlm.checks.matching import match
from qwen3_vlm.checks.scoring import Ranks, Scorer
from qwen3_vlm.checks.summary import Scores
from qwen3_vlm.checks.word_pieces import Decode
from qwen3_vlm.checks.words import words_of
from qwen3_vlm.config import Config
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.progress import progress_bar
from qwen3_vlm.results import Ablation, Internals

_COMMON = 4096
"""Token ids whose embeddings stand for text: a BPE vocabulary gives its lowest ids to the commonest pieces."""


class Recorder:
    """Our model behind the scoring seam, noting what each image looks like on its way through the connector.

    An image is noted the first time it is encoded, and check 1 encodes it as it is before it changes its pixels.
    """

    def __init__(self, vlm: VLM, scratch: Path | None = None) -> None:
        """Nothing is noted yet; `scratch` is the folder for temporary files, by default the system's."""
        self.vlm = vlm
        self.inside = Inside(scratch)

    def encode(self, batch: Batch) -> VisualTokens:
        """As the model's own; the tower runs once."""
        stages = self.vlm.stages(batch)
        new = [i for i, sample in enumerate(batch.samples) if not self.inside.has(sample.row)]
        if new:
            rows = [batch.samples[i].row for i in new]
            self.inside.add(rows, {name: values[new].float().cpu().numpy() for name, values in stages.items()})
        return VisualTokens((stages[OUTPUT],))

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """As the model's own."""
        return self.vlm.nll(batch, visual)

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """As the model's own."""
        return self.vlm.pair_nll(batch, visual, images_B)

    def over(self, ranks: Ranks) -> Inside:
        """What all processes have noted; called by all of them."""
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
    """Figures of what a recorder noted; None without an image.

    The scale of text is read off the embeddings themselves, as the language model looks them up: the connector's own
    idea of it (`LanguageModel.text_rms`) is what this is to check.
    """
    common_KE = vlm.llm.embed(torch.arange(min(_COMMON, vlm.llm.model.config.vocab_size), device=vlm.device))
    return internals(inside, float(common_KE.float().square().mean().sqrt()))


def with_measures(
    ablation: Ablation,
    scores: Scores,
    scorer: Scorer,
    names: Sequence[str],
    decode: Decode,
    eos_id: int,
    config: Config,
    ranks: Ranks,
    inside: Inside | None = None,
) -> Ablation:
    """Add matching, where `--conditions` asks for it, and words.

    Args:
        ablation: check 1.
        scores: its samples, with their visual tokens.
        scorer: the model, behind the seam.
        names: what was asked for.
        decode: token ids to text, special tokens kept and no spaces cleaned up.
        eos_id: the token that ends a caption.
        config: settings and seed.
        ranks: the processes that share the work, each called with the same arguments.
        inside: pooled tower features, for hard and graded donors; None leaves these out.
    """
    found = None
    if scores.visual is not None and any(name in names for name in MEASUREMENTS):
        features_SV = inside.features([sample.row for sample in scores.samples]) if inside is not None else None
        found = match(
            scorer,
            scores.samples,
            scores.visual,
            features_SV,
            config.ablation,
            config.seed,
            progress=lambda total: progress_bar(total, "matching", "pair"),
            ranks=ranks,
        )
    words = words_of(scores, decode, eos_id, config.ablation)
    return ablation.model_copy(update={"matching": found, "words": words})
