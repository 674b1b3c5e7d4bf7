"""Faults of code: from image files to the positions at which the language model sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fault_site import Case, Change, swap, take_base
from qwen3_vlm.batch import Batch, TokenNLL, VisualTokens
from qwen3_vlm.data.images import ImageSpec

_VLM = "qwen3_vlm.models.vlm.VLM"
_PLACE = "qwen3_vlm.models.fusion.place"
_COLLATE = "qwen3_vlm.data.collate.collate"
_TOWER = "qwen3_vlm.models.vision.VisionTower.forward"
_CACHED = "qwen3_vlm.train.features.CachedDataset.__getitem__"
_IMAGES = "qwen3_vlm.data.images"


def _placing(mask: Callable[[Tensor, int], Tensor]) -> Change:
    """Visual tokens put where `mask(ids_BT, patch_id)` is true; the count is not checked."""

    def place(embeds_BTE: Tensor, ids_BT: Tensor, visual_BQE: Tensor, patch_id: int) -> Tensor:
        chosen_BT = mask(ids_BT, patch_id)
        return embeds_BTE.masked_scatter(chosen_BT[..., None], visual_BQE.to(embeds_BTE.dtype))

    return swap(_PLACE, lambda original: place)


def _nll_with_mask(original: Any) -> Any:
    """An attention mask that is 0 at the image positions, as for padding."""

    def nll(self: Any, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        if visual is None:
            result: TokenNLL = original(self, batch, visual)
            return result
        mask_BT = (batch.attention_BT & (batch.ids_BT != self.patch_id)).long()

        def with_mask(module: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**options, "attention_mask": mask_BT[:, : options["inputs_embeds"].shape[1]]}

        handle = self.llm.model.model.register_forward_pre_hook(with_mask, with_kwargs=True)
        try:
            masked: TokenNLL = original(self, batch, visual)
            return masked
        finally:
            handle.remove()

    return nll


def _text_only(original: Any) -> Any:
    """The visual tokens are computed, kept in the graph, and multiplied away."""
    return lambda self, batch, visual: original(self, batch, visual and visual.map(lambda layer: layer * 0))


def _wrong_neighbours(original: Any) -> Any:
    def collate(items: Sequence[Any], pad_id: int) -> Batch:
        batch = original(items, pad_id)
        rolled = {
            name: None if getattr(batch, name) is None else getattr(batch, name).roll(1, dims=0)
            for name in ("pixels_BCHW", "features_BPV")
        }
        return replace(batch, **rolled)

    return collate


def _rows_off_by_one(original: Any) -> Any:
    def item(self: Any, position: int) -> Any:
        sample = original(self, position)
        return replace(sample, features_PV=self.features_NPV[(position + 1) % len(self)])

    return item


def _features_at_random(original: Any) -> Any:
    """Each time a sample is read, some image's features: an augmentation that drew the row anew."""
    generator = torch.Generator().manual_seed(0)

    def item(self: Any, position: int) -> Any:
        other = int(torch.randint(len(self), (), generator=generator))
        return replace(original(self, position), features_PV=self.features_NPV[other])

    return item


def _overflow(original: Any) -> Any:
    """Bright images overflow in half precision."""

    def forward(self: Any, pixels_BCHW: Tensor) -> Tensor:
        features_BPV: Tensor = original(self, pixels_BCHW)
        mean_B = pixels_BCHW.float().mean((1, 2, 3))
        return features_BPV.masked_fill((mean_B > 190)[:, None, None], torch.nan)

    return forward


def _imagenet(pixels_BCHW: Tensor, spec: ImageSpec) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels_BCHW.float() / 255 - mean[:, None, None]) / std[:, None, None]


def _rescaled_twice(original: Any) -> Any:
    return lambda pixels_BCHW, spec: original(pixels_BCHW, replace(spec, rescale=spec.rescale**2))


def _blue_first(original: Any) -> Any:
    return lambda path, spec, max_pixels: original(path, spec, max_pixels).flip(0)


def _cropped(original: Any) -> Any:
    def to_pixels(image: Image.Image, spec: ImageSpec, max_pixels: int) -> Tensor:
        width, height = image.size
        corner = image.crop((width // 4, height // 4, width - width // 4, height - height // 4))
        pixels_CHW: Tensor = original(corner, spec, max_pixels)
        return pixels_CHW

    return to_pixels


IMAGES = (
    Case(
        "placed-one-late",
        "placeholder-offset",
        "visual tokens are placed one position to the right",
        change=_placing(lambda ids_BT, patch: (ids_BT == patch).roll(1, dims=1)),
    ),
    Case(
        "placed-one-early",
        "placeholder-offset",
        "visual tokens are placed one position to the left",
        world="digits",
        change=_placing(lambda ids_BT, patch: (ids_BT == patch).roll(-1, dims=1)),
    ),
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
        change=swap(f"{_VLM}.visual", lambda original: lambda self, features: original(self, features * 0)),
    ),
    Case(
        "features-dropped-when-evaluated",
        "pixels-unused",
        "a healthy connector is called with zeros in place of the features",
        "evaluation",
        take_base,
        swap(f"{_VLM}.visual", lambda original: lambda self, features: original(self, features * 0)),
    ),
    Case(
        "nothing-placed",
        "not-injected",
        "the fusion looks for an id that no prompt holds, and does not check the count",
        change=_placing(lambda ids_BT, patch: torch.zeros_like(ids_BT, dtype=torch.bool)),
    ),
    Case(
        "nothing-placed-when-evaluated",
        "not-injected",
        "the same on a healthy connector",
        "evaluation",
        take_base,
        _placing(lambda ids_BT, patch: torch.zeros_like(ids_BT, dtype=torch.bool)),
    ),
    Case(
        "visual-tokens-zeroed",
        "not-injected",
        "visual tokens are multiplied by 0 before they are placed",
        change=swap(f"{_VLM}.nll", _text_only),
        also=("pixels-unused", "collapsed", "scale-mismatch"),
        world="digits",
    ),
    Case(
        "image-masked-as-padding",
        "image-masked",
        "the attention mask is 0 at the image positions",
        change=swap(f"{_VLM}.nll", _nll_with_mask),
    ),
    Case(
        "image-masked-when-evaluated",
        "image-masked",
        "the same on a healthy connector",
        "evaluation",
        take_base,
        swap(f"{_VLM}.nll", _nll_with_mask),
        world="digits",
    ),
    Case(
        "images-rolled-in-batch",
        "image-order",
        "each sample of a batch gets the image of the one before",
        change=swap(_COLLATE, _wrong_neighbours),
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
        "batch-reversed-when-evaluated",
        "image-order",
        "visual tokens of a batch come back in reverse",
        "evaluation",
        take_base,
        swap(f"{_VLM}.visual", lambda original: lambda self, features: original(self, features).flip(0)),
    ),
    Case(
        "imagenet-statistics",
        "wrong-preprocessing",
        "ImageNet's mean and std, in training and evaluation",
        change=swap(f"{_IMAGES}.normalise", lambda original: _imagenet),
    ),
    Case(
        "rescaled-twice",
        "wrong-preprocessing",
        "pixels are divided by 255 twice: every image is almost black",
        change=swap(f"{_IMAGES}.normalise", _rescaled_twice),
    ),
    Case(
        "blue-first",
        "wrong-preprocessing",
        "channels in the order blue, green, red, in training and evaluation",
        change=swap(f"{_IMAGES}.load_image", _blue_first),
    ),
    Case(
        "blue-first-when-evaluated",
        "wrong-preprocessing",
        "channels in the order blue, green, red for a healthy connector",
        "evaluation",
        take_base,
        swap(f"{_IMAGES}.load_image", _blue_first),
    ),
    Case(
        "cropped",
        "wrong-preprocessing",
        "images are cropped to their middle before they are resized",
        change=swap(f"{_IMAGES}.to_pixels", _cropped),
        world="digits",
    ),
    Case(
        "bright-images-overflow",
        "non-finite",
        "the tower returns NaN for bright images",
        change=swap(_TOWER, _overflow),
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
