"""Faults of the connector's code, from the patches that it reads to the visual tokens in the language model's input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eyechart.seam import IGNORE_INDEX, Batch, TokenNLL, VisualTokens
from fault_site import Case, Change, swap, take_base


def visual_changed(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the output of the projector."""
    return swap(
        "qwen3_vlm.models.connector.Connector.project",
        lambda original: lambda self, latents_BQD: change(original(self, latents_BQD)),
    )


def _text_scale_misread(original: Any) -> Any:
    return lambda self: original(self) * 30.0


def _first_slot_alone(visual_BQE: Tensor) -> Tensor:
    return torch.cat([visual_BQE[:, :1], torch.zeros_like(visual_BQE[:, 1:])], dim=1)


def _without_second_half(visual_BQE: Tensor) -> Tensor:
    kept = visual_BQE.shape[1] // 2
    return torch.cat([visual_BQE[:, :kept], torch.zeros_like(visual_BQE[:, kept:])], dim=1)


def _rms(visual_BQE: Tensor) -> Tensor:
    return visual_BQE.float().pow(2).mean(-1, keepdim=True).sqrt()


def _drowned(visual_BQE: Tensor) -> Tensor:
    """Return visual tokens of the same size that almost do not depend on the image."""
    constant_QE = torch.randn(visual_BQE.shape[1:], generator=torch.Generator().manual_seed(1)).to(visual_BQE)
    sum_BQE = visual_BQE + 40 * constant_QE * _rms(visual_BQE)
    return sum_BQE / _rms(sum_BQE) * _rms(visual_BQE)


def _patches_seen(count: int) -> Change:
    """Use a wrong key mask, with which the resampler sees only the first `count` patches."""

    def make(original: Any) -> Any:
        return lambda self, latents_BQD, keys_BPD: original(self, latents_BQD, keys_BPD[:, :count])

    return swap("qwen3_vlm.models.connector.ResamplerLayer.forward", make)


def _embeddings_scaled(original: Any) -> Any:
    """Scale the text embeddings as Gemma requires, but Qwen does not."""
    return lambda self, ids: original(self, ids) * math.sqrt(self.width)


def _answer_added(original: Any) -> Any:
    """Add the answer to the visual tokens, like a Q-Former that reads the whole conversation."""

    def nll(self: Any, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        if visual is not None:
            labels_BT = batch.labels_BT.to(self.device)
            words_BTE = self.llm.embed(labels_BT.clamp(min=0)) * (labels_BT != IGNORE_INDEX)[..., None]
            sum_B1E = words_BTE.sum(1, keepdim=True) / 4
            visual = visual.map(lambda layer: layer + sum_B1E.to(layer.dtype))
        result: TokenNLL = original(self, batch, visual)
        return result

    return nll


CONNECTOR = (
    Case(
        "visual-tokens-too-large",
        "scale-mismatch",
        "visual tokens are 50 times too large, in training and evaluation",
        change=visual_changed(lambda visual_BQE: visual_BQE * 50.0),
    ),
    Case(
        "visual-tokens-too-small",
        "scale-mismatch",
        "visual tokens are 200 times too small for a healthy connector",
        "evaluation",
        take_base,
        visual_changed(lambda visual_BQE: visual_BQE * 0.005),
    ),
    Case(
        "text-scale-misread",
        "scale-mismatch",
        "the scale of text embeddings is read 30 times too large",
        world="digits",
        change=swap("qwen3_vlm.models.llm.LanguageModel.text_rms", _text_scale_misread),
    ),
    Case(
        "embeddings-times-root-of-width",
        "scale-mismatch",
        "text embeddings are multiplied by the root of the width, visual tokens are not",
        change=swap("qwen3_vlm.models.llm.LanguageModel.embed", _embeddings_scaled),
    ),
    Case(
        "one-patch-seen",
        "pixels-unused",
        "the resampler's key mask is the wrong way round: of 64 patches it sees the first alone",
        change=_patches_seen(1),
    ),
    Case(
        "quarter-of-the-patches-seen",
        "pixels-unused",
        "the resampler's key mask lets the first 16 of 64 patches through",
        change=_patches_seen(16),
    ),
    Case(
        "answer-into-the-resampler",
        "leak",
        "the answer's embeddings are added to the visual tokens, as by a Q-Former that reads the whole conversation",
        change=swap("qwen3_vlm.models.vlm.VLM.nll", _answer_added),
    ),
    Case(
        "visual-tokens-drowned",
        "collapsed",
        "a constant 40 times as large is added to the visual tokens before their norm",
        change=visual_changed(_drowned),
    ),
    Case(
        "visual-tokens-negated",
        "picture-harmful",
        "the sign of a healthy connector's output is turned",
        "evaluation",
        take_base,
        visual_changed(torch.neg),
        also=("loss-not-reproduced", "visual-tokens-changed"),
    ),
    Case(
        "first-slot-alone",
        "slots-dead",
        "all visual tokens but the first are zero",
        change=visual_changed(_first_slot_alone),
    ),
    Case(
        "second-half-of-the-slots",
        "slots-dead",
        "the second half of the visual tokens is zero",
        change=visual_changed(_without_second_half),
    ),
    Case(
        "second-half-of-the-slots-when-evaluated",
        "slots-dead",
        "the second half of a healthy connector's visual tokens is zero",
        "evaluation",
        take_base,
        visual_changed(_without_second_half),
        world="digits",
        also=("loss-not-reproduced",),
    ),
    Case(
        "detached",
        "no-gradient",
        "visual tokens are detached from the graph",
        change=swap(
            "qwen3_vlm.models.vlm.VLM.visual",
            lambda original: lambda self, features_BPV: original(self, features_BPV).detach(),
        ),
    ),
)
