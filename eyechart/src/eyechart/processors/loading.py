"""Loads a model's own processor, and chooses the size to which images are resized before it processes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import transformers  # attributes are only accessed in functions, because the first access loads PyTorch

from eyechart.data.images import ImageSpec
from eyechart.exits import InputError
from eyechart.hub import explain_absence, first_line, hub_bounded, unreadable
from eyechart.processors.pillow import pillow_processor, torchvision_problem

if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from transformers.image_processing_base import ImageProcessingMixin

SETTING = "MODEL"
"""The name of the command-line argument for the scored model, used in messages."""
ONE_VIEW = {"do_image_splitting": False, "crop_to_patches": False, "do_pan_and_scan": False}
"""The settings that disable tiling: every image is then encoded once and has the same number of visual tokens."""
_DEFAULT_SIDE = 448
"""The side length in pixels that is used, or approximated, if the processor accepts images of any size."""
_BICUBIC = 3
LEAST_SIDE, MOST_SIDE = 8, 4096
"""The smallest and the largest allowed side length in pixels. In a smaller image, a tile of an 8x8 tiling would contain
less than one pixel. With larger images, a batch takes gigabytes even before the model's own processor runs."""


def load_processor(name: str, trust_remote_code: bool = False) -> ProcessorMixin:
    """Load the processor of a checkpoint: tokenizer, chat template and image processor.

    If torchvision works, the processor is loaded by `AutoProcessor`. Otherwise its Pillow variant is loaded (`pillow`).
    If only the tokenizer has a chat template, this template is also set on the processor.

    Args:
        name: the checkpoint's folder or its id on the Hugging Face Hub.
        trust_remote_code: whether Python code from the checkpoint may run.

    Raises:
        ValueError: the processor does not exist or cannot be read, has no image processor or no tokenizer, or needs a
            package that is not installed.
    """
    problem = torchvision_problem()
    try:
        with hub_bounded(name):
            if problem:
                processor = pillow_processor(name, problem)
            else:
                processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except OSError as error:
        raise ValueError(explain_absence(name, SETTING, error)) from error
    except ImportError as error:
        raise InputError(
            f"{SETTING}: the processor of {name} needs a package that is not installed ({first_line(error)})",
            "install it",
        ) from error
    except Exception as error:  # the tokenizers library raises bare Exceptions on a damaged tokenizer.json
        if not trust_remote_code:
            refuse_own_code(name, SETTING, error)
        raise ValueError(unreadable(name, SETTING, "processor", error)) from error
    parts = [part for part in ("image_processor", "tokenizer") if getattr(processor, part, None) is None]
    if parts:
        raise InputError(
            f"{SETTING}: the processor of {name} ({type(processor).__name__}) has no {' and no '.join(parts)}",
            "name an image-text-to-text model with the files of its processor",
        )
    if not getattr(processor, "chat_template", None):
        processor.chat_template = getattr(processor.tokenizer, "chat_template", None)
    return processor


def refuse_own_code(name: str, setting: str, cause: Exception) -> None:
    """Raise an error if a checkpoint that could not be loaded contains Python code (`auto_map` in one of its files).

    Raises:
        InputError: the checkpoint contains Python code.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    readers = (
        transformers.PreTrainedConfig.get_config_dict,
        transformers.ProcessorMixin.get_processor_dict,
        ImageProcessingMixin.get_image_processor_dict,
    )
    for reader in readers:
        try:
            found, _ = reader(name)
        except (OSError, TypeError, ValueError):  # the file does not exist or cannot be read
            continue
        if found.get("auto_map"):
            raise InputError(
                f"{setting}: {name} needs Python code from its own files",
                "read that code, and add --trust-remote-code if it may run",
            ) from cause


def one_view(image_processor: ImageProcessingMixin) -> dict[str, bool]:
    """Return the settings that disable tiling in this image processor, as keyword arguments for calling it."""
    known = getattr(image_processor, "valid_kwargs", None)
    accepted = set(getattr(known, "__annotations__", ())) | set(vars(image_processor))
    return {key: value for key, value in ONE_VIEW.items() if key in accepted}


def require_side(side: int | None, max_pixels: int) -> None:
    """Reject a side length to which images cannot be resized.

    Raises:
        ValueError: the side length is out of range, or an image would have more than `max_pixels` pixels.
    """
    most = min(MOST_SIDE, math.isqrt(max_pixels))
    if side is not None and not LEAST_SIDE <= side <= most:
        raise ValueError(
            f"--image_size: expected {LEAST_SIDE} to {most} pixels, got {side}; leave it out to use the size to "
            "which the model's own processor resizes"
        )


def common_size(image_processor: ImageProcessingMixin, side: int | None) -> ImageSpec:
    """Return the size to which all images are resized before they are passed to the model's own processor.

    Images of equal size have equal numbers of visual tokens, so that each can replace any other. By default, images get
    the size to which the processor itself resizes. If the processor accepts any size, the default is a side of 448
    pixels, or the nearest multiple of its merged patch size that is within its limits.

    Args:
        image_processor: the model's image processor.
        side: the side length in pixels that the user requested; None for the default.
    """
    own = _own_size(image_processor)
    height, width = (side, side) if side else own
    resample = getattr(image_processor, "resample", None)
    return ImageSpec(
        height=height,
        width=width,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        resample=_BICUBIC if resample is None else int(resample),
        rescale=1.0,
    )


def _own_size(image_processor: ImageProcessingMixin) -> tuple[int, int]:
    size = _plain(getattr(image_processor, "size", None))
    crop = _plain(getattr(image_processor, "crop_size", None)) if _on(image_processor, "do_center_crop") else {}
    largest = _plain(getattr(image_processor, "max_image_size", None))
    for found in (crop, size):
        if found.get("height") and found.get("width"):
            return int(found["height"]), int(found["width"])
    if largest.get("longest_edge"):
        return (int(largest["longest_edge"]),) * 2
    if getattr(image_processor, "merge_size", None):
        return (_patched_side(image_processor, size),) * 2
    if size.get("shortest_edge"):
        return (int(size["shortest_edge"]),) * 2
    return (_DEFAULT_SIDE,) * 2


def _patched_side(image_processor: ImageProcessingMixin, size: Mapping[str, Any]) -> int:
    """Return the side length for Qwen's processors, which limit the area and need a whole number of merged patches."""
    unit = int(image_processor.patch_size) * int(image_processor.merge_size)
    least, most = size.get("shortest_edge") or 0, size.get("longest_edge") or math.inf
    side = max(1, round(_DEFAULT_SIDE / unit)) * unit
    while side > unit and side * side > most:
        side -= unit
    while side * side < least:
        side += unit
    return side


def _plain(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {key: getattr(value, key, None) for key in _KEYS}


_KEYS = ("height", "width", "shortest_edge", "longest_edge")


def _on(image_processor: ImageProcessingMixin, setting: str) -> bool:
    return bool(getattr(image_processor, setting, False))
