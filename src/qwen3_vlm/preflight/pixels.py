"""Runs the tower's own image processor on the files named in the data; `faults.prepared_pixels` compares with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from eyechart.faults.prepared_pixels import References
from eyechart.hub import hub_bounded
from eyechart.outside.json_text import read_json
from eyechart.rows import Row
from eyechart.stored import opened
from qwen3_vlm.build import Prepared
from qwen3_vlm.shipped import locate


def processor_settings(prepared: Prepared) -> dict[str, Any]:
    """Return the tower's preprocessor_config.json as stored on disk."""
    name = locate(prepared.config.model.vision)
    path = Path(name) / "preprocessor_config.json"
    if path.is_file():
        settings: dict[str, Any] = read_json(path)
        return settings
    with hub_bounded(name):
        found, _ = ImageProcessingMixin.get_image_processor_dict(name)
    return dict(found)


def references(rows: Sequence[Row], prepared: Prepared, settings: dict[str, Any]) -> list[References]:
    """Return the outputs of the tower's own processor for each row's image."""
    processor = SiglipImageProcessorPil.from_dict(settings)
    root = Path(prepared.config.data.image_root)
    return [_reference(root / row.image, processor) for row in rows]


def _reference(path: Path, processor: SiglipImageProcessorPil) -> References:
    try:
        with Image.open(opened(path)) as image:
            images = _readings(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError):
        return ()  # the pipeline also rejects this file and reports it
    return [processor(images=[image], return_tensors="pt")["pixel_values"][0].float() for image in images]


def _readings(image: Image.Image) -> list[Image.Image]:
    """Convert an image to 8-bit RGB in every valid way.

    The list is empty if the conversion is undefined (32 bits of an unknown range).
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values_HW = np.asarray(image).astype(np.int64)
        if values_HW.min() < 0 or values_HW.max() > 65535:
            return []
        eights = ((values_HW + 128) // 257, values_HW // 257, values_HW >> 8)
        return [Image.fromarray(eight_HW.astype(np.uint8)).convert("RGB") for eight_HW in eights]
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        backgrounds = [Image.new("RGBA", layer.size, colour) for colour in ("white", "black")]
        return [layer.convert("RGB"), *(Image.alpha_composite(colour, layer).convert("RGB") for colour in backgrounds)]
    return [image.convert("RGB")] if image.mode in ("RGB", "L", "P", "1", "CMYK", "YCbCr") else []
