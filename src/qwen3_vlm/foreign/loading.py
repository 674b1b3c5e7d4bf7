"""A model by name: weights, processor, prompts and scorer together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText

from qwen3_vlm.build import DTYPES, choose_device
from qwen3_vlm.config import Config
from qwen3_vlm.data.images import ImageSpec
from qwen3_vlm.foreign.processors import SETTING, common_size, load_processor, one_view, require_side
from qwen3_vlm.foreign.prompts import PromptWriter
from qwen3_vlm.foreign.scorer import ForeignScorer
from qwen3_vlm.models.loading import load_complete


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


def load_foreign(name: str, config: Config, side: int | None = None) -> Foreign:
    """Load an image-text-to-text model of transformers.

    Args:
        name: folder in save_pretrained layout, or hub id.
        config: device, precision, attention, longest sequence.
        side: pixels to which both sides of every image are brought; None takes the processor's own size.

    Raises:
        ValueError: one line: nothing there, no such model, weights missing, a form that cannot be scored, or a `side`
            out of range.
    """
    require_side(side, config.data.max_pixels)
    device, dtype = choose_device(config), DTYPES[config.model.precision]
    processor = load_processor(name)
    kind = AutoModelForImageTextToText
    model: nn.Module = load_complete(kind, name, SETTING, dtype, config.model.attention)
    model = model.requires_grad_(False).eval().to(device)
    spec = common_size(processor.image_processor, side)
    image = _any_image(spec)
    options = one_view(processor.image_processor)
    prompts = PromptWriter(name, processor, options, image, _image_id(name, model), config.data.max_seq_len)
    text = prompts.text(config.prompt.caption_request)
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
