"""What the language model sees in the image positions: visual tokens in, visual tokens out.

Each condition is a name, a role and a function in `CONDITIONS`; `reporting.conditions` has its sentence. It works on
the whole scored set (`Scene`), in canonical order (by row), so that nothing it makes depends on how the samples were
batched. A new condition is one more entry in both. Those that change the picture before the tower are in `pixels`; here
they only return the result.

Dimension suffixes: S samples, B positions asked for, R derangements, Q visual tokens per image, E embedding width.
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
from eyechart.scoring.storage import VisualSet
from eyechart.seam import IntArray, VisualTokens

_NOISE, _NOISE_PER_DIM, _MIX = 2, 4, 5
"""Second word of the seed: makes these draws independent of each other and of those in other files."""

RUNBOOK = ("correct", "shuffled", "zero", "noise")
STANDARD = (*RUNBOOK, "no-image", "mean-token", "noise-per-dim", "slot-mix", "grey", "blurred", "tiles-4")
MEASUREMENTS = ("matching", "donors")
"""Names that `--conditions` also accepts, but that are not conditions: every caption against K images, and the shuffled
gap by the similarity of the donor's image. `ablate` ignores them; its caller computes them."""
FULL = (*STANDARD, "blind", "tiles-2", "tiles-8", *MEASUREMENTS)
LADDERS = {"runbook": RUNBOOK, "standard": STANDARD, "full": FULL}
CONTENT_FREE = ("no-image", "mean-token", "blind")
"""Conditions without the content of any picture, used to interpret the order of the losses. Not zero and noise: on real
weights any tokens can beat a bare prompt, and random ones may not raise the loss."""
RIVALS = ("zero", "no-image", "mean-token")
"""What a trained blind prompt is compared with. One that is worse than the best of them is under-trained and the gaps
are not split; without them it would not be known."""


@dataclass(frozen=True)
class Scene:
    """All scored samples, by row, with everything that a condition may use."""

    visual: VisualSet
    """Every image's visual tokens, on the CPU."""
    rows: tuple[int, ...]
    """Row index of each sample: the identity its noise is drawn from."""
    images_S: IntArray
    """Number of each sample's image, 0..G-1: images with equal content have equal numbers."""
    donors_SR: IntArray
    seed: int
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    """Visual tokens [Q,E] that are the same for every sample: `mean-token` and `blind`, if available."""
    changed: Mapping[str, VisualSet] = field(default_factory=dict)
    """Output of the encoder for the changed pictures, by condition."""

    @cached_property
    def moments(self) -> tuple[tuple[float, float], ...]:
        """Mean and standard deviation over all numbers of each layer, in float64."""
        return tuple(_moments(self.visual, layer) for layer in range(len(self.visual.stored.layers)))

    @cached_property
    def moments_per_dim(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Mean and standard deviation [Q,E] over the images, of each layer, in float32."""
        return tuple(_moments_per_dim(self.visual, layer) for layer in range(len(self.visual.stored.layers)))

    @cached_property
    def first_of_image(self) -> IntArray:
        """The first sample of each distinct image."""
        return np.unique(self.images_S, return_index=True)[1].astype(np.int64)


Change = Callable[[Scene, Sequence[int], int], VisualTokens | None]
"""(scene, positions of the samples to score, round) -> their visual tokens, or None to leave the image block out."""


@dataclass(frozen=True)
class ConditionKind:
    """One entry of the table."""

    role: Literal["baseline", "gate", "report"]
    """gate: the verdict depends on it. report: reported for context, does not affect the verdict."""
    change: Change
    uses_donors: bool = False
    """Scored once per derangement."""


def _correct(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    return scene.visual.rows(positions)


def _shuffled(scene: Scene, positions: Sequence[int], round_: int) -> VisualTokens:
    return scene.visual.rows(torch.from_numpy(scene.donors_SR[list(positions), round_]))


def _zero(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    return scene.visual.rows(positions).map(torch.zeros_like)


def _noise(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    """Gaussian with the scalar moments of the whole set; each sample from its own generator, seeded by (seed, row)."""
    return VisualTokens.cat([_gaussian(scene, position, _NOISE, scene.moments) for position in positions])


def _noise_per_dim(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    """Gaussian with the moments of every slot and dimension over the whole set.

    One mean and spread for all numbers is far from what the language model is used to where slots differ. These noise
    tokens have the right scale in every coordinate; but their coordinates are independent.
    """
    return VisualTokens.cat(
        [_gaussian(scene, position, _NOISE_PER_DIM, scene.moments_per_dim) for position in positions]
    )


def _gaussian(
    scene: Scene, position: int, stream: int, moments: Sequence[tuple[float | Tensor, float | Tensor]]
) -> VisualTokens:
    words = np.random.SeedSequence([scene.seed, stream, scene.rows[position]]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]) >> 1)  # 63 bits: every platform takes them
    layers = []
    for layer, (mean, std) in zip(scene.visual.stored.layers, moments, strict=True):
        drawn = torch.randn(layer.shape[1:], generator=generator, dtype=torch.float32)
        layers.append((mean + std * drawn).to(layer.dtype)[None])
    return VisualTokens(tuple(layers))


def _slot_mix(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    """Every slot from a different image, never the own one, drawn by (seed, row).

    Each slot alone is as real as in any picture; together they belong to none. The additional cost compared with
    `shuffled` is what the model reads from combinations of slots.
    """
    slots = scene.visual.slots
    return scene.visual.mixed(torch.from_numpy(np.stack([_sources(scene, position, slots) for position in positions])))


def _sources(scene: Scene, position: int, slots: int) -> IntArray:
    """For each slot the sample that provides it; images only repeat if there are fewer others than slots."""
    others = len(scene.first_of_image) - 1
    assert others > 0, "the caller leaves slot-mix out if there is only one image"
    generator = np.random.default_rng([scene.seed, _MIX, scene.rows[position]])
    draws = [generator.choice(others, min(slots, others), replace=False) for _ in range(0, slots, others)]
    chosen = np.concatenate(draws)[:slots]
    chosen += chosen >= scene.images_S[position]  # so that the own image is skipped
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
    """Read `--conditions`: a ladder (`runbook`, `standard`, `full`) or names separated by commas, in any combination.

    Returns:
        As `named_conditions`, followed by those of RIVALS that `blind` lacks.

    Raises:
        ValueError: an unknown or empty name, with the nearest known one.
    """
    names = named_conditions(text)
    return tuple(dict.fromkeys((*names, *RIVALS))) if "blind" in names else names


def named_conditions(text: str) -> tuple[str, ...]:
    """The names in `--conditions` and no others; for models that can have no blind prompt.

    Returns:
        Each name once, in the order given, `correct` always first: every gap is relative to it. Names out of
        MEASUREMENTS may be among them.

    Raises:
        ValueError: an unknown or empty name, with the nearest known one.
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
    """Reject a mean or a prompt that was made for another connector.

    Raises:
        ValueError: it does not have the shape of one image's visual tokens.
    """
    expected = [tuple(layer.shape[1:]) for layer in visual.layers]
    if expected != [tuple(tokens_QE.shape)]:
        raise ValueError(
            f"{name}: expected visual tokens of the shapes {expected} of one image's tokens, got "
            f"{[tuple(tokens_QE.shape)]}; make them again with this checkpoint, or leave {name} out"
        )


def _moments(visual: VisualSet, layer: int) -> tuple[float, float]:
    """Mean and population standard deviation, two passes in float64, one image in memory at a time."""
    size = visual.stored.layers[layer].numel()
    mean = sum(float(image_QE.double().sum()) for image_QE in visual.images(layer)) / size
    variance = sum(float((image_QE.double() - mean).square().sum()) for image_QE in visual.images(layer)) / size
    return mean, math.sqrt(variance)


def _moments_per_dim(visual: VisualSet, layer: int) -> tuple[Tensor, Tensor]:
    """The same for every slot and dimension; population standard deviation."""
    total_QE = torch.zeros(visual.stored.layers[layer].shape[1:], dtype=torch.float64)
    for image_QE in visual.images(layer):
        total_QE += image_QE.double()
    mean_QE = total_QE / len(visual)
    square_QE = torch.zeros_like(mean_QE)
    for image_QE in visual.images(layer):
        square_QE += (image_QE.double() - mean_QE).square()
    return mean_QE.float(), (square_QE / len(visual)).sqrt().float()
