"""Compares the tower's input with the output of the tower's own image processor for the file named in the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from eyechart.faults.table import finding
from eyechart.hub import hub_bounded
from eyechart.outside.json_text import read_json
from eyechart.results import Finding
from eyechart.stored import opened
from qwen3_vlm.build import Prepared
from qwen3_vlm.preflight.rows import RawRow
from qwen3_vlm.shipped import locate

References = Sequence[Tensor]
"""Outputs [3,H,W] of the tower's own processor for one file. There is one for each valid way of reading the file (for
example 16 bits reduced to 8, or the colour of transparent pixels). It is empty if no valid way is known."""
FIX = (
    "prepare images with the preprocessor_config.json that came with model.vision: its size, filter, mean, std and "
    "channel order"
)


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


def references(rows: Sequence[RawRow], prepared: Prepared, settings: dict[str, Any]) -> list[References]:
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


def compare(got_BCHW: Tensor, readings: Sequence[References], rows: Sequence[RawRow]) -> list[Finding]:
    """Compare every row's pixels with its references. If they differ, also look for possible explanations.

    Args:
        got_BCHW: the pixels that the transformers vision model received.
        readings: references [3,H,W] for each row. The pixels have to match only one of them.
        rows: the rows, which are named in messages.
    """
    if len(got_BCHW) != len(rows):
        return [_unused(f"{len(got_BCHW)} images entered the tower for a batch of {len(rows)}")]
    got = [image.detach().float().cpu() for image in got_BCHW]
    wanted = [_nearest(image, reading) for image, reading in zip(got, readings, strict=True)]
    wrong = [b for b, want in enumerate(wanted) if want is not None and not _equal(got[b], want)]
    if not wrong:
        return []
    known = [want for want in wanted if want is not None]
    varied = len(known) > 1 and not all(torch.equal(known[0], other) for other in known[1:])
    if varied and all(torch.equal(got[0], other) for other in got[1:]):
        return [_unused(f"it gets the same image for all {len(got)} samples, though their files differ")]
    if all(float(got[b].std()) == 0 for b in wrong) and any(float(want.std()) > 0 for want in known):
        return [_unused("blank images entered the tower, though the files are not blank")]
    others = {
        b: next((o for o, want in enumerate(wanted) if o != b and want is not None and _equal(got[b], want)), None)
        for b in wrong
    }
    swapped = {b: o for b, o in others.items() if o is not None}
    if swapped:
        b, other = next(iter(swapped.items()))
        return [
            finding(
                "image-order",
                f"{len(swapped)} of {len(rows)} samples get another sample's image: row {rows[b].row} got that of row "
                f"{rows[other].row} ({rows[other].image})",
                "keep images in the order of their samples where they are read and put into a batch",
                samples=len(swapped),
                of=len(rows),
            )
        ]
    b = wrong[0]
    want = wanted[b]
    assert want is not None
    return [
        finding(
            "wrong-preprocessing",
            f"the tower's input differs from the output of its own image processor in {len(wrong)} of {len(known)} "
            "images: "
            f"{explain(got[b], want)} (row {rows[b].row}, {rows[b].image})",
            FIX,
            images=len(wrong),
            of=len(known),
            largest_difference=_largest(got[b], want),
            mean=round(float(got[b].mean()), 4),
            expected_mean=round(float(want.mean()), 4),
            range=[round(float(got[b].min()), 4), round(float(got[b].max()), 4)],
            expected_range=[round(float(want.min()), 4), round(float(want.max()), 4)],
        )
    ]


def _nearest(got_CHW: Tensor, readings: References) -> Tensor | None:
    return min(readings, key=lambda want_CHW: _largest(got_CHW, want_CHW), default=None)


def _unused(what: str) -> Finding:
    return finding(
        "pixels-unused",
        f"the images do not reach the vision tower: {what}",
        "pass each sample's own pixels from the collator to the tower",
    )


def _largest(got: Tensor, want: Tensor) -> float:
    return round(float((got - want).abs().max()), 4) if got.shape == want.shape else float("inf")


def _equal(got_CHW: Tensor, want_CHW: Tensor) -> bool:
    """Whether both are equal except for rounding. The input of a bfloat16 tower is rounded to 8 bits of mantissa."""
    if got_CHW.shape != want_CHW.shape:
        return False
    allowed = 2**-8 * float(want_CHW.abs().max()) + 1e-4
    return bool(((got_CHW - want_CHW).abs() <= allowed).all())


def explain(got_CHW: Tensor, want_CHW: Tensor) -> str:
    """Describe how two prepared images differ: in shape, channel order, orientation, scale and offset, or content."""
    if got_CHW.shape != want_CHW.shape:
        return f"their shape is {tuple(got_CHW.shape)}, expected {tuple(want_CHW.shape)}"
    for name, turned in (
        ("red and blue are exchanged", want_CHW.flip(0)),
        ("they are mirrored", want_CHW.flip(2)),
        ("they are upside down", want_CHW.flip(1)),
        ("height and width are exchanged", want_CHW.transpose(1, 2)),
    ):
        if turned.shape == got_CHW.shape and _equal(got_CHW, turned):
            return name
    slopes, offsets, worst = [], [], 0.0
    for got_HW, want_HW in zip(got_CHW, want_CHW, strict=True):
        spread = float(want_HW.var())
        if spread == 0:
            continue
        slope, offset = np.polyfit(want_HW.flatten().numpy(), got_HW.flatten().numpy(), 1)
        worst = max(worst, float((got_HW - slope * want_HW - offset).abs().max()) / max(abs(float(slope)), 1e-6))
        slopes.append(round(float(slope), 4))
        offsets.append(round(float(offset), 4))
    if slopes and worst < 0.02:
        return (
            f"{_line(slopes, offsets)}, as with another mean, std or rescale factor (range "
            f"{float(got_CHW.min()):.3g} to {float(got_CHW.max()):.3g}, expected {float(want_CHW.min()):.3g} to "
            f"{float(want_CHW.max()):.3g})"
        )
    return f"they are resized, cropped or changed in another way (largest difference {_largest(got_CHW, want_CHW)})"


def _line(slopes: list[float], offsets: list[float]) -> str:
    if len({*slopes}) == 1 and len({*offsets}) == 1:
        return f"each channel is {slopes[0]:g} times the expected value plus {offsets[0]:g}"
    return f"its channels are {slopes} times the expected values plus {offsets}"
