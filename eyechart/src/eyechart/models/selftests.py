"""Runs the self-tests that a model must pass before it is scored, because its scores would otherwise not be reliable.

A gap is the loss with a replaced picture minus the loss with the right picture. The tests are, in order:

1. repeat: two equal calls give equal losses. Otherwise something random is active, and scores cannot be reproduced.
2. own features: if features are replaced by the model's own ones, the loss is the same as without replacement.
3. sentinel: if the features at any one depth are NaN, the loss of every label token is NaN. (Depths are the language
   model's input, and the deeper layers to which some models add features.) Otherwise the model ignores features that
   are passed to it, and gaps would not show what it uses.
4. leak: if the features are zero, other pixels do not change any loss, not even by one bit. Otherwise the picture has a
   second path to the loss (such as the deepstack features of Qwen3-VL, if they are not replaced too), and every gap is
   too small.
5. kept: a loss is the same before and after other images are encoded and scored. Otherwise the model keeps features
   from an earlier call, and losses would depend on what was scored before.
6. causal: replacing caption tokens does not change the losses of earlier tokens. Otherwise the model sees the caption
   that it has to predict.

The measurements themselves are made by `faults.experiments`. A door is a way to replace the features or pixels of a
model (`models.doors`); a model may pass with one door and fail with another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from eyechart.exits import raised_here
from eyechart.faults.changes import without_images
from eyechart.faults.experiments import OwnLosses, kept_between_calls, past_tokens, put_back
from eyechart.faults.experiments_on_losses import LossRoute
from eyechart.models.scorer import TransformersScorer
from eyechart.seam import Batch, ScorerOfBatches, VisualTokens

_TOLERANCE = {torch.float32: 1e-3}
_COARSE = 0.05
"""The allowed difference between losses, in nats, if the weights have 16 bits."""


class SelfTest(StrEnum):
    """The names of the self-tests, in the order in which the tests run."""

    REPEAT = "repeat"
    OWN_FEATURES = "own features"
    SENTINEL = "sentinel"
    LEAK = "leak"
    KEPT = "kept"
    CAUSAL = "causal"


_MEANINGS: dict[SelfTest, str] = {
    SelfTest.REPEAT: "Something random is active although the model is in eval mode, such as a dropout that is called "
    "as a function; no loss can be obtained twice",
    SelfTest.OWN_FEATURES: "If the model's own visual tokens are put back, the loss is not the model's own loss, so "
    "scores with other visual tokens would be wrong too; this architecture cannot be scored",
    SelfTest.SENTINEL: "The model does not use all visual tokens that it is given: it ignores its image or a part of "
    "its features, or reads it by another path; gaps would not show whether the image is used",
    SelfTest.LEAK: "The picture reaches the language model by a path other than the visual tokens, so that removing "
    "the visual tokens does not remove the picture; gaps would be too small",
    SelfTest.KEPT: "The model keeps image features of an earlier call, so that a loss depends on which images were "
    "used before; scores would change with their order",
    SelfTest.CAUSAL: "The loss of a caption token depends on later tokens: the model sees the caption that it has to "
    "predict",
}
_FAULTS: dict[SelfTest, str] = {
    SelfTest.REPEAT: "loss-not-reproduced",
    SelfTest.OWN_FEATURES: "features-altered",
    SelfTest.SENTINEL: "not-injected",
    SelfTest.LEAK: "leak",
    SelfTest.KEPT: "image-order",
    SelfTest.CAUSAL: "leak",
}
OF_PIXELS = (SelfTest.REPEAT, SelfTest.OWN_FEATURES, SelfTest.KEPT, SelfTest.CAUSAL)
"""The self-tests that a model must pass with the pixel door. The other tests set features to NaN or zero, but this door
replaces no features."""
OTHER_DOOR = (SelfTest.OWN_FEATURES, SelfTest.SENTINEL, SelfTest.LEAK)
"""The self-tests of replaced features; a model that fails one of them may pass it with another door."""


@dataclass(frozen=True)
class Failure:
    """A self-test that a model fails."""

    test: SelfTest
    outcome: str
    """What the test measured, in words."""
    depths: tuple[int, ...] = ()
    """For the test `sentinel`: the depths at which NaN features do not make the loss of every label token NaN."""
    crashed: bool = False
    """Whether the test raised an error instead of giving a result."""

    @property
    def fault(self) -> str:
        """Return the code (in `faults.table`) of the fault that this failure indicates."""
        return _FAULTS[self.test]

    @property
    def meaning(self) -> str:
        """Return what the failure means for scores of this model, in words."""
        return _MEANINGS[self.test]


@torch.no_grad()
def refuse_unfit(scorer: TransformersScorer, batch: Batch) -> None:
    """Run the self-tests on a batch of one or two samples that have images and label tokens.

    The doors of the scorer are tried in order, and the scorer uses the first one with which all tests pass.

    Raises:
        UnfitError: no door passes; the message is one line that names a failed test and explains what its failure
            means.
    """

    def own(given: Batch, visual: VisualTokens | None) -> Tensor:
        assert given.pixels_BCHW is not None
        if scorer.one_by_one and len(given) > 1:
            alone = [own(given.rows([p]), None if visual is None else visual.rows([p])) for p in range(len(given))]
            return torch.cat(alone)
        pixels = scorer.pixels(given.pixels_BCHW)
        return scorer.forward(given.ids_BT, given.labels_BT, given.lengths_B, pixels, visual).nll_N

    dtype = next(scorer.model.parameters()).dtype
    failure: Failure | None = None
    for door in scorer.doors:
        scorer.door = door
        names = OF_PIXELS if door == "pixels" else tuple(SelfTest)
        failure = next(failures(scorer, batch, own, dtype, names), None)
        if failure is None:
            return
        if failure.test not in OTHER_DOOR and not failure.crashed:
            break
    assert failure is not None, "a scorer has at least one door"
    raise UnfitError(f"MODEL: {scorer.name}", failure)


class UnfitError(ValueError):
    """Raised if a model fails a self-test; the attribute `failure` has the name of the test and its outcome."""

    def __init__(self, who: str, failure: Failure) -> None:
        """Create the error with a one-line message; `who` is the name of the model in this message."""
        super().__init__(f"{who} fails the self-test `{failure.test.value}`: {failure.outcome}. {failure.meaning}")
        self.failure = failure


@torch.no_grad()
def failures(
    scorer: ScorerOfBatches,
    batch: Batch,
    own: OwnLosses,
    dtype: torch.dtype,
    names: Sequence[SelfTest] = tuple(SelfTest),
) -> Iterator[Failure]:
    """Run self-tests one after the other, and yield a `Failure` for each test that fails.

    Args:
        scorer: the model, adapted to the scoring interface.
        batch: one or more samples with images and label tokens.
        own: a function that returns the losses of the unmodified model.
        dtype: the data type of the model's weights, which determines the allowed difference between losses.
        names: the tests to run.

    Raises:
        ValueError: eyechart itself raised an error with a readable message; other errors count as failures.
    """
    allowed = _TOLERANCE.get(dtype, _COARSE)

    def route() -> LossRoute:
        return LossRoute(scorer, without_images(batch), scorer.encode(batch))

    def repeat() -> Failure | None:
        text, visual = batch.text(), scorer.encode(batch)
        first_N, second_N = (scorer.nll(text, seen).nll_N for seen in (visual, scorer.encode(batch)))
        difference = float((first_N - second_N).abs().max())
        return _failure(
            SelfTest.REPEAT, difference, allowed, "the losses of two equal calls differ by up to {:.4g} nats"
        )

    def own_features() -> Failure | None:
        difference = put_back(scorer, batch, own)
        return _failure(SelfTest.OWN_FEATURES, difference, allowed, "the losses differ by up to {:.4g} nats")

    def sentinel() -> Failure | None:
        found = route().labels_despite_nan()
        depths = tuple(depth for depth, (numbers, _) in enumerate(found) if numbers)
        numbers, labels = max(found)
        where = f" with NaN at depth {', '.join(map(str, depths))} alone" if len(found) > 1 else ""
        outcome = f"the losses of {numbers} of {labels} label tokens are still numbers{where}"
        return Failure(SelfTest.SENTINEL, outcome, depths) if depths else None

    def leak() -> Failure | None:
        difference = past_tokens(scorer, batch, own)
        failure = _failure(SelfTest.LEAK, difference, 0.0, "inverted pixels change a loss by {:.4g} nats")
        if failure is not None or batch.pixels_BCHW is None:
            return failure
        # A forward pass that gets features instead of pixels cannot read the pixels, but the model's own may read them.
        white = replace(batch, pixels_BCHW=torch.full_like(batch.pixels_BCHW, 255))
        difference = put_back(scorer, white, own)
        return _failure(SelfTest.LEAK, difference, allowed, "white pictures change a loss by {:.4g} nats")

    def kept() -> Failure | None:
        difference = kept_between_calls(scorer, batch, own)
        return _failure(SelfTest.KEPT, difference, allowed, "other images in between change a loss by {:.4g} nats")

    def causal() -> Failure | None:
        difference = route().text().look_ahead
        said = "replaced caption tokens change a loss before them by {:.4g} nats"
        return _failure(SelfTest.CAUSAL, difference, allowed, said)

    tests: dict[SelfTest, Callable[[], Failure | None]] = {
        SelfTest.REPEAT: repeat,
        SelfTest.OWN_FEATURES: own_features,
        SelfTest.SENTINEL: sentinel,
        SelfTest.LEAK: leak,
        SelfTest.KEPT: kept,
        SelfTest.CAUSAL: causal,
    }
    for name in names:
        try:
            failure = tests[name]()
        except Exception as error:  # a user's model may raise any error
            if raised_here(error):
                raise
            outcome = f"it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            failure = Failure(name, outcome, crashed=True)
        if failure is not None:
            yield failure


def _failure(name: SelfTest, difference: float, allowed: float, said: str) -> Failure | None:
    # NaN counts as a difference, because `nan <= allowed` is False.
    return None if difference <= allowed else Failure(name, said.format(difference))
