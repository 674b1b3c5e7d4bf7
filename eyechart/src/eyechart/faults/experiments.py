"""Experiments on the path from a picture to a loss: change one input, and measure what changes.

    pixels of image i               -> what is made of image i, and of no other          `image_routes`
    nothing                         -> nothing: two equal calls give the same            `repeated`
    visual tokens of row i          -> the losses of row i, and of no other              `experiments_on_losses`
    all visual tokens to NaN        -> every loss is NaN (also where a mask hides them: 0 * NaN is NaN)
    the other samples taken away    -> no loss
    visual tokens of slot q         -> some loss
    the token beside a block        -> some loss: otherwise something was written over it
    the caption's input tokens from position t on -> the losses after t, and none before `LossRoute.text`
    the label at a position         -> its own loss, and no other
    pixels, with zeroed visual tokens in their place -> no loss: there is no second way  `past_tokens`

They go through the scoring seam, or through any function of a batch that replaces a part of it, so they are the same
for every model, trained or not: no loss has to be good for them. What comes out are figures. Three callers read them:
the self-tests before a score (`models.selftests`: a refusal), the probes of a run that did not pass (`faults.probes`:
findings), and the preflight of a training run.

Dimension suffixes as in `seam`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.faults.changes import with_noise_image
from eyechart.seam import Batch, ScorerOfBatches, VisualTokens

Routes = tuple[tuple[int, ...], ...]
"""For each row that was changed, the rows in which something changed; `((0,), (1,))` is correct."""
OwnLosses = Callable[[Batch, VisualTokens | None], Tensor]
"""The untouched model's label losses on the batch's own pixels, with these visual tokens in place of its own if any."""

RESTLESS = 0.01
"""Relative difference between two equal calls that the order of summation cannot explain."""
_FAINT = 1e-3
"""A change below this share of the largest one is rounding."""


@dataclass(frozen=True)
class ImageRoutes:
    """From the images of a batch to what is computed from them: a tower's features, or visual tokens."""

    rows: tuple[int, ...]
    """Data file rows of the samples."""
    finite: bool
    """Whether everything computed from them is finite."""
    repeated: float
    """Relative difference between two equal calls."""
    by_image: Routes | None
    """By changed image: None where the batch has neither pixels nor features to change."""
    misplaced: tuple[int, ...]
    """Places in the batch whose pixels are not those of the sample at that place."""


@dataclass(frozen=True)
class TokenRoutes:
    """From the visual tokens of a batch to its losses."""

    loss: float
    """Mean over the label tokens with drawn visual tokens, nats."""
    labels: int
    """Label tokens."""
    numbers: int
    """Those whose loss is still a number when every visual token is NaN."""
    repeated: float
    """Relative difference between two equal calls."""
    by_row: Routes
    """By row with changed visual tokens."""
    alone: float
    """Mean difference of a label token's loss between its batch and alone, nats."""

    @property
    def nan_share(self) -> float:
        """Share of the label tokens whose loss is NaN when every visual token is."""
        return 1 - self.numbers / self.labels


@dataclass(frozen=True)
class SlotRoutes:
    """How each visual token, and each text token next to them, affects the losses."""

    unplaced: tuple[int, ...]
    """Visual tokens of an image that change no loss."""
    tried: int
    overwritten: tuple[str, ...]
    """Tokens next to the image positions that change no loss."""


@dataclass(frozen=True)
class TextRoutes:
    """From input tokens and labels to losses."""

    reach: int | None
    """Losses until the first that a changed input token changes; 1 is correct. None if none changes."""
    target: int | None
    """Losses between a changed label and the loss that changes; 0 is correct."""
    alignment: int | None
    """labels[t] is ids[t + alignment]; 0 is correct. None if no shift fits."""
    look_ahead: float
    """Largest change of a loss in nats when the token it is about, or a later one, is another; 0 is correct."""

    @property
    def horizon(self) -> int | None:
        """How many positions a label's own token is ahead of its last visible input token.

        1 is next-token prediction, 0 means the token is predicted from itself, below 0 that later tokens are seen.
        """
        if self.reach is None or self.target is None or self.alignment is None:
            return None
        return self.alignment - self.target + self.reach


@torch.no_grad()
def image_routes(encode: Callable[[Batch], VisualTokens], batch: Batch, seed: int = 0) -> ImageRoutes:
    """Change the images of a batch one by one.

    Args:
        encode: what is tried: `ScorerOfBatches.encode`, or another way from images to one row of tensors each.
        batch: a few samples with their pixels, or with features in their place.
        seed: draws the images.
    """
    generator = torch.Generator().manual_seed(seed)

    def made(given: Batch) -> list[Tensor]:
        layers = [layer.detach().float().cpu().flatten(1) for layer in encode(given).layers]
        return list(torch.cat(layers, dim=1))

    before, again = made(batch), made(batch)
    by_image = None
    if batch.pixels_BCHW is not None or batch.features_BPV is not None:
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
    """Largest difference between the model's own losses and those with its own visual tokens put back, in nats.

    Args:
        scorer: the model, adapted to the seam.
        batch: one sample or more with pixels.
        own: the untouched model.
    """
    put_back_N = scorer.nll(batch, scorer.encode(batch)).nll_N
    return float((own(batch, None) - put_back_N).abs().max())


@torch.no_grad()
def past_tokens(scorer: ScorerOfBatches, batch: Batch, own: OwnLosses) -> float:
    """Largest change of a loss in nats when pixels are negated under zeroed visual tokens; 0 without a second path.

    Arguments as for `put_back`.
    """
    assert batch.pixels_BCHW is not None
    zeros = scorer.encode(batch).map(torch.zeros_like)
    first_N, second_N = (own(b, zeros) for b in (batch, replace(batch, pixels_BCHW=255 - batch.pixels_BCHW)))
    return float((first_N - second_N).abs().max())


def relative(got: Tensor, wanted: Tensor) -> float:
    """Norm of the difference divided by the norm of the expected value."""
    return float((got.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-12))


def repeated(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Largest relative difference between the parts of two equal calls; above `RESTLESS` something is random."""
    # What is not finite is another fault: it compares with nothing.
    differences = [relative(b, a) for a, b in zip(first, second, strict=True) if len(a) and a.isfinite().all()]
    return max(differences, default=0.0)


def changed(before_T: Tensor, after_T: Tensor) -> list[int]:
    """Where two rows of numbers differ by more than rounding."""
    difference_T = (before_T - after_T).abs().nan_to_num(nan=float("inf"))
    largest = float(difference_T.max()) if len(difference_T) else 0.0
    if largest == 0:
        return []
    return (difference_T > _FAINT * min(largest, 1e30)).nonzero()[:, 0].tolist()


def changed_rows(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[int, ...]:
    """In which rows something differs by more than rounding, which is tiny compared with the largest change."""
    pairs = zip(before, after, strict=True)
    largest_B = torch.stack([F.pad((a - b).abs(), (0, 1)).nan_to_num(nan=float("inf")).max() for a, b in pairs])
    return tuple(changed(torch.zeros_like(largest_B), largest_B))
