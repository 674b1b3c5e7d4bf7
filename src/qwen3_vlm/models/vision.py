"""Runs the frozen vision tower, which encodes pixels [B,3,H,W] as patch features [B,P,V]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.image_processing_base import ImageProcessingMixin

from eyechart.data.images import ImageSpec, image_spec, normalise
from eyechart.hub import explain_absence, hub_bounded
from eyechart.models.hashing import HashedFiles, model_hashes
from eyechart.models.weights import load_hashed
from qwen3_vlm.shipped import locate


class VisionTower(nn.Module):
    """A SigLIP vision model that is used only for forward passes without gradients.

    The tower takes uint8 pixels and normalises them on their device. The transfer of uint8 pixels to a GPU needs only a
    quarter of the bandwidth of float32 pixels. Another advantage is that mean and std are applied in only one place.
    """

    def __init__(self, model: SiglipVisionModel, spec: ImageSpec, files: HashedFiles | None = None) -> None:
        """Wrap a loaded model.

        Args:
            model: the loaded SigLIP vision model.
            spec: the checkpoint's own image preprocessing: size, mean and std.
            files: provides the hashes of the weights if the model was loaded from files.
        """
        super().__init__()
        self._files = files
        self._hashes: dict[str, str] | None = None
        self.model = model.requires_grad_(False).eval()
        self.spec = spec
        config = model.config
        self.width: int = config.hidden_size
        self.patches: int = (spec.height // config.patch_size) * (spec.width // config.patch_size)

    @property
    def hashes(self) -> dict[str, str]:
        """Return the hash (`eyechart.models.hashing`) of every weight as it was loaded, by parameter name."""
        if self._hashes is None:
            self._hashes = self._files.of(self.model) if self._files is not None else model_hashes(self.model)
        return self._hashes

    def train(self, mode: bool = True) -> VisionTower:
        """Remain in eval mode whatever `mode` is, because the tower is frozen."""
        return self

    @torch.no_grad()
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode uint8 images.

        Args:
            pixels_BCHW: uint8 [B,3,H,W], at the image size of the tower.

        Returns:
            Patch features [B,P,V] in the tower's dtype: the last hidden state, after the final layer norm.

        Raises:
            ValueError: the images do not have the size that the tower was trained for.
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
    """Return the preprocessing settings in the tower's checkpoint: image size, resampling, mean and std.

    Raises:
        ValueError: the checkpoint was not found, or it is not a SigLIP model with a fixed image size.
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
    """Load a vision tower from a folder or from the hub.

    Raises:
        ValueError: the tower was not found, or weights are missing from its checkpoint.
    """
    model, files = load_hashed(SiglipVisionModel, name, "model.vision", dtype, attention)
    return VisionTower(model, spec, files)
