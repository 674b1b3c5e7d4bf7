"""The scored samples one by one, as the page shows them: ordered, cut into words, with what the model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from eyechart.data.choice import even_choice
from eyechart.results import ScoredSample
from eyechart.scoring.summary import SampleScore
from eyechart.scoring.word_pieces import Decode, pieces_of
from eyechart.seam import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LISTED = 500
"""Samples listed in results.json at most; samples.parquet (`parquet`) has them all."""


def decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Token ids to text as they are: special tokens kept, no spaces cleaned up."""
    return lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def scored_samples(scores: Sequence[SampleScore], vocabulary: Vocabulary, limit: int = LISTED) -> list[ScoredSample]:
    """The samples from the most to the least image-driven, by gap(shuffled) per label token.

    Args:
        scores: every scored sample.
        vocabulary: cuts captions into words; without `decode` none is.
        limit: with more samples than this, an evenly spaced selection in that order.

    Returns:
        Losses that are not finite are left out; samples without a finite gap come last. Without `shuffled` the order
        is that of the rows, and no caption is cut into pieces.
    """
    order = sorted(range(len(scores)), key=lambda i: (-_gap(scores[i]), i))
    return [_scored(scores[order[i]], vocabulary) for i in even_choice(len(order), limit)]


def _scored(score: SampleScore, vocabulary: Vocabulary) -> ScoredSample:
    decode, end_id = vocabulary.decode, vocabulary.end_id
    losses = {name: _sum(score, name) for name in score.nll}
    return ScoredSample(
        row=score.row,
        image=score.image,
        caption=score.caption,
        label_tokens=len(score.label_ids_T),
        losses={name: loss for name, loss in losses.items() if np.isfinite(loss)},
        pieces=pieces_of(score, decode, end_id) if decode and np.isfinite(_gap(score)) else [],
    )


def _sum(score: SampleScore, name: str) -> float:
    """Summed NLL in nats, averaged over the derangements."""
    return float(np.mean([nll_T.sum() for nll_T in score.nll[name]]))


def _gap(score: SampleScore) -> float:
    if "shuffled" not in score.nll or "correct" not in score.nll:
        return -np.inf
    gap = (_sum(score, "shuffled") - _sum(score, "correct")) / len(score.label_ids_T)
    return gap if np.isfinite(gap) else -np.inf
