"""Builds a tiny SigLIP tower, initialised from the patches of a data set, and saves it in the usual file layout.

Dimension suffixes: B batch, P patches, V width of the tower, N patches of many images, C values of one patch (3*8*8).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from eyechart.data.images import ImageSpec, normalise
from qwen3_vlm.demo.tiny.saving import save_half

PATCH = 8
WIDTH, LAYERS, HEADS, MLP = 96, 3, 4, 288


def image_spec(side: int) -> ImageSpec:
    """Return the preprocessing of the tiny towers: bilinear resizing, rescaling by 1/255, mean 0.5, std 0.5."""
    half = (0.5, 0.5, 0.5)
    return ImageSpec(height=side, width=side, mean=half, std=half, resample=2, rescale=1 / 255)


def build(pixels: Tensor) -> SiglipVisionModel:
    """Return an untrained tower with PCA whitening as its first layer, and 2-D sinusoidal position embeddings.

    The PCA is computed from the patches of `pixels`. With a randomly initialised first layer of this size, the tower
    learns colour but not shape. Whitening scales weak signals, such as edges, to the level of strong signals, such as
    colours.

    Args:
        pixels: training images, uint8 [B,3,side,side]. A few hundred images are enough.
    """
    side = pixels.shape[-1]
    config = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        image_size=side, patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    tower = SiglipVisionModel(config)
    embeddings = _embeddings(tower)
    weight_VC, bias_V = _whitening(pixels)
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(weight_VC.view(WIDTH, 3, PATCH, PATCH))
        embeddings.patch_embedding.bias.copy_(bias_V)
        embeddings.position_embedding.weight.copy_(0.7 * _sines(side // PATCH))
    return tower


def features(tower: SiglipVisionModel, pixels: Tensor) -> Tensor:
    """Return the patch features [B,P,V] of uint8 images [B,3,side,side]."""
    found_BPV: Tensor = tower(pixel_values=normalise(pixels, image_spec(pixels.shape[-1]))).last_hidden_state
    return found_BPV


def save(tower: SiglipVisionModel, folder: Path) -> None:
    """Write the tower and its preprocessor settings to `folder`, in the layout that `from_pretrained` reads."""
    save_half(tower, folder)
    spec = image_spec(tower.config.image_size)
    preprocessor = {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True, "size": {"height": spec.height, "width": spec.width}, "resample": spec.resample,
        "do_rescale": True, "rescale_factor": spec.rescale,
        "do_normalize": True, "image_mean": spec.mean, "image_std": spec.std,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")


def _embeddings(tower: SiglipVisionModel) -> Any:
    # In transformers 5.17, the embeddings belong to the tower's `vision_model`; in later versions, to the tower itself.
    inner = getattr(tower, "vision_model", tower)
    return inner.embeddings


def _whitening(pixels: Tensor) -> tuple[Tensor, Tensor]:
    patches = normalise(pixels, image_spec(pixels.shape[-1])).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    patches_NC = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH * PATCH)
    mean_C = patches_NC.mean(0)
    centred_NC = patches_NC - mean_C
    power, axes_CC = torch.linalg.eigh(centred_NC.T @ centred_NC / len(centred_NC))
    power, axes_CC = power.flip(0)[:WIDTH].clamp(min=0), axes_CC.flip(1)[:, :WIDTH]
    weight_VC = (axes_CC / (power + 0.02).sqrt() * 0.5).T.contiguous()
    return weight_VC, -(weight_VC @ mean_C)


def _sines(cells: int) -> Tensor:
    """Return 2-D sinusoidal position embeddings [cells*cells,V] for a square grid. Each axis uses half of V."""
    quarter = WIDTH // 4
    waves = math.pi / cells * 2.0 ** torch.linspace(-0.5, 2.5, quarter)
    angles = torch.arange(cells).float().unsqueeze(1) * waves
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = line.repeat_interleave(cells, 0), line.repeat(cells, 1)
    return torch.cat([rows, columns], dim=1)
