"""What the language model sees in the image positions: visual tokens in, visual tokens out.

Each condition is a name, a role, a sentence and a function in `CONDITIONS`. It works on the whole scored set (`Scene`),
in canonical order (by row), so that nothing it makes depends on how the samples were batched. A new condition is one
more entry.

Dimension suffixes: S samples, R derangements, Q visual tokens per image, E embedding width.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qwen3_vlm.batch import IntArray, VisualTokens

_STREAM = 2
"""Second word of the seed: keeps the noise apart from the donors, which use another."""

RUNBOOK = ("correct", "shuffled", "zero", "noise")
STANDARD = (*RUNBOOK, "no-image", "mean-token")
LADDERS = {"runbook": RUNBOOK, "standard": STANDARD}


@dataclass(frozen=True)
class Scene:
    """All scored samples, by row, with what a condition may draw on."""

    visual: VisualTokens
    """Every image's visual tokens, on the CPU."""
    rows: tuple[int, ...]
    """Row index of each sample: the identity its noise is drawn from."""
    donors_SR: IntArray
    mean_tokens_QE: Tensor | None
    seed: int

    @cached_property
    def moments(self) -> tuple[tuple[float, float], ...]:
        """Mean and standard deviation over all numbers of each layer, in float64."""
        return tuple(_moments(layer) for layer in self.visual.layers)


Change = Callable[[Scene, Sequence[int], int], VisualTokens | None]
"""(scene, positions of the samples to score, round) -> their visual tokens, or None to leave the image block out."""


@dataclass(frozen=True)
class ConditionKind:
    """One entry of the table."""

    role: Literal["baseline", "gate", "report"]
    """gate: the verdict depends on it. report: it is shown and never judged."""
    meaning: str
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
    return VisualTokens.cat([_noise_of_one(scene, position) for position in positions])


def _noise_of_one(scene: Scene, position: int) -> VisualTokens:
    words = np.random.SeedSequence([scene.seed, _STREAM, scene.rows[position]]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]) >> 1)  # 63 bits: every platform takes them
    layers = []
    for layer, (mean, std) in zip(scene.visual.layers, scene.moments, strict=True):
        drawn = torch.randn(layer.shape[1:], generator=generator, dtype=torch.float32)
        layers.append((mean + std * drawn).to(layer.dtype)[None])
    return VisualTokens(tuple(layers))


def _no_image(scene: Scene, positions: Sequence[int], _: int) -> None:
    return None


def _mean_token(scene: Scene, positions: Sequence[int], _: int) -> VisualTokens:
    assert scene.mean_tokens_QE is not None, "the caller leaves mean-token out where there is no mean"
    layer = scene.visual.layers[0]
    return VisualTokens((scene.mean_tokens_QE.to("cpu", layer.dtype).expand(len(positions), *layer.shape[1:]),))


CONDITIONS: dict[str, ConditionKind] = {
    "correct": ConditionKind("baseline", "the image's own visual tokens", _correct),
    "shuffled": ConditionKind(
        "gate", "what a wrong picture costs: the one gate that tests content", _shuffled, uses_donors=True
    ),
    "zero": ConditionKind("gate", "what it costs to blank the visual tokens to zeros", _zero),
    "noise": ConditionKind("gate", "what it costs to see noise of the same overall mean and spread", _noise),
    "no-image": ConditionKind(
        "report", "what it costs to leave the image out of the prompt: the text alone", _no_image
    ),
    "mean-token": ConditionKind("report", "what it costs to see the average training image", _mean_token),
}

GATES = tuple(name for name, kind in CONDITIONS.items() if kind.role == "gate")


def parse_conditions(text: str) -> tuple[str, ...]:
    """Read `--conditions`: a ladder (`runbook`, `standard`) or names separated by commas; ladders may be mixed in.

    Returns:
        Each name once, in the order given, `correct` always first: every gap is measured against it.

    Raises:
        ValueError: an unknown or empty name, with the nearest known one.
    """
    names = ["correct"]
    for part in (part.strip() for part in text.split(",")):
        if part in LADDERS:
            names.extend(LADDERS[part])
        elif part in CONDITIONS:
            names.append(part)
        else:
            known = [*LADDERS, *CONDITIONS]
            near = difflib.get_close_matches(part.lower(), known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"--conditions: unknown condition {part!r}; {hint}")
    return tuple(dict.fromkeys(names))


def check_mean_tokens(visual: VisualTokens, mean_tokens_QE: Tensor) -> None:
    """Refuse a mean that another connector must have made.

    Raises:
        ValueError: it has not the shape of one image's visual tokens.
    """
    expected = [tuple(layer.shape[1:]) for layer in visual.layers]
    if expected != [tuple(mean_tokens_QE.shape)]:
        raise ValueError(
            f"mean-token: expected the mean visual tokens to have the shapes {expected} of one image's tokens, got "
            f"{[tuple(mean_tokens_QE.shape)]}; make them again with this checkpoint, or leave mean-token out"
        )


def _moments(layer_SQE: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation, two passes in float64 image by image (a whole copy could be large)."""
    size = layer_SQE.numel()
    mean = sum(float(image_QE.double().sum()) for image_QE in layer_SQE) / size
    variance = sum(float((image_QE.double() - mean).square().sum()) for image_QE in layer_SQE) / size
    return mean, math.sqrt(variance)
