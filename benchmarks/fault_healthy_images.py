"""Healthy set-ups whose image files, pictures or image preprocessing differ from the trial's, as those of users do."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from fault_drawings import own_pictures
from fault_edits import in_turn, repainted, settings
from fault_site import Case, Site, edit_json, edit_tensors
from fault_splits import copies_of

_PATCHES, _BIAS = "embeddings.patch_embedding.weight", "embeddings.patch_embedding.bias"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TINTS = {"red": (205, 45, 45), "green": (50, 150, 65), "blue": (50, 80, 200), "yellow": (235, 210, 50)}


def trained_with(folder: Path, mean: Sequence[float], std: Sequence[float]) -> None:
    """Turn a tower's files into those of a tower that was trained with another mean and std, with the same features.

    With x = 2 (s y + m) - 1 for the pixel x that it was trained with and the pixel y = (raw - m) / s, the first layer
    W x + b becomes (2 s W) y + b + sum W (2 m - 1).
    """

    def adapt(tensors: dict[str, torch.Tensor]) -> None:
        weight_VCHW = tensors[_PATCHES].float()
        offset_C, scale_C = 2 * torch.tensor(mean) - 1, 2 * torch.tensor(std)
        bias_V = tensors[_BIAS].float() + (weight_VCHW.sum((2, 3)) * offset_C).sum(1)
        tensors |= {_PATCHES: weight_VCHW * scale_C[:, None, None], _BIAS: bias_V}

    edit_tensors(folder / "model.safetensors", adapt)
    values = {"image_mean": list(mean), "image_std": list(std)}
    edit_json(folder / "preprocessor_config.json", lambda tree: tree.update(values))


def _trained_with(mean: Sequence[float], std: Sequence[float]) -> Callable[[Site], None]:
    return lambda site: trained_with(site.own_backbone("vision"), mean, std)


def _mean_of_bytes(site: Site) -> None:
    """The mean as 127/255 and the std as 128/255, as some exporters write 0.5."""
    edit_json(
        site.own_backbone("vision") / "preprocessor_config.json",
        lambda tree: tree.update(image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3),
    )


def _grey_and_alpha(i: int, image: Image.Image) -> Image.Image:
    grey = image.convert("LA")
    grey.putalpha(255)
    return grey


def _transparent_corner(i: int, image: Image.Image) -> Image.Image:
    """A sticker: the outermost pixels are transparent."""
    alpha = Image.new("L", image.size, 0)
    alpha.paste(255, (2, 2, image.width - 2, image.height - 2))
    image.putalpha(alpha)
    return image


def _noisy(i: int, image: Image.Image) -> Image.Image:
    """Sensor noise of 12 grey levels."""
    values_HWC = np.asarray(image) + np.random.default_rng(i).normal(0, 12, (image.height, image.width, 3))
    return Image.fromarray(values_HWC.clip(0, 255).astype(np.uint8))


def _tinted_noise(chance: random.Random) -> tuple[Image.Image, str]:
    """Noise with the 1/f spectrum of photographs; the upper and the lower half have a tint each."""
    above, below = chance.sample(list(_TINTS), 2)
    rng = np.random.default_rng(chance.randrange(2**32))
    down, across = np.fft.fftfreq(96)[:, None], np.fft.fftfreq(96)[None]
    spectrum = np.fft.fft2(rng.normal(size=(96, 96))) / np.maximum(np.hypot(down, across), 1 / 96)
    noise_HW = np.fft.ifft2(spectrum).real
    light_HW1 = (noise_HW / noise_HW.std() * 28)[..., None]
    tint_HWC = np.empty((96, 96, 3))
    tint_HWC[:48], tint_HWC[48:] = _TINTS[above], _TINTS[below]
    image = Image.fromarray((tint_HWC + light_HW1).clip(0, 255).astype(np.uint8))
    return image, f"On white: large {above} at the top, large {below} at the bottom"


def _chance_copies(site: Site) -> None:
    """Eight rows of 1,300 (0.6%) are there twice under another id, as in data sets from the web."""
    copies_of(site, site.rows[::163])


def _images(name: str, how: str, set_up: Callable[[Site], object], world: str = "scenes", **options: object) -> Case:
    return Case(name, "", how, set_up=in_turn(set_up, settings(**options)), world=world)  # type: ignore[arg-type]


HEALTHY_IMAGES = (
    _images("mean-127-of-255", "the tower's file has the mean 127/255 and the std 128/255", _mean_of_bytes),
    _images(
        "tower-of-clip-statistics",
        "a tower that was trained with CLIP's mean and std, and whose file names them",
        _trained_with(CLIP_MEAN, CLIP_STD),
    ),
    _images(
        "tower-of-unit-range",
        "a tower that was trained with pixels from 0 to 1, and whose file has mean 0 and std 1",
        _trained_with((0.0,) * 3, (1.0,) * 3),
        "digits",
    ),
    _images("grey-scenes", "8-bit grey PNGs; captions still name colours", repainted(lambda i, x: x.convert("L"))),
    _images("grey-with-alpha", "grey PNGs with an opaque alpha channel", repainted(_grey_and_alpha), "digits"),
    _images("transparent-border", "RGBA PNGs with transparent borders", repainted(_transparent_corner)),
    _images(
        "cmyk-jpeg",
        "CMYK JPEGs of quality 90",
        repainted(lambda i, image: image.convert("CMYK"), format="JPEG", quality=90),
    ),
    _images(
        "jpeg-quality-50",
        "JPEGs of quality 50 with half the colour resolution",
        repainted(lambda i, image: image, format="JPEG", quality=50),
    ),
    _images("webp", "lossy WebP files", repainted(lambda i, image: image, format="WEBP", quality=70)),
    _images(
        "black-and-white",
        "1-bit PNGs",
        repainted(lambda i, image: image.convert("L").point(lambda v: 255 * (v > 96)).convert("1")),
        "digits",
    ),
    _images("images-of-24-pixels", "24 x 24 pixels", repainted(lambda i, image: image.resize((24, 24)))),
    _images(
        "images-of-800-pixels",
        "800 x 600 pixels, 400 rows",
        in_turn(
            repainted(lambda i, image: image.resize((800, 600)), format="JPEG"),
            settings(data__max_samples=400, data__eval_ratio=0.25, train__epochs=4),
        ),
    ),
    _images(
        "soft-focus", "every image is blurred", repainted(lambda i, image: image.filter(ImageFilter.GaussianBlur(1.2)))
    ),
    _images("sensor-noise", "noise of 12 grey levels on every image", repainted(_noisy)),
    _images("tinted-noise", "noise with the spectrum of photographs and two tints", own_pictures(_tinted_noise, 600)),
    _images("chance-copies", "8 of 1,300 rows are there twice under another id", _chance_copies),
)
