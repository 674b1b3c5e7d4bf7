"""Faults of the code that computes the tower's features, caches them, and passes them to the connector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eyechart.data.images import normalise
from fault_edits import built, settings
from fault_site import Case, Change, swap, take_base

_TOWER = "qwen3_vlm.models.vision.VisionTower.forward"
_CACHED = "qwen3_vlm.train.features.CachedDataset.__getitem__"


def _features(change: Callable[[Tensor], Tensor]) -> Change:
    return swap(_TOWER, lambda original: lambda self, pixels_BCHW: change(original(self, pixels_BCHW)))


def _dropped(original: Any) -> Any:
    return lambda self, features_BPV: original(self, features_BPV * 0)


def _half_dropped(features_BPV: Tensor) -> Tensor:
    """Apply dropout, as if it had been left on."""
    return torch.nn.functional.dropout(features_BPV, 0.5)


def _train_mode(vlm: Any) -> None:
    """`train()` on the transformers model itself, which the tower's own `train` does not undo."""
    for module in vlm.tower.model.train().modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.3


def _dropout_layer(vlm: Any) -> None:
    norm = vlm.tower.model.post_layernorm
    norm.drop = torch.nn.Dropout(0.1).train()
    norm.register_forward_hook(lambda module, inputs, output: module.drop(output))


def _averaged(features_BPV: Tensor) -> Tensor:
    return features_BPV.mean(1, keepdim=True).expand_as(features_BPV).contiguous()


def _overflow(original: Any) -> Any:
    """Make bright images overflow, as in half precision."""

    def forward(self: Any, pixels_BCHW: Tensor) -> Tensor:
        features_BPV: Tensor = original(self, pixels_BCHW)
        mean_B = pixels_BCHW.float().mean((1, 2, 3))
        return features_BPV.masked_fill((mean_B > 190)[:, None, None], torch.nan)

    return forward


def _overflow_hidden(original: Any) -> Any:
    """Do the same, and apply `nan_to_num` after it so that training continues."""
    overflowing = _overflow(original)
    return lambda self, pixels_BCHW: overflowing(self, pixels_BCHW).nan_to_num(0.0)


def _layer_before_the_last(original: Any) -> Any:
    @torch.no_grad()
    def forward(self: Any, pixels_BCHW: Tensor) -> Tensor:
        normalised = normalise(pixels_BCHW, self.spec).to(next(self.model.parameters()).dtype)
        features_BPV: Tensor = self.model(pixel_values=normalised, output_hidden_states=True).hidden_states[-2]
        return features_BPV

    return forward


def _drifting(original: Any) -> Any:
    @torch.no_grad()
    def forward(self: Any, pixels_BCHW: Tensor) -> Tensor:
        features_BPV: Tensor = original(self, pixels_BCHW)
        self.model.post_layernorm.weight.mul_(0.9995)
        return features_BPV

    return forward


def _rows_off_by_one(original: Any) -> Any:
    def item(self: Any, position: int) -> Any:
        sample = original(self, position)
        return replace(sample, features_PV=self.features_NPV[(position + 1) % len(self)])

    return item


def _features_at_random(original: Any) -> Any:
    """Return the features of a random image each time a sample is read, like a faulty augmentation."""
    generator = torch.Generator().manual_seed(0)

    def item(self: Any, position: int) -> Any:
        other = int(torch.randint(len(self), (), generator=generator))
        return replace(original(self, position), features_PV=self.features_NPV[other])

    return item


def _in_int8(original: Any) -> Any:
    def item(self: Any, position: int) -> Any:
        sample = original(self, position)
        return replace(sample, features_PV=sample.features_PV.float().clamp(-128, 127).to(torch.int8).float())

    return item


FEATURES = (
    Case(
        "tower-sees-zeros",
        "pixels-unused",
        "the tower is called with zeros in place of the pixels",
        change=swap(_TOWER, lambda original: lambda self, pixels: original(self, torch.zeros_like(pixels))),
    ),
    Case(
        "features-dropped",
        "pixels-unused",
        "the connector is called with zeros in place of the features",
        world="digits",
        change=swap("qwen3_vlm.models.vlm.VLM.visual", _dropped),
    ),
    Case(
        "features-dropped-when-evaluated",
        "pixels-unused",
        "a healthy connector is called with zeros in place of the features",
        "evaluation",
        take_base,
        swap("qwen3_vlm.models.vlm.VLM.visual", _dropped),
    ),
    Case(
        "layer-before-the-last",
        "features-altered",
        "features of the tower's last layer but one, healthy connector",
        "evaluation",
        take_base,
        swap(_TOWER, _layer_before_the_last),
        also=("loss-not-reproduced",),
    ),
    Case(
        "patches-flipped",
        "features-altered",
        "patch features in reverse order, healthy connector",
        "evaluation",
        take_base,
        _features(lambda features_BPV: features_BPV.flip(1)),
        also=("loss-not-reproduced",),
    ),
    Case(
        "patches-averaged",
        "features-altered",
        "every patch gets the mean of the patches, in training too",
        change=_features(_averaged),
    ),
    Case(
        "cache-in-int8",
        "features-altered",
        "cached features are cut to int8 without a scale in training, scoring runs the tower",
        "training",
        change=swap(_CACHED, _in_int8),
    ),
    Case(
        "tower-dropout",
        "loss-not-reproduced",
        "half of the tower's features are dropped at random",
        "evaluation",
        take_base,
        _features(_half_dropped),
        also=("visual-tokens-changed",),
    ),
    Case(
        "tower-in-train-mode",
        "dropout-active",
        "the tower's config has attention_dropout 0.3, and its model is in train mode",
        change=built(_train_mode),
    ),
    Case(
        "tower-in-train-mode-when-evaluated",
        "dropout-active",
        "a tower with attention_dropout 0.3 is in train mode, for a healthy connector",
        "evaluation",
        take_base,
        built(_train_mode),
    ),
    Case(
        "tower-ends-in-dropout",
        "dropout-active",
        "a dropout layer of 0.1 after the tower's last norm, left in train mode while training",
        "training",
        change=built(_dropout_layer),
        world="digits",
    ),
    Case(
        "bright-images-overflow",
        "non-finite",
        "the tower returns NaN for bright images",
        change=swap(_TOWER, _overflow),
    ),
    Case(
        "nan-made-zero",
        "non-finite",
        "the tower overflows on bright images, and nan_to_num after it makes their features 0",
        change=swap(_TOWER, _overflow_hidden),
        also=("features-altered",),
    ),
    Case(
        "tower-drifts",
        "frozen-moved",
        "each call of the tower scales its last norm by 0.9995 in place",
        "training",
        settings(data__cache_features="off"),
        swap(_TOWER, _drifting),
    ),
    Case(
        "cached-features-off-by-one",
        "image-order",
        "the feature cache hands out the next row's features",
        "training",
        change=swap(_CACHED, _rows_off_by_one),
        also=("pairs-mismatched",),
    ),
    Case(
        "features-drawn-anew",
        "constant-prompt",
        "each time a training sample is read it has some image's features",
        "training",
        change=swap(_CACHED, _features_at_random),
        also=("image-order",),
    ),
)
