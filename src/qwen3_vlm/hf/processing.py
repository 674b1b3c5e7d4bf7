"""Turns images and optional texts into model inputs, and decodes generated token ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from eyechart.data.images import ImageError, load_image, to_pixels
from qwen3_vlm.build import Inputs
from qwen3_vlm.hf.configuration import ConnectorVlmConfig, checked_inputs, read_export

ImageInput = Image.Image | str | Path


class ConnectorVlmProcessor:
    """A processor with the interface of transformers that uses this package's own code for prompts and images.

    The processor has no files of its own. The prompt settings are in the export's config.json, and the tokenizer and
    the image settings are loaded from the backbones.
    """

    def __init__(self, config: ConnectorVlmConfig, inputs: Inputs) -> None:
        """Create a processor. Users should call `from_pretrained` instead.

        Args:
            config: the config of the exported model.
            inputs: the tokenizer, the prompt builder and the image settings of the model's backbones.
        """
        self.config, self._inputs = config, inputs
        self.tokenizer = inputs.tokenizer

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> ConnectorVlmProcessor:
        """Load the processor of an exported folder, or of its copy on the Hugging Face hub.

        The options `vision` and `llm` have the same meaning as in the `from_pretrained` of the model: the folder or hub
        id of a backbone that is not where the export expects it.

        Raises:
            ValueError: the export or a backbone is missing, or the tokenizer is not the one used in training. The
                message is one line.
        """
        config = read_export(str(name), options.pop("config", None), options).config
        return cls(config, checked_inputs(config, str(name)))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, the only file that the processor needs. Saving the model writes the same file."""
        self.config.save_pretrained(folder)

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare the model inputs for one or several images.

        Args:
            images: one or several PIL images or paths.
            text: the human turn, which must contain `<image>` once: one text for all images, or one text per image. The
                default is `prompt.caption_request` of the training config.
            return_tensors: only `pt` is supported.

        Returns:
            `input_ids` and `attention_mask` [B,T], padded on the left, and `pixel_values`, uint8 [B,3,H,W], at the
            image size of the vision tower. The model itself normalises the pixel values.

        Raises:
            ValueError: an image cannot be used, the numbers of images and texts differ, or a text does not contain
                `<image>` exactly once.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors: expected 'pt', got {return_tensors!r}")
        several = [images] if isinstance(images, ImageInput) else list(images)
        assert self.config.prompt is not None
        request = self.config.prompt["caption_request"] if text is None else text
        texts = [request] * len(several) if isinstance(request, str) else list(request)
        if not several or len(texts) != len(several):
            raise ValueError(f"expected at least one image and one text per image, got {len(several)} and {len(texts)}")
        prompts = [torch.as_tensor(self._inputs.prompts.prompt(t).ids_T) for t in texts]
        ids_BT, attention_BT = self._pad(prompts)
        pixels_BCHW = torch.stack([self._pixels(image, i) for i, image in enumerate(several)])
        return BatchFeature({"input_ids": ids_BT, "attention_mask": attention_BT, "pixel_values": pixels_BCHW})

    def batch_decode(self, ids: Tensor | Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        """Decode generated token ids [B,N] to captions that end before EOS, without leading and trailing white space.

        Args:
            ids: the token ids that `generate` returned.
            skip_special_tokens: whether to omit special tokens. If False, the text includes EOS, the padding after EOS
                and all other special tokens.
        """
        return [self.decode(row, skip_special_tokens) for row in ids]

    def decode(self, ids: Tensor | Sequence[int], skip_special_tokens: bool = True) -> str:
        """Decode the token ids of one caption in the same way as `batch_decode`."""
        row, eos = [int(i) for i in ids], self._inputs.prompts.ids.eos
        if skip_special_tokens and eos in row:
            row = row[: row.index(eos)]
        text: str = self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens)
        return text.strip()

    def _pad(self, prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, prompts))
        ids_BT = torch.full((len(prompts), longest), self._inputs.pad_id)
        attention_BT = torch.zeros_like(ids_BT)
        for row, ids_T in enumerate(prompts):
            ids_BT[row, longest - len(ids_T) :] = ids_T
            attention_BT[row, longest - len(ids_T) :] = 1
        return ids_BT, attention_BT

    def _pixels(self, image: ImageInput, place: int) -> Tensor:
        spec, limit = self._inputs.spec, self.config.max_pixels
        try:
            if isinstance(image, Image.Image):
                return to_pixels(image, spec, limit)
            if isinstance(image, str | Path):
                return load_image(Path(image), spec, limit)
        except ImageError as error:
            name = f"image {place}" if isinstance(image, Image.Image) else str(image)
            raise ValueError(f"{name}: {error}") from error
        except Exception as error:  # decoding happens only here, and image decoders raise many types of exception
            raise ValueError(f"image {place}: damaged ({type(error).__name__}: {error})") from error
        raise ValueError(f"images: expected PIL images or paths, got {type(image).__name__} at {place}")
