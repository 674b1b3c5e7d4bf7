"""Defines the conditions: functions that return the visual tokens given to the language model as the picture.

Each condition has a name, a role and a function in the table `CONDITIONS`, and a sentence in the table of
`reporting.conditions`. A new condition needs an entry in both tables. The function receives all scored samples
(`Scene`) in canonical order (by row), so that its result does not depend on how the samples were batched. Conditions
that change the pixels before the vision tower are computed in `scoring.pixels`; the functions here only return the
visual tokens of the changed pictures.

A *donor* is the sample whose picture replaces a sample's own picture. A *slot* is the index of a visual token in its
image.

Dimension suffixes: S samples, B requested positions, R derangements, Q visual tokens per image, E embedding width.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from eyechart.scoring.pixels import PIXEL_CHANGES
from eyechart.scoring.resampling import resampled
from eyechart.scoring.storage import VisualSet
from eyechart.seam import Grid, IntArray, VisualTokens

_NOISE, _NOISE_PER_DIM, _MIX = 2, 4, 5
"""The second element of the seed sequence. Each kind of draw has its own, so that all draws are independent, including
those in other files."""

RUNBOOK = ("correct", "shuffled", "zero", "noise")
STANDARD = (*RUNBOOK, "no-image", "mean-token", "noise-per-dim", "slot-mix", "grey", "blurred", "tiles-4")
MEASUREMENTS = ("matching", "donors")
"""Names that `--conditions` also accepts although they are not conditions. `matching` scores every caption with K
images; `donors` reports the gap of `shuffled` by the similarity of the donor's image to the sample's own image.
`ablate` ignores these names; its caller computes the measurements."""
FULL = (*STANDARD, "blind", "tiles-2", "tiles-8", *MEASUREMENTS)
LADDERS = {"runbook": RUNBOOK, "standard": STANDARD, "full": FULL}
OF_TOKENS = ("mean-token", "noise-per-dim", "slot-mix", "matching")
"""Names in `--conditions` that need visual tokens. They are not available for a model whose pictures can only be
replaced as pixels."""
CONTENT_FREE = ("no-image", "mean-token", "blind")
"""Conditions without the content of any single picture, which are used to interpret the order of the losses. `zero` and
`noise` are not included: with real weights, any visual tokens can give a lower loss than a prompt without them, and
noise does not always raise the loss."""
RIVALS = ("zero", "no-image", "mean-token")
"""Conditions with which the trained blind prompt (a constant prompt instead of the picture) is compared. If its loss is
higher than that of the best of them, it is under-trained, and the gaps are not split into parts."""


@dataclass(frozen=True)
class Scene:
    """All scored samples in the order of rows, with all data that a condition may use."""

    visual: VisualSet
    """The visual tokens of every image, on the CPU."""
    rows: tuple[int, ...]
    """The row index of each sample, which is part of the seed for its noise."""
    images_S: IntArray
    """The index of each sample's image, 0..G-1; images with equal content have equal indices."""
    donors_SR: IntArray
    seed: int
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    """The visual tokens [Q,E] that are the same for every sample, by condition: `mean-token` and `blind`, if
    available."""
    changed: Mapping[str, VisualSet] = field(default_factory=dict)
    """The visual tokens of the pictures whose pixels were changed, by condition."""
    grids: tuple[Grid, ...] = ()
    """The grid of the visual tokens of each sample; empty if all samples have the same grid."""

    @cached_property
    def moments(self) -> tuple[tuple[float, float], ...]:
        """The mean and standard deviation over all values of each layer, computed in float64."""
        return tuple(_moments(self.visual, layer) for layer in range(len(self.visual.stored.layers)))

    @cached_property
    def moments_per_dim(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """The mean and standard deviation [Q,E] of each layer over the images, in float32."""
        return tuple(_moments_per_dim(self.visual, layer) for layer in range(len(self.visual.stored.layers)))

    @cached_property
    def first_of_image(self) -> IntArray:
        """The position of the first sample of each distinct image."""
        return np.unique(self.images_S, return_index=True)[1].astype(np.int64)


Change = Callable[[Scene, Sequence[int], int], VisualTokens | None]
"""(scene, positions of the samples to score, round) -> the samples' visual tokens, or None to leave the image block out
of the prompt. The round is the number of the derangement (the assignment of donors)."""


@dataclass(frozen=True)
class ConditionKind:
    """One entry of the table `CONDITIONS`."""

    role: Literal["baseline", "gate", "report"]
    """`baseline`: the other conditions are compared with it. `gate`: the verdict depends on it. `report`: it is
    reported for context and does not affect the verdict."""
    change: Change
    uses_donors: bool = False
    """Whether the condition uses donors and is therefore scored once per derangement."""


def _correct(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    return scene.visual.rows(positions)


def _shuffled(scene: Scene, positions: Sequence[int], round_: int) -> VisualTokens:
    donors = scene.donors_SR[list(positions), round_].tolist()
    visual = scene.visual.rows(donors)
    if not scene.grids:
        return visual
    return resampled(visual, [scene.grids[donor] for donor in donors], [scene.grids[own] for own in positions])


def _zero(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    return scene.visual.rows(positions).map(torch.zeros_like)


def _noise(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    """Return Gaussian noise with the mean and standard deviation of all values, drawn per sample by (seed, row)."""
    return VisualTokens.cat([_gaussian(scene, position, _NOISE, scene.moments) for position in positions])


def _noise_per_dim(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    """Return Gaussian noise with the mean and standard deviation that each slot and dimension has over all images.

    If the slots differ in scale, noise with a single mean and standard deviation is far from the visual tokens that the
    language model usually receives. The noise here has the right scale in every coordinate, but the coordinates are
    independent.
    """
    return VisualTokens.cat(
        [_gaussian(scene, position, _NOISE_PER_DIM, scene.moments_per_dim) for position in positions]
    )


def _gaussian(
    scene: Scene, position: int, stream: int, moments: Sequence[tuple[float | Tensor, float | Tensor]]
) -> VisualTokens:
    words = np.random.SeedSequence([scene.seed, stream, scene.rows[position]]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]) >> 1)  # 63 bits, which every platform accepts
    layers = []
    own = scene.visual.rows([position])
    (count,) = own.counts()
    for layer, (mean, std) in zip(own.layers, moments, strict=True):
        drawn = torch.randn((count, *layer.shape[2:]), generator=generator, dtype=torch.float32)
        layers.append((mean + std * drawn).to(layer.dtype)[None])
    return VisualTokens(tuple(layers))


def _slot_mix(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    """Return visual tokens that each come from a different image, never from the sample's own, drawn by (seed, row).

    Each token is from a real picture, but no picture has this combination of tokens. The increase of the loss compared
    with `shuffled` shows how much the model uses combinations of tokens.
    """
    slots = scene.visual.slots
    return scene.visual.mixed(torch.from_numpy(np.stack([_sources(scene, position, slots) for position in positions])))


def _sources(scene: Scene, position: int, slots: int) -> IntArray:
    """Return the sample that provides each slot.

    An image provides more than one slot only if there are fewer other images than slots.
    """
    others = len(scene.first_of_image) - 1
    assert others > 0, "the caller leaves slot-mix out if there is only one image"
    generator = np.random.default_rng([scene.seed, _MIX, scene.rows[position]])
    draws = [generator.choice(others, min(slots, others), replace=False) for _ in range(0, slots, others)]
    chosen = np.concatenate(draws)[:slots]
    chosen += chosen >= scene.images_S[position]  # so that the sample's own image is skipped
    return scene.first_of_image[chosen]


def _no_image(scene: Scene, positions: Sequence[int], _: int) -> None:
    return None


def _fixed(name: str, scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    layer = scene.visual.stored.layers[0]
    return VisualTokens((scene.fixed[name].to("cpu", layer.dtype).expand(len(positions), *layer.shape[1:]),))


def _pixels(name: str, scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    return scene.changed[name].rows(positions)


CONDITIONS: dict[str, ConditionKind] = {
    "correct": ConditionKind("baseline", _correct),
    "shuffled": ConditionKind("gate", _shuffled, uses_donors=True),
    "zero": ConditionKind("gate", _zero),
    "noise": ConditionKind("gate", _noise),
    "no-image": ConditionKind("report", _no_image),
    "mean-token": ConditionKind("report", partial(_fixed, "mean-token")),
    "noise-per-dim": ConditionKind("report", _noise_per_dim),
    "slot-mix": ConditionKind("report", _slot_mix),
    **{name: ConditionKind("report", partial(_pixels, name)) for name in PIXEL_CHANGES},
    "blind": ConditionKind("report", partial(_fixed, "blind")),
}

GATES = tuple(name for name, kind in CONDITIONS.items() if kind.role == "gate")


def parse_conditions(text: str) -> tuple[str, ...]:
    """Parse `--conditions`: names of conditions, or of the sets `runbook`, `standard` and `full`, separated by commas.

    Returns:
        The names from `named_conditions`. If `blind` is among them, the names in RIVALS that are missing are added.

    Raises:
        ValueError: a name is unknown or empty; the message suggests the most similar known name.
    """
    names = named_conditions(text)
    return tuple(dict.fromkeys((*names, *RIVALS))) if "blind" in names else names


def named_conditions(text: str) -> tuple[str, ...]:
    """Parse `--conditions` without adding any names, for models that cannot have a blind prompt.

    Returns:
        Each name once, in the given order. `correct` is always first, because every gap is relative to it. Names in
        MEASUREMENTS may be included.

    Raises:
        ValueError: a name is unknown or empty; the message suggests the most similar known name.
    """
    names = ["correct"]
    for part in (part.strip() for part in text.split(",")):
        if part in LADDERS:
            names.extend(LADDERS[part])
        elif part in CONDITIONS or part in MEASUREMENTS:
            names.append(part)
        else:
            known = [*LADDERS, *CONDITIONS, *MEASUREMENTS]
            near = difflib.get_close_matches(part.lower(), known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"--conditions: unknown condition {part!r}; {hint}")
    return tuple(dict.fromkeys(names))


def check_fixed(name: str, visual: VisualTokens, tokens_QE: Tensor) -> None:
    """Raise an error if the mean tokens or the blind prompt were made for another connector.

    Raises:
        ValueError: the tokens do not have the shape of one image's visual tokens.
    """
    expected = [tuple(layer.shape[1:]) for layer in visual.layers]
    if expected != [tuple(tokens_QE.shape)]:
        raise ValueError(
            f"{name}: expected the shapes {expected} of the visual tokens of one image, got "
            f"{[tuple(tokens_QE.shape)]}; make them again with this checkpoint, or leave {name} out"
        )


def _moments(visual: VisualSet, layer: int) -> tuple[float, float]:
    """Return the mean and population standard deviation of one layer.

    The computation makes two passes in float64 and has only one image in memory at a time.
    """
    size = sum(visual.stored.counts()) * visual.stored.layers[layer].shape[2]
    mean = sum(float(image_QE.double().sum()) for image_QE in visual.images(layer)) / size
    variance = sum(float((image_QE.double() - mean).square().sum()) for image_QE in visual.images(layer)) / size
    return mean, math.sqrt(variance)


def _moments_per_dim(visual: VisualSet, layer: int) -> tuple[Tensor, Tensor]:
    """Return the mean and population standard deviation of every slot and dimension of one layer over the images."""
    total_QE = torch.zeros(visual.stored.layers[layer].shape[1:], dtype=torch.float64)
    for image_QE in visual.images(layer):
        total_QE += image_QE.double()
    mean_QE = total_QE / len(visual)
    square_QE = torch.zeros_like(mean_QE)
    for image_QE in visual.images(layer):
        square_QE += (image_QE.double() - mean_QE).square()
    return mean_QE.float(), (square_QE / len(visual)).sqrt().float()
