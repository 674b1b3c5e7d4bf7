"""What a model must show before any number about it is believed. Run before every score.

1. own features: put back through `get_image_features`, they give the loss of the untouched model.
2. sentinel: with features that are not a number, no label token has a number for a loss. Otherwise the model does not
   look at what it is handed, and every gap would be 0 for a reason that has nothing to do with the model's sight.
3. leak: with features set to zero, other pixels change no loss, not by one bit. Otherwise the picture has a second way
   in (Qwen3-VL's deepstack features, had they not been replaced as well), and every gap would be too small.
4. causal: another last token changes no loss before it. Otherwise the model sees the caption it is to predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from eyechart.models.scorer import TransformersScorer
from eyechart.seam import IGNORE_INDEX, Batch, TokenNLL, VisualTokens

_TOLERANCE = {torch.float32: 1e-3}
_COARSE = 0.05
"""Nats, for weights in 16 bits."""


@torch.no_grad()
def refuse_unfit(scorer: TransformersScorer, batch: Batch) -> None:
    """Run all self-tests on a batch of one or two samples with images.

    Raises:
        ValueError: a test failed; one line says which, and what it means.
    """
    assert batch.pixels_BCHW is not None and len(batch)
    for test in (_own_features, _sentinel, _leak, _causal):
        try:
            finding = test(scorer, batch)
        except ValueError:
            raise
        except Exception as error:  # whatever a model of unknown making raises
            finding = f"it ended in {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if finding:
            name, meaning = _MEANINGS[test]
            raise ValueError(f"--model: {scorer.name} fails the self-test `{name}`: {finding}. {meaning}")


def _own_features(scorer: TransformersScorer, batch: Batch) -> str:
    assert batch.pixels_BCHW is not None
    own = _forward(scorer, batch, batch.pixels_BCHW, None).nll_N
    put_back = scorer.nll(batch, scorer.encode(batch)).nll_N
    difference = float((own - put_back).abs().max())
    allowed = _TOLERANCE.get(next(scorer.model.parameters()).dtype, _COARSE)
    return "" if difference <= allowed else f"the losses differ by up to {difference:.4g} nats"


def _sentinel(scorer: TransformersScorer, batch: Batch) -> str:
    nll_N = scorer.nll(batch, scorer.encode(batch).map(lambda layer: torch.full_like(layer, torch.nan))).nll_N
    numbers = int((~nll_N.isnan()).sum())
    return "" if not numbers else f"{numbers} of {len(nll_N)} label tokens still have a number for a loss"


def _leak(scorer: TransformersScorer, batch: Batch) -> str:
    assert batch.pixels_BCHW is not None
    zeros = scorer.encode(batch).map(torch.zeros_like)
    first, second = (_forward(scorer, batch, p, zeros).nll_N for p in (batch.pixels_BCHW, 255 - batch.pixels_BCHW))
    difference = float((first - second).abs().max())
    return "" if difference == 0 else f"negated pixels change a loss by {difference:.4g} nats"


def _causal(scorer: TransformersScorer, batch: Batch) -> str:
    visual = scorer.encode(batch)
    last = [int((labels_T != IGNORE_INDEX).nonzero()[-1]) for labels_T in batch.labels_BT]
    ids_BT, rows = batch.ids_BT.clone(), torch.arange(len(batch))
    ids_BT[rows, last] = batch.ids_BT[rows, [position - 1 for position in last]]  # any other token
    before, behind = (scorer.nll(b, visual).per_sample() for b in (batch, replace(batch, ids_BT=ids_BT)))
    difference = max(float((a - b).abs().max()) for a, b in zip(before, behind, strict=True))
    allowed = _TOLERANCE.get(next(scorer.model.parameters()).dtype, _COARSE)
    return "" if difference <= allowed else f"another last token changes a loss by {difference:.4g} nats"


def _forward(scorer: TransformersScorer, batch: Batch, pixels_BCHW: Tensor, visual: VisualTokens | None) -> TokenNLL:
    return scorer.forward(batch.ids_BT, batch.labels_BT, batch.lengths_B, scorer.pixels(pixels_BCHW), visual)


_MEANINGS: dict[Callable[[TransformersScorer, Batch], str], tuple[str, str]] = {
    _own_features: (
        "own features",
        "Visual tokens put back in their place do not give the model's own loss, so scores of other ones would not be "
        "its either; this architecture cannot be scored",
    ),
    _sentinel: (
        "sentinel",
        "The model does not read the visual tokens that get_image_features gives it: it ignores its image, or takes it "
        "from elsewhere; nothing could be said about what it sees",
    ),
    _leak: (
        "leak",
        "The picture reaches the language model past get_image_features, so that taking the visual tokens away does "
        "not take the picture away; gaps would be too small",
    ),
    _causal: (
        "causal",
        "The loss of a caption token depends on tokens behind it: the model reads the caption it is to predict",
    ),
}
