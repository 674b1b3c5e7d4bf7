"""Turns images and an optional question into model inputs, and generated ids back into text."""

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
    """A transformers processor that uses this package's own prompt and image code.

    Nothing is stored twice: the prompt is in the export's config.json, and the tokenizer and image settings are those
    of the backbones.
    """

    def __init__(self, config: ConnectorVlmConfig, inputs: Inputs) -> None:
        """Make a processor; users should call `from_pretrained` instead.

        Args:
            config: the config of the model.
            inputs: tokenizer, prompts and image settings of its backbones.
        """
        self.config, self._inputs = config, inputs
        self.tokenizer = inputs.tokenizer

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> ConnectorVlmProcessor:
        """Load from an exported folder or its copy on the hub; `vision` and `llm` mean the same as in the model.

        Raises:
            ValueError: the export or a backbone is missing, or the tokenizer is not the one used in training. The
                message is one line.
        """
        config = read_export(str(name), options.pop("config", None), options).config
        return cls(config, checked_inputs(config, str(name)))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, which is the only file that a processor needs. The model writes the same file."""
        self.config.save_pretrained(folder)

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare images, each with its own question or with a common one.

        Args:
            images: one or several PIL images or paths.
            text: human turn with one `<image>`: one for all images or one per image. The default is
                `prompt.caption_request` of the training config.
            return_tensors: only `pt` is supported.

        Returns:
            `input_ids` and `attention_mask` [B,T], padded on the left, and `pixel_values`, uint8 [B,3,H,W] at the
            tower's size: the model normalises them itself.

        Raises:
            ValueError: an image cannot be used, the numbers of images and texts differ, or a text does not contain
                exactly one `<image>`.
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
        """Decode generated ids [B,N] to captions, up to EOS and without surrounding white space.

        Args:
            ids: the ids that `generate` returned.
            skip_special_tokens: whether to leave out special tokens. If False, EOS, the padding after it and other
                special tokens are shown.
        """
        return [self.decode(row, skip_special_tokens) for row in ids]

    def decode(self, ids: Tensor | Sequence[int], skip_special_tokens: bool = True) -> str:
        """Decode one row in the same way as `batch_decode`."""
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
        except Exception as error:  # the image is decoded only here, and decoders raise many kinds of exception
            raise ValueError(f"image {place}: damaged ({type(error).__name__}: {error})") from error
        raise ValueError(f"images: expected PIL images or paths, got {type(image).__name__} at {place}")
