"""Self-tests that a model must pass before it is scored, because its figures would otherwise not be reliable.

1. own features: if the model's own features are put back through `get_image_features`, the loss is the same as without
   any replacement.
2. sentinel: if the features are NaN, the loss of every label token is NaN. Otherwise the model ignores the features
   that are passed to it, and every gap would be 0 whether or not the model uses its images.
3. leak: if the features are zero, other pixels do not change any loss, not even by one bit. Otherwise the picture has a
   second path (such as the deepstack features of Qwen3-VL, unless they are replaced too), and every gap is too small.
4. causal: replacing caption tokens changes no loss before them. Otherwise the model sees the caption that it has to
   predict.

The experiments are those of `faults.experiments`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eyechart.faults.changes import without_images
from eyechart.faults.experiments import past_tokens, put_back
from eyechart.faults.experiments_on_losses import LossRoute
from eyechart.models.scorer import TransformersScorer
from eyechart.seam import Batch, VisualTokens

_TOLERANCE = {torch.float32: 1e-3}
_COARSE = 0.05
"""Allowed difference in nats for weights in 16 bits."""
_MEANINGS = {
    "own features": "If the model's own visual tokens are put back, the loss is not the model's own loss, so scores "
    "with other visual tokens would be wrong too; this architecture cannot be scored",
    "sentinel": "The model does not use the visual tokens that get_image_features returns: it ignores its image, or "
    "reads it by another path; gaps would not show whether the image is used",
    "leak": "The picture reaches the language model by a path other than get_image_features, so that removing the "
    "visual tokens does not remove the picture; gaps would be too small",
    "causal": "The loss of a caption token depends on later tokens: the model sees the caption that it has to predict",
}


@torch.no_grad()
def refuse_unfit(scorer: TransformersScorer, batch: Batch) -> None:
    """Run all self-tests on a batch of one or two samples with images and label tokens.

    Raises:
        ValueError: a test failed; the message is one line that names the test and says what its failure means.
    """
    allowed = _TOLERANCE.get(next(scorer.model.parameters()).dtype, _COARSE)

    def own(given: Batch, visual: VisualTokens | None) -> Tensor:
        assert given.pixels_BCHW is not None
        pixels = scorer.pixels(given.pixels_BCHW)
        return scorer.forward(given.ids_BT, given.labels_BT, given.lengths_B, pixels, visual).nll_N

    def own_features() -> str:
        difference = put_back(scorer, batch, own)
        return "" if difference <= allowed else f"the losses differ by up to {difference:.4g} nats"

    def sentinel() -> str:
        numbers, labels = route().labels_despite_nan()
        return "" if not numbers else f"the losses of {numbers} of {labels} label tokens are still numbers"

    def leak() -> str:
        difference = past_tokens(scorer, batch, own)
        return "" if difference == 0 else f"inverted pixels change a loss by {difference:.4g} nats"

    def causal() -> str:
        difference = route().text().look_ahead
        return (
            ""
            if difference <= allowed
            else f"replaced caption tokens change a loss before them by {difference:.4g} nats"
        )

    def route() -> LossRoute:
        return LossRoute(scorer, without_images(batch), scorer.encode(batch))

    for name, test in (("own features", own_features), ("sentinel", sentinel), ("leak", leak), ("causal", causal)):
        try:
            outcome = test()
        except ValueError:
            raise
        except Exception as error:  # an unknown model may raise any error
            outcome = f"it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if outcome:
            raise ValueError(f"MODEL: {scorer.name} fails the self-test `{name}`: {outcome}. {_MEANINGS[name]}")
