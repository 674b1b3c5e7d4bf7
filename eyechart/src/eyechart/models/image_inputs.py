"""The image inputs of a model of transformers: its processor runs once per image, and what it makes is kept.

A picture is needed several times: to count its image positions when its row is read, to encode it, and to write a
caption about it. Inputs are kept by the content of the picture and the settings of the processor, the latest ones
first, in a limited amount of memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from eyechart.data.images import content_hash
from eyechart.processors.prompts import PromptWriter

TEXT_INPUTS = ("input_ids", "attention_mask", "labels")
PER_TOKEN_INPUTS = ("token_type_ids", "mm_token_type_ids")
MOST_BYTES = 256 * 2**20
"""Memory for kept inputs: about 100 pictures of 448 x 448 in float32, which is more than one batch."""
_ROUNDING = 1e-5
"""Difference that a processor's own rounding may cause between a picture alone and one of several."""


@dataclass(frozen=True)
class _Kept:
    """What the processor makes of one picture."""

    positions: int
    """Number of image positions."""
    inputs: dict[str, Tensor]
    """By name of the model's input; empty if inputs of several pictures cannot be put together from those of each."""

    @property
    def bytes(self) -> int:
        """Memory of the inputs."""
        return sum(value.nbytes for value in self.inputs.values())


class ImageInputs:
    """Runs one processor on pictures of one size, always with the same prompt."""

    def __init__(self, prompts: PromptWriter, prompt: str, image: Image.Image, names: Collection[str]) -> None:
        """Find out whether inputs of several pictures are those of each, one after the other.

        Args:
            prompts: runs the processor.
            prompt: any prompt with one image, as text.
            image: any image at the common size.
            names: names of the model's inputs; the processor may make others.
        """
        self._prompts, self._prompt, self._names = prompts, prompt, frozenset(names)
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._bytes = 0
        self._separate = True
        two = [image, ImageOps.mirror(image)]
        together, alone = self.made(two), _joined([self._one(_pixels(one)).inputs for one in two])
        self._separate = alone is not None and _equal(together, alone)
        if not self._separate:
            self._kept.clear()
            self._bytes = 0

    def of(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the model's image inputs for uint8 pictures at the common size."""
        if self._separate:
            joined = _joined([self._one(pixels_CHW).inputs for pixels_CHW in pixels_BCHW.cpu()])
            if joined is not None:
                return joined
        return self.made([_image(pixels_CHW) for pixels_CHW in pixels_BCHW.cpu()])

    def copies(self, image: Image.Image, count: int) -> dict[str, Tensor]:
        """Return the model's image inputs for `count` copies of a picture."""
        return self.of(_pixels(image).expand(count, -1, -1, -1))

    def positions(self, pixels_BCHW: Tensor) -> list[int]:
        """Return the number of image positions of each picture."""
        return [self._one(pixels_CHW).positions for pixels_CHW in pixels_BCHW.cpu()]

    def made(self, images: Sequence[Image.Image], prompt: str = "") -> dict[str, Tensor]:
        """Run the processor, without the kept inputs; `prompt` replaces the usual one."""
        return self._run(images, prompt)[1]

    def _run(self, images: Sequence[Image.Image], prompt: str = "") -> tuple[Tensor, dict[str, Tensor]]:
        made = self._prompts.inputs([prompt or self._prompt] * len(images), images)
        wanted = [key for key in made if key not in TEXT_INPUTS and key not in PER_TOKEN_INPUTS and key in self._names]
        return made["input_ids"], {key: torch.as_tensor(made[key]) for key in wanted}

    def _one(self, pixels_CHW: Tensor) -> _Kept:
        key = content_hash(pixels_CHW), self._prompts.image_settings
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        ids_BT, inputs = self._run([_image(pixels_CHW)])
        found = _Kept(int((ids_BT == self._prompts.image_id).sum()), inputs if self._separate else {})
        self._kept[key] = found
        self._bytes += found.bytes
        while self._bytes > MOST_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].bytes
        return found


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor] | None:
    """Return inputs one after the other; None if they do not have the same names and shapes."""
    forms = {tuple((key, value.shape[1:], value.dim()) for key, value in part.items()) for part in parts}
    if len(forms) != 1 or any(value.dim() == 0 for value in parts[0].values()):
        return None
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    if one.keys() != other.keys() or any(one[key].shape != other[key].shape for key in one):
        return False
    return all(torch.allclose(one[key].double(), other[key].double(), rtol=0.0, atol=_ROUNDING) for key in one)


def _image(pixels_CHW: Tensor) -> Image.Image:
    return Image.fromarray(pixels_CHW.permute(1, 2, 0).contiguous().numpy())


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
