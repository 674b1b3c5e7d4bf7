"""Loads a model by name, and combines its weights, processor and prompts into one scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, ProcessorMixin

from eyechart.data.dataset import Dataset
from eyechart.data.encoded import Encoded
from eyechart.data.images import ImageSpec
from eyechart.exits import InputError, foreign_code
from eyechart.models.adapters import read_adapter, with_adapter
from eyechart.models.device import DTYPES, choose_device
from eyechart.models.prefixes import Prefixes
from eyechart.models.scorer import TransformersScorer
from eyechart.models.selftests import refuse_unfit
from eyechart.models.weights import is_quantised, load_complete
from eyechart.models.writing import write_captions
from eyechart.processors.loading import SETTING, common_size, load_processor, one_view, require_side
from eyechart.processors.prompts import PromptWriter
from eyechart.results import DoorName, Remark, RemarkCode
from eyechart.scoring.batching import collate
from eyechart.scoring.encoding import OTHER_TOKENS
from eyechart.scoring.samples import decoder
from eyechart.seam import Batch, Description, Reject, RejectKind, Row, Sample, TokenNLL, VisualTokens, Vocabulary
from eyechart.settings import ScoreSettings

_NOT_OURS = "check that its config, processor and template belong together; the error is one of the model's own code"
_ANY_REQUEST = "<image>\nDescribe the picture."
"""A human turn with an image, used to find out how the processor arranges image positions."""


@dataclass(frozen=True)
class NamedModel:
    """A loaded transformers image-text-to-text model; implements `eyechart.Scorer`."""

    name: str
    processor: ProcessorMixin
    prompts: PromptWriter
    scorer: TransformersScorer
    spec: ImageSpec
    """The size to which all images are resized."""
    settings: ScoreSettings
    prefixes: Prefixes
    """Scores several answers after one prompt and image."""

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Implement `Scorer.batch`: text in the model's chat template, and images at the common size."""
        with foreign_code(f"{SETTING}: the processor of {self.name} fails on a row", _NOT_OURS):
            encoded = self.prompts.encode(rows, self.settings.prompt)
            items = [self._item(row, text) for row, text in zip(rows, encoded, strict=True)]
        return collate(items, self.prompts.begin_id)

    def encode(self, batch: Batch) -> VisualTokens:
        """Implement `Scorer.encode`."""
        with foreign_code(f"{SETTING}: a forward pass of {self.name} fails", _NOT_OURS):
            return self.scorer.encode(batch)

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Implement `Scorer.nll`."""
        with foreign_code(f"{SETTING}: a forward pass of {self.name} fails", _NOT_OURS):
            return self.scorer.nll(batch, visual)

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """Implement `PairScorer.pair_nll`: captions with the same prompt and image share what is read of them."""
        with foreign_code(f"{SETTING}: a forward pass of {self.name} fails", _NOT_OURS):
            return self.prefixes.nll(batch, visual, images_B)

    def write(self, batch: Batch) -> list[str]:
        """Implement `Writer.write` with the model's own `generate`: greedy decoding after each row's prompt."""
        return write_captions(self.scorer, self.processor.tokenizer, batch)

    def self_test(self, batch: Batch) -> None:
        """Raise an error if results of this model would not be reliable.

        Raises:
            ValueError: the model fails a self-test; the message names the test and explains its meaning.
        """
        with foreign_code(f"{SETTING}: a forward pass of {self.name} fails", _NOT_OURS):
            refuse_unfit(self.scorer, batch)

    def describe(self) -> Description:
        """Describe this model and how it is scored, in the form that the scoring interface requires."""
        ending, template = self.prompts.ending, self.prompts.has_template
        size = {"width": self.spec.width, "height": self.spec.height, "tokens": self.scorer.tokens}
        remarks = [
            Remark(code="own-chat-template" if template else "no-chat-template", about="prompt"),
            Remark(
                code="labels-to-template-end" if template else "labels-to-eos",
                about="labels",
                figures={"end": str(ending.end)},
            ),
            Remark(
                code="images-resized-untiled" if self.prompts.options else "images-resized",
                about="images",
                figures=size,
            ),
        ]
        door: dict[DoorName, RemarkCode] = {
            "encoder-outputs": "door-encoder-outputs", "image-features": "door-image-features", "pixels": "door-pixels"
        }  # fmt: skip
        remarks.append(Remark(code=door[self.scorer.door], about="door"))
        if self.scorer.prefix_attention:
            remarks.append(Remark(code="attention-both-ways-in-prompt", about="attention"))
        vocabulary = Vocabulary(
            decoder(self.processor.tokenizer), ending.end_id, self.prompts.begin_id, self.scorer.vocabulary
        )
        return Description(
            self.name, {"vision": self.name, "llm": self.name}, {}, vocabulary, remarks, self.scorer.door
        )

    def _item(self, row: Row, text: Encoded | Reject) -> Sample | Reject:
        if isinstance(text, Reject):
            return text
        item = Dataset([row], [text], Path(row.image_root), self.spec, self.settings.max_pixels)[0]
        if isinstance(item, Reject):
            return item
        assert item.pixels_CHW is not None
        expected = int(np.count_nonzero(item.ids_T == self.prompts.image_id))
        (found,) = self.scorer.image_positions(item.pixels_CHW[None])
        if found == expected:
            return item
        detail = f"{row.image}: {found} image positions, but all others have {expected}"
        return Reject(row.row, OTHER_TOKENS, detail, RejectKind.VISUAL_TOKENS)


def load_model(name: str, settings: ScoreSettings) -> NamedModel:
    """Load a transformers image-text-to-text model.

    Args:
        name: folder in save_pretrained layout, or hub id.
        settings: device, precision, attention, longest sequence, size of the images.

    Raises:
        ValueError: the folder or model does not exist, weights are missing, the model has an architecture that cannot
            be scored, or the image size is out of range. The message is one line.
    """
    require_side(settings.image_size, settings.max_pixels)
    place = settings.model
    device, dtype = choose_device(place, settings.threads), DTYPES[place.precision]
    adapter = read_adapter(name)
    base = adapter.base if adapter else name
    quantised = is_quantised(base, place.trust_remote_code)
    processor = load_processor(name if adapter and adapter.has_processor else base, place.trust_remote_code)
    options: dict[str, Any] = {"trust_remote_code": place.trust_remote_code}
    if place.device_map or quantised:
        options["device_map"] = place.device_map or {"": device}
    with foreign_code(f"{SETTING}: {base} cannot be loaded", "use a transformers that knows this model"):
        model: nn.Module = load_complete(
            AutoModelForImageTextToText, base, SETTING, None if quantised else dtype, place.attention, options
        )
    if adapter:
        model = with_adapter(model, adapter)
    model = model.requires_grad_(False).eval()
    # Quantised or distributed weights are not moved or cast, because that would break them.
    return adapt(name, model if "device_map" in options else model.to(device), processor, settings)


def adapt(name: str, model: nn.Module, processor: ProcessorMixin, settings: ScoreSettings) -> NamedModel:
    """Adapt a model and its processor to the scoring seam. The model must be in eval mode during scoring.

    Raises:
        ValueError: the model has a form that cannot be scored, or the image size is out of range.
    """
    require_side(settings.image_size, settings.max_pixels)
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(
            f"{SETTING}: {name} is an encoder-decoder model, whose labels are not at the positions of its ids",
            "name a decoder-only model",
        )
    image_id = _image_id(name, model)
    spec = common_size(processor.image_processor, settings.image_size)
    image = _any_image(spec)
    options = one_view(processor.image_processor)
    with foreign_code(f"{SETTING}: the processor of {name} fails on a prompt with one image", _NOT_OURS):
        prompts = PromptWriter(
            name, processor, options, image, image_id, settings.max_seq_len, settings.chat_template_kwargs
        )
        text = prompts.text(_ANY_REQUEST)
        prompts.prompt(_ANY_REQUEST)
    with foreign_code(f"{SETTING}: the forward pass of {name} fails on the inputs of its processor", _NOT_OURS):
        scorer = TransformersScorer(name, model, prompts, text, image)
    prefixes = Prefixes(scorer, settings.ablation.batch_size)
    return NamedModel(name, processor, prompts, scorer, spec, settings, prefixes)


def _image_id(name: str, model: nn.Module) -> int:
    for key in ("image_token_id", "image_token_index"):
        found = getattr(model.config, key, None)
        if found is not None:
            return int(found)
    raise ValueError(
        f"{SETTING}: the config of {name} names no image token (image_token_id), so image positions are unknown"
    )


def _any_image(spec: ImageSpec) -> Image.Image:
    """Return a placeholder image of noise, which cannot be mistaken for padding, for calls that need any image."""
    noise_HWC = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    return Image.fromarray(noise_HWC)
