"""A model by name: weights, processor, prompts and scorer together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText

from eyechart.data.images import ImageSpec
from eyechart.models.device import DTYPES, choose_device
from eyechart.models.scorer import ForeignScorer
from eyechart.models.weights import load_complete
from eyechart.processors.loading import SETTING, common_size, load_processor, one_view, require_side
from eyechart.processors.prompts import PromptWriter
from eyechart.settings import ScoreSettings

_ANY_REQUEST = "<image>\nDescribe the picture."
"""A human turn with an image, to learn how the processor lays out image positions."""


@dataclass(frozen=True)
class Foreign:
    """A loaded model that can be scored."""

    name: str
    processor: Any
    prompts: PromptWriter
    scorer: ForeignScorer
    spec: ImageSpec
    """The one size of all images."""

    def describe(self) -> dict[str, str]:
        """Sentences about how this model was scored, for the page."""
        ending = self.prompts.ending
        writer = "which its chat template writes behind an answer" if self.prompts.has_template else "its EOS"
        made = {
            "prompt": (
                "Each row's text goes through the model's own chat template."
                if self.prompts.has_template
                else "The processor has no chat template: the prompt is the image, the row's text and a line break."
            ),
            "labels": f"Labelled are the tokens of the caption and {ending.end}, {writer}.",
            "images": (
                f"Every image is brought to {self.spec.width}x{self.spec.height} pixels before the model's own "
                f"processor sees it{', with tiling switched off' if self.prompts.options else ''}: "
                f"{self.scorer.tokens} visual tokens each."
            ),
        }
        if self.scorer.prefix_attention:
            made["attention"] = (
                "Attention goes both ways within the prompt, as the model was trained; captions are causal."
            )
        return made


def load_foreign(name: str, settings: ScoreSettings) -> Foreign:
    """Load an image-text-to-text model of transformers.

    Args:
        name: folder in save_pretrained layout, or hub id.
        settings: device, precision, attention, longest sequence, size of the images.

    Raises:
        ValueError: one line: nothing there, no such model, weights missing, a form that cannot be scored, or an
            image size out of range.
    """
    require_side(settings.image_size, settings.max_pixels)
    device, dtype = choose_device(settings.model, settings.threads), DTYPES[settings.model.precision]
    processor = load_processor(name)
    kind = AutoModelForImageTextToText
    model: nn.Module = load_complete(kind, name, SETTING, dtype, settings.model.attention)
    model = model.requires_grad_(False).eval().to(device)
    spec = common_size(processor.image_processor, settings.image_size)
    image = _any_image(spec)
    options = one_view(processor.image_processor)
    prompts = PromptWriter(name, processor, options, image, _image_id(name, model), settings.max_seq_len)
    text = prompts.text(_ANY_REQUEST)
    return Foreign(name, processor, prompts, ForeignScorer(name, model, prompts, text, image), spec)


def _image_id(name: str, model: nn.Module) -> int:
    for key in ("image_token_id", "image_token_index"):
        found = getattr(model.config, key, None)
        if found is not None:
            return int(found)
    raise ValueError(
        f"{SETTING}: the config of {name} names no image token (image_token_id), so its place is not known"
    )


def _any_image(spec: ImageSpec) -> Image.Image:
    """Stands in where a model only has to know that there is an image; noise, for no processor takes it for padding."""
    noise_HWC = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    return Image.fromarray(noise_HWC)
