"""Faults of code: the connector's arithmetic, from its latents to the visual tokens that it hands on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fault_site import Case, Change, swap, take_base


def _visual(change: Callable[[Tensor], Tensor]) -> Change:
    """What the projector returns, changed."""
    return swap(
        "qwen3_vlm.models.connector.Connector.project",
        lambda original: lambda self, latents_BQD: change(original(self, latents_BQD)),
    )


def _text_scale_misread(original: Any) -> Any:
    return lambda self: original(self) * 30.0


def _first_slot_alone(visual_BQE: Tensor) -> Tensor:
    return torch.cat([visual_BQE[:, :1], torch.zeros_like(visual_BQE[:, 1:])], dim=1)


def _noisy(visual_BQE: Tensor) -> Tensor:
    return visual_BQE + torch.randn_like(visual_BQE) * visual_BQE.float().pow(2).mean().sqrt()


def _rms(visual_BQE: Tensor) -> Tensor:
    return visual_BQE.float().pow(2).mean(-1, keepdim=True).sqrt()


def _drowned(visual_BQE: Tensor) -> Tensor:
    """As large as before, but next to nothing of it depends on the image."""
    constant_QE = torch.randn(visual_BQE.shape[1:], generator=torch.Generator().manual_seed(1)).to(visual_BQE)
    sum_BQE = visual_BQE + 40 * constant_QE * _rms(visual_BQE)
    return sum_BQE / _rms(sum_BQE) * _rms(visual_BQE)


CONNECTOR = (
    Case(
        "visual-tokens-too-large",
        "scale-mismatch",
        "visual tokens are 50 times too large, in training and evaluation",
        change=_visual(lambda visual_BQE: visual_BQE * 50.0),
    ),
    Case(
        "visual-tokens-too-small",
        "scale-mismatch",
        "visual tokens are 200 times too small for a healthy connector",
        "evaluation",
        take_base,
        _visual(lambda visual_BQE: visual_BQE * 0.005),
    ),
    Case(
        "text-scale-misread",
        "scale-mismatch",
        "the scale of text embeddings is read 30 times too large",
        world="digits",
        change=swap("qwen3_vlm.models.llm.LanguageModel.text_rms", _text_scale_misread),
    ),
    Case(
        "visual-tokens-drowned",
        "collapsed",
        "a constant 40 times as large is added to the visual tokens before their norm",
        change=_visual(_drowned),
    ),
    Case(
        "visual-tokens-noisy",
        "loss-not-reproduced",
        "noise as large as the visual tokens is added",
        "evaluation",
        take_base,
        _visual(_noisy),
    ),
    Case(
        "visual-tokens-negated",
        "picture-harmful",
        "the sign of a healthy connector's output is turned",
        "evaluation",
        take_base,
        _visual(torch.neg),
        also=("loss-not-reproduced",),
    ),
    Case(
        "first-slot-alone",
        "slots-dead",
        "all visual tokens but the first are zero",
        change=_visual(_first_slot_alone),
    ),
    Case(
        "first-slot-repeated",
        "slots-dead",
        "every image position gets the first visual token",
        "evaluation",
        take_base,
        _visual(lambda visual_BQE: visual_BQE[:, :1].expand_as(visual_BQE)),
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
