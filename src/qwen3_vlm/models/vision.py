"""The frozen vision tower: pixels [B,3,H,W] to patch features [B,P,V]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.image_processing_base import ImageProcessingMixin

from eyechart.data.images import ImageSpec, image_spec, normalise
from eyechart.hub import explain_absence, hub_bounded
from eyechart.models.weights import load_complete
from qwen3_vlm.shipped import locate


class VisionTower(nn.Module):
    """A SigLIP vision model that only ever runs forward, without gradients.

    Takes the uint8 pixels that the data room ships and normalises them on the device they are on: moving bytes is
    four times cheaper than moving floats, and there is one place where mean and std are applied.
    """

    def __init__(self, model: SiglipVisionModel, spec: ImageSpec) -> None:
        """Wrap a loaded model; `spec` holds the checkpoint's own normalisation."""
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.spec = spec
        config = model.config
        self.width: int = config.hidden_size
        self.patches: int = (spec.height // config.patch_size) * (spec.width // config.patch_size)

    def train(self, mode: bool = True) -> VisionTower:
        """Stay in eval mode: a frozen tower has no training behaviour."""
        return self

    @torch.no_grad()
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode uint8 images.

        Args:
            pixels_BCHW: uint8 [B,3,H,W] at the tower's size.

        Returns:
            Features [B,P,V] in the tower's dtype: the last hidden state after the final layer norm.

        Raises:
            ValueError: another size than the tower was trained for.
        """
        if tuple(pixels_BCHW.shape[1:]) != (3, self.spec.height, self.spec.width):
            raise ValueError(
                f"the vision tower expects images of 3x{self.spec.height}x{self.spec.width}, "
                f"got {'x'.join(map(str, pixels_BCHW.shape[1:]))}; resize them with its own preprocessor settings"
            )
        normalised = normalise(pixels_BCHW, self.spec).to(next(self.model.parameters()).dtype)
        features_BPV: Tensor = self.model(pixel_values=normalised).last_hidden_state
        return features_BPV


def load_image_spec(name: str) -> ImageSpec:
    """The tower's own preprocessing: size, resampling, mean and std from its checkpoint.

    Raises:
        ValueError: not there, or not a SigLIP model of fixed image size.
    """
    place = locate(name)
    try:
        with hub_bounded(place):
            settings, _ = ImageProcessingMixin.get_image_processor_dict(place)
            size = SiglipVisionConfig.from_pretrained(place).image_size
    except (OSError, ImportError) as error:
        raise ValueError(explain_absence(name, "model.vision", error)) from error
    try:
        return image_spec(settings, size)
    except ValueError as error:
        raise ValueError(f"model.vision: {name}: {error}") from error


def load_tower(name: str, spec: ImageSpec, dtype: torch.dtype, attention: str) -> VisionTower:
    """Load a tower from a folder or the hub.

    Raises:
        ValueError: not there, or some of its weights are not in the checkpoint.
    """
    return VisionTower(load_complete(SiglipVisionModel, name, "model.vision", dtype, attention), spec)
