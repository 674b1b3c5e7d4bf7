"""Faults between the image file and the tower: in decoding, in changes to the picture, and in normalisation."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from eyechart.data.images import ImageSpec
from fault_edits import in_turn, repainted
from fault_site import Case, Change, Site, checkpoint_alone, edit_json, swap, take_base

_IMAGES = "eyechart.data.images"


def _preprocessor(**values: object) -> Callable[[Site], None]:
    """Return a set-up that writes these settings to the tower's preprocessor_config.json."""

    def set_up(site: Site) -> None:
        edit_json(site.own_backbone("vision") / "preprocessor_config.json", lambda tree: tree.update(values))

    return set_up


def turned(i: int, image: Image.Image) -> Image.Image:
    """Rotate a picture as a camera held upright stores it; `TURNED` is the matching EXIF data."""
    return image.transpose(Image.Transpose.ROTATE_90)


TURNED = Image.Exif()
"""EXIF data with the orientation of the pictures that `turned` returns."""
TURNED[0x0112] = 6


def with_palette(i: int, image: Image.Image) -> Image.Image:
    """Reduce a picture to a palette of 64 of its colours."""
    return image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)


def sixteen_bit(i: int, image: Image.Image) -> Image.Image:
    """Convert a picture to 16-bit grey."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _orientation_ignored(original: Any) -> Any:
    return lambda image: image.convert("RGB")


def _palette_as_grey(original: Any) -> Any:
    def to_rgb(image: Image.Image) -> Image.Image:
        rgb: Image.Image = original(Image.fromarray(np.asarray(image)) if image.mode == "P" else image)
        return rgb

    return to_rgb


def _clipped(original: Any) -> Any:
    return lambda image: Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8))


def _before_resizing(change: Callable[[Image.Image], Image.Image]) -> Change:
    def make(original: Any) -> Any:
        return lambda image, spec, max_pixels: original(change(image.convert("RGB")), spec, max_pixels)

    return swap(f"{_IMAGES}.to_pixels", make)


def _lower_half_black(image: Image.Image) -> Image.Image:
    width, height = image.size
    black = Image.new("RGB", image.size)
    black.paste(image.crop((0, 0, width, height // 2)))
    return black


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 4, height // 4, width - width // 4, height - height // 4))


def _tiny_first(image: Image.Image) -> Image.Image:
    """Reduce a picture to 16 pixels and enlarge it, as in a data set of thumbnails."""
    return image.resize((16, 16)).resize(image.size)


def _blue_first(original: Any) -> Any:
    return lambda path, spec, max_pixels: original(path, spec, max_pixels).flip(0)


def _some_mirrored(original: Any) -> Any:
    draw = random.Random(3)

    def load(path: Path, spec: ImageSpec, max_pixels: int) -> Tensor:
        pixels_CHW: Tensor = original(path, spec, max_pixels)
        return pixels_CHW.flip(2) if draw.random() < 0.1 else pixels_CHW

    return load


def _cached_by_short_name(original: Any) -> Any:
    """Cache decoded images with the last digit of the file's name as key."""
    kept: dict[str, Any] = {}

    def load(path: Path, spec: Any, max_pixels: int) -> Any:
        key = Path(path).stem[-1]
        if key not in kept:
            kept[key] = original(path, spec, max_pixels)
        return kept[key]

    return load


_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def _imagenet(pixels_BCHW: Tensor, spec: ImageSpec) -> Tensor:
    mean, std = (torch.tensor(values) for values in _IMAGENET.values())
    return (pixels_BCHW.float() / 255 - mean[:, None, None]) / std[:, None, None]


def _rescaled_twice(original: Any) -> Any:
    return lambda pixels_BCHW, spec: original(pixels_BCHW, replace(spec, rescale=spec.rescale**2))


def _wrapping(pixels_BCHW: Tensor, spec: ImageSpec) -> Tensor:
    """Subtract in bytes, so that values below 128 wrap around."""
    return (pixels_BCHW.to(torch.uint8) - 128).float() / 127.5


def _standardised(pixels_BCHW: Tensor, spec: ImageSpec) -> Tensor:
    """Normalise like `tf.image.per_image_standardization` instead of with the tower's mean and std."""
    of_image = (1, 2, 3)
    x_BCHW = pixels_BCHW.float()
    return (x_BCHW - x_BCHW.mean(of_image, keepdim=True)) / (x_BCHW.std(of_image, keepdim=True) + 1e-3)


PIXELS = (
    Case(
        "exif-ignored",
        "wrong-preprocessing",
        "files have EXIF orientation 6, the loader ignores it",
        set_up=repainted(turned, exif=TURNED),
        change=swap(f"{_IMAGES}._to_rgb", _orientation_ignored),
    ),
    Case(
        "palette-as-grey",
        "wrong-preprocessing",
        "palette PNGs whose indices are read as grey values",
        set_up=repainted(with_palette),
        change=swap(f"{_IMAGES}._to_rgb", _palette_as_grey),
    ),
    Case(
        "16-bit-clipped",
        "wrong-preprocessing",
        "16-bit grey PNGs clipped to white at 255",
        set_up=repainted(sixteen_bit),
        change=swap(f"{_IMAGES}._eight_bit", _clipped),
        world="digits",
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
        "flip-augmented",
        "wrong-preprocessing",
        "one image in ten is mirrored at random, captions say left and right",
        "training",
        change=swap(f"{_IMAGES}.load_image", _some_mirrored),
    ),
    Case(
        "cached-by-last-digit",
        "image-order",
        "decoded images are cached under the last digit of their name",
        "evaluation",
        take_base,
        swap(f"{_IMAGES}.load_image", _cached_by_short_name),
        also=("wrong-preprocessing", "images-degenerate", "pairs-mismatched"),
    ),
    Case(
        "cropped",
        "wrong-preprocessing",
        "images are cropped to their middle before they are resized",
        change=_before_resizing(_cropped),
        world="digits",
    ),
    Case(
        "lower-half-black",
        "wrong-preprocessing",
        "the lower half of every image is black, for a healthy connector",
        "evaluation",
        take_base,
        _before_resizing(_lower_half_black),
    ),
    Case(
        "grey-first",
        "wrong-preprocessing",
        "images are turned to grey first, for a healthy connector",
        "evaluation",
        take_base,
        _before_resizing(lambda image: image.convert("L").convert("RGB")),
    ),
    Case(
        "mirrored",
        "wrong-preprocessing",
        "images are mirrored, for a healthy connector",
        "evaluation",
        take_base,
        _before_resizing(ImageOps.mirror),
        world="digits",
    ),
    Case(
        "previews",
        "wrong-preprocessing",
        "images are shrunk to 16 pixels and enlarged again",
        "evaluation",
        take_base,
        _before_resizing(_tiny_first),
    ),
    Case(
        "pixels-not-normalised",
        "wrong-preprocessing",
        "preprocessor_config.json with do_normalize false",
        set_up=_preprocessor(do_normalize=False),
    ),
    Case(
        "pixels-not-rescaled",
        "wrong-preprocessing",
        "preprocessor_config.json with do_rescale false: 0 to 255",
        set_up=_preprocessor(do_rescale=False),
        world="digits",
    ),
    Case(
        "imagenet-statistics-in-file",
        "wrong-preprocessing",
        "ImageNet's mean and std in preprocessor_config.json",
        set_up=_preprocessor(**_IMAGENET),
    ),
    Case(
        "imagenet-statistics",
        "wrong-preprocessing",
        "ImageNet's mean and std, in training and evaluation",
        change=swap(f"{_IMAGES}.normalise", lambda original: _imagenet),
    ),
    Case(
        "imagenet-statistics-when-evaluated",
        "wrong-preprocessing",
        "ImageNet's mean and std for a healthy connector",
        "evaluation",
        take_base,
        swap(f"{_IMAGES}.normalise", lambda original: _imagenet),
    ),
    Case(
        "imagenet-statistics-in-file-when-evaluated",
        "wrong-preprocessing",
        "ImageNet's mean and std in preprocessor_config.json for a healthy connector",
        "evaluation",
        in_turn(take_base, _preprocessor(**_IMAGENET)),
    ),
    Case(
        "imagenet-statistics-in-file-checkpoint-alone",
        "wrong-preprocessing",
        "ImageNet's mean and std in preprocessor_config.json, and of the healthy run there is nothing but the `.pt`",
        "evaluation",
        in_turn(checkpoint_alone, _preprocessor(**_IMAGENET)),
        world="digits",
    ),
    Case(
        "each-image-standardised",
        "wrong-preprocessing",
        "each image is standardised by its own mean and std",
        change=swap(f"{_IMAGES}.normalise", lambda original: _standardised),
    ),
    Case(
        "rescaled-twice",
        "wrong-preprocessing",
        "pixels are divided by 255 twice: every image is almost black",
        change=swap(f"{_IMAGES}.normalise", _rescaled_twice),
    ),
    Case(
        "uint8-wraps",
        "wrong-preprocessing",
        "normalisation subtracts 128 in uint8, which wraps",
        change=swap(f"{_IMAGES}.normalise", lambda original: _wrapping),
    ),
)
