"""Prepares the scored samples for the report page: sorts them, and cuts their captions into words."""

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
"""The maximum number of samples in results.json; samples.parquet (see `parquet`) contains all samples."""


def decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Return a function that decodes token ids without changes to the text: it keeps special tokens and all spaces."""
    return lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def scored_samples(scores: Sequence[SampleScore], vocabulary: Vocabulary, limit: int = LISTED) -> list[ScoredSample]:
    """Return the samples, sorted by how much the loss rises with a wrong picture, the largest increase first.

    The increase is the gap of `shuffled`, in nats per label token.

    Args:
        scores: all scored samples.
        vocabulary: the vocabulary, used to cut captions into words; without `decode`, captions are not cut.
        limit: the maximum number of samples; if there are more, an evenly spaced selection of the sorted samples is
            returned.

    Returns:
        The samples; losses that are not finite are left out, and samples without a finite gap come last. If `shuffled`
        was not scored, the samples are in the order of rows, and no caption is cut into words.
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
    """Return the summed NLL in nats, averaged over the derangements."""
    return float(np.mean([nll_T.sum() for nll_T in score.nll[name]]))


def _gap(score: SampleScore) -> float:
    if "shuffled" not in score.nll or "correct" not in score.nll:
        return -np.inf
    gap = (_sum(score, "shuffled") - _sum(score, "correct")) / len(score.label_ids_T)
    return gap if np.isfinite(gap) else -np.inf
