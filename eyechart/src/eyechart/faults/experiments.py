"""Experiments on the path from a picture to a loss: each changes one input and measures which outputs change.

The changed input, the outputs that change in a correct model, and the function or module:

    pixels of image i               -> the output for image i, and for no other image    `image_routes`
    nothing                         -> nothing: two identical calls give equal results   `repeated`
    visual tokens of row i          -> the losses of row i, and of no other              `experiments_on_losses`
    all visual tokens set to NaN    -> every loss is NaN (also if a mask hides them, because 0 * NaN is NaN)
    the other samples removed       -> no loss changes
    visual tokens of slot q         -> at least one loss
    the token next to an image block -> at least one loss: otherwise something has overwritten it
    the caption's input tokens from position t on -> the losses after t, and none before it   `LossRoute.text`
    the label at a position         -> its own loss, and no other loss
    pixels, with the visual tokens set to zero -> no loss: there is no second path       `past_tokens`
    other images, encoded and scored in between -> no loss: nothing is kept              `kept_between_calls`
    a trained weight, by its gradient -> the loss                                        `Gradients`
    an input vector, by its gradient -> some output                                      `sensitivity`

They use the scoring interface, or a function of a batch that replaces a part of it, so they work with every model.
They do not require low losses, so the model may be untrained. Their results are figures. Three callers use them: the
self-tests before a score (`models.selftests`, which refuse a model), the probes of a run that did not pass
(`faults.probes`, which give findings), and the preflight of a training run.

Dimension suffixes as in `seam`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyechart.faults.changes import with_negated_images, with_noise_image
from eyechart.seam import Batch, ScorerOfBatches, VisualTokens

Routes = tuple[tuple[int, ...], ...]
"""For each row that was changed, the rows in which something changed; `((0,), (1,))` is correct."""
OwnLosses = Callable[[Batch, VisualTokens | None], Tensor]
"""Label losses of the unmodified model on the batch's own pixels; visual tokens, if given, replace the model's own."""

# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
RESTLESS = 0.01
"""A relative difference between two identical calls above this cannot be due to the order of summation."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_FAINT = 1e-3
"""A change smaller than this share of the largest change counts as rounding."""


@dataclass(frozen=True)
class ImageRoutes:
    """How the images of a batch affect the values computed from them: a tower's features, or visual tokens."""

    rows: tuple[int, ...]
    """Row of each sample in the data file."""
    finite: bool
    """Whether everything computed from the images is finite."""
    repeated: float
    """Relative difference between two identical calls."""
    by_image: Routes | None
    """For each changed image, the rows whose output changed; None if the batch has no pixels or features to change."""
    misplaced: tuple[int, ...]
    """Positions in the batch whose pixels are not those of the sample at that position."""


@dataclass(frozen=True)
class TokenRoutes:
    """How the visual tokens of a batch affect its losses."""

    loss: float
    """Mean loss per label token with randomly drawn visual tokens, in nats."""
    labels: int
    """Number of label tokens."""
    numbers: int
    """Number of label tokens whose loss is still a number when the visual tokens of one depth are NaN; the largest of
    all depths."""
    unread_depths: tuple[int, ...]
    """Depths whose visual tokens can be NaN without making any loss NaN; deepstack features have several depths."""
    repeated: float
    """Relative difference between two identical calls."""
    by_row: Routes
    """For each row whose visual tokens were changed, the rows whose losses changed."""
    alone: float
    """Mean difference between a label token's loss in its batch and its loss when scored alone, in nats."""

    @property
    def nan_share(self) -> float:
        """Return the share of the label tokens whose loss is NaN when every visual token is NaN."""
        return 1 - self.numbers / self.labels


@dataclass(frozen=True)
class SlotRoutes:
    """Which visual tokens, and which text tokens next to the image positions, affect the losses."""

    unplaced: tuple[int, ...]
    """Slots whose visual tokens change no loss."""
    tried: int
    overwritten: tuple[str, ...]
    """Names of the text tokens next to the image positions that change no loss when they are replaced."""


@dataclass(frozen=True)
class TextRoutes:
    """How input tokens and labels affect the losses."""

    reach: int | None
    """Distance from a changed input token to the first loss that changes; 1 is correct. None if no loss changes."""
    target: int | None
    """Distance from a changed label to the loss that changes; 0 is correct."""
    alignment: int | None
    """Shift for which labels[t] is ids[t + alignment]; 0 is correct. None if no shift fits."""
    look_ahead: float
    """Largest change of a loss, in nats, when its own token and the later input tokens are replaced; 0 is correct."""

    @property
    def horizon(self) -> int | None:
        """Return the distance from the last input token that a prediction uses to the token that it predicts.

        1 is next-token prediction, 0 means that the token is predicted from itself, and a negative value means that
        later tokens are used.
        """
        if self.reach is None or self.target is None or self.alignment is None:
            return None
        return self.alignment - self.target + self.reach


@torch.no_grad()
def image_routes(encode: Callable[[Batch], VisualTokens], batch: Batch, seed: int = 0) -> ImageRoutes:
    """Change the images of a batch one by one.

    Args:
        encode: the function to test: `ScorerOfBatches.encode`, or another function that returns one row per image.
        batch: a few samples with their pixels, or with cached features instead.
        seed: seed for the random images.
    """
    generator = torch.Generator().manual_seed(seed)

    def made(given: Batch) -> list[Tensor]:
        layers = [layer.detach().float().cpu().flatten(1) for layer in encode(given).layers]
        return list(torch.cat(layers, dim=1))

    before, again = made(batch), made(batch)
    by_image = None
    if any(images is not None for images in (batch.pixels_BCHW, batch.features_BPV, batch.inputs)):
        by_image = tuple(
            changed_rows(before, made(with_noise_image(batch, row, generator))) for row in range(len(before))
        )
    return ImageRoutes(
        rows=tuple(sample.row for sample in batch.samples),
        finite=all(bool(row_X.isfinite().all()) for row_X in before),
        repeated=repeated([torch.cat(before)], [torch.cat(again)]),
        by_image=by_image,
        misplaced=_misplaced(batch),
    )


def _misplaced(batch: Batch) -> tuple[int, ...]:
    if batch.pixels_BCHW is None:
        return ()
    return tuple(
        place
        for place, (sample, pixels_CHW) in enumerate(zip(batch.samples, batch.pixels_BCHW, strict=False))
        if sample.pixels_CHW is not None and not torch.equal(sample.pixels_CHW.to(pixels_CHW), pixels_CHW)
    )


@torch.no_grad()
def put_back(scorer: ScorerOfBatches, batch: Batch, own: OwnLosses) -> float:
    """Return the largest difference, in nats, between the model's losses and those with its own visual tokens put back.

    Args:
        scorer: the model, adapted to the scoring interface.
        batch: one sample or more with pixels.
        own: the unmodified model.
    """
    put_back_N = scorer.nll(batch, scorer.encode(batch)).nll_N
    return float((own(batch, None) - put_back_N).abs().max())


@torch.no_grad()
def past_tokens(scorer: ScorerOfBatches, batch: Batch, own: OwnLosses) -> float:
    """Return the largest change of a loss, in nats, when pixels are inverted while visual tokens are zero.

    It is 0 if the pixels have no second path to the losses.

    Arguments as for `put_back`.
    """
    zeros = scorer.encode(batch).map(torch.zeros_like)
    first_N, second_N = (own(b, zeros) for b in (batch, with_negated_images(batch)))
    return float((first_N - second_N).abs().max())


@torch.no_grad()
def kept_between_calls(scorer: ScorerOfBatches, batch: Batch, own: OwnLosses) -> float:
    """Return the largest change of a loss, in nats, after other images were encoded and scored in between.

    It is 0 if the model keeps nothing from one call to the next.

    Arguments as for `put_back`.
    """
    text, visual, other = batch.text(), scorer.encode(batch), with_negated_images(batch)

    def with_other_tokens() -> None:
        scorer.nll(text, scorer.encode(other))

    changes = [0.0]
    before_N = scorer.nll(text, visual).nll_N
    for call in (lambda: scorer.encode(other), with_other_tokens, lambda: own(other, None)):
        call()
        changes.append(float((scorer.nll(text, visual).nll_N - before_N).abs().max()))
    return max(changes)


@dataclass(frozen=True)
class Gradients:
    """The gradients of a loss with respect to weights, which are not written to the weights."""

    unreached: tuple[str, ...]
    """Names of the weights whose gradient is missing or zero."""
    broken: tuple[str, ...]
    """Names of the weights whose gradient is NaN or infinite."""

    @classmethod
    def of(cls, loss: Tensor, named: Mapping[str, nn.Parameter]) -> Gradients:
        """Take the gradients of a loss that requires a gradient with respect to weights that require one."""
        found = dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))
        return cls(
            tuple(name for name, gradient in found.items() if gradient is None or not bool(gradient.any())),
            tuple(name for name, g in found.items() if g is not None and not bool(torch.isfinite(g).all())),
        )


def sensitivity(output: Tensor, given_BTE: Tensor) -> Tensor:
    """Return the largest absolute gradient [B,T] of a scalar in each of these vectors; 0 if it does not use them."""
    (found_BTE,) = torch.autograd.grad(output, given_BTE, retain_graph=True, allow_unused=True)
    return (torch.zeros_like(given_BTE) if found_BTE is None else found_BTE).float().abs().amax(-1).cpu()


def relative(got: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference divided by the norm of the expected value."""
    return float((got.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-12))


def repeated(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the largest relative difference between the results of two identical calls.

    Above `RESTLESS`, some part of the computation is random.
    """
    # Values that are not finite are another fault and cannot be compared, so they are skipped.
    differences = [relative(b, a) for a, b in zip(first, second, strict=True) if len(a) and a.isfinite().all()]
    return max(differences, default=0.0)


def changed(before_T: Tensor, after_T: Tensor) -> list[int]:
    """Return the positions at which two rows of numbers differ by more than rounding."""
    difference_T = (before_T - after_T).abs().nan_to_num(nan=float("inf"))
    largest = float(difference_T.max()) if len(difference_T) else 0.0
    if largest == 0:
        return []
    return (difference_T > _FAINT * min(largest, 1e30)).nonzero()[:, 0].tolist()


def changed_rows(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the rows that differ by more than rounding, which is tiny compared with the largest change."""
    pairs = zip(before, after, strict=True)
    largest_B = torch.stack([F.pad((a - b).abs(), (0, 1)).nan_to_num(nan=float("inf")).max() for a, b in pairs])
    return tuple(changed(torch.zeros_like(largest_B), largest_B))
