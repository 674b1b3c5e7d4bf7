"""A model's own processor, loaded without torchvision, and the one size to which all images are brought.

Only the Pillow variants of image processors are used: they exist for every architecture that was tried, give the same
pixels on every machine, and need nothing that is not a dependency here. Videos are no part of the test, so the video
half of a processor, which needs torchvision, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import transformers  # its parts are taken where they are used: the first of them loads PyTorch

from eyechart.data.images import ImageSpec
from eyechart.hub import explain_absence, hub_bounded, unreadable

if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from transformers.image_processing_base import ImageProcessingMixin

SETTING = "MODEL"
"""What the command line calls the model that is scored."""
ONE_VIEW = {"do_image_splitting": False, "crop_to_patches": False, "do_pan_and_scan": False}
"""Settings that cut an image into tiles, switched off: one view per image, as many visual tokens for each."""
_DEFAULT_SIDE = 448
"""Pixels, where the processor takes images of any size."""
_BICUBIC = 3
LEAST_SIDE, MOST_SIDE = 8, 4096
"""Pixels of a side that may be asked for. Below, a tiling of 8x8 has no pixel to move; above, a batch of images takes
gigabytes before the model's own processor has seen one."""


class _UnfitProcessorError(ValueError):
    """A processor that can be read and is of no use here; what transformers raises about one is another ValueError."""


def load_processor(name: str) -> ProcessorMixin:
    """The processor of a checkpoint: tokenizer, chat template, and the Pillow image processor.

    Raises:
        ValueError: not there, not of an image-text-to-text model, or without a Pillow image processor.
    """
    try:
        with hub_bounded(name):
            model_type = transformers.AutoConfig.from_pretrained(name).model_type
            return _processor_class(name, model_type).from_pretrained(name)
    except OSError as error:
        raise ValueError(explain_absence(name, SETTING, error)) from error
    except ImportError as error:
        raise ValueError(
            f"{SETTING}: the processor of {name} needs a package that is not here ({_first(error)}); install it, or "
            "use a transformers whose Pillow processors do without"
        ) from error
    except _UnfitProcessorError:
        raise
    except ValueError as error:
        raise ValueError(unreadable(name, SETTING, "processor", error)) from error
    except Exception as error:  # the tokenizers library raises bare Exceptions on a damaged tokenizer.json
        raise ValueError(unreadable(name, SETTING, "processor", error)) from error


def _processor_class(name: str, model_type: str) -> type[ProcessorMixin]:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    class_name = PROCESSOR_MAPPING_NAMES.get(model_type)
    if class_name is None:
        raise _UnfitProcessorError(
            f"{SETTING}: {name} is a model of type {model_type!r}, for which transformers "
            f"{transformers.__version__} has no processor; expected an image-text-to-text model"
        )
    kind = getattr(transformers, class_name)

    class _WithoutVideo(kind):  # type: ignore[misc, valid-type]  # its class is known at run time only
        """The processor, its parts loaded one by one."""

        @classmethod
        def _get_arguments_from_pretrained(cls, folder: str, *_: object, **__: object) -> list[Any]:
            loaders = {"tokenizer": transformers.AutoTokenizer.from_pretrained, "image_processor": _image_processor}
            attributes = cls.get_attributes()
            if not {"tokenizer", "image_processor"} <= set(attributes):
                raise _UnfitProcessorError(
                    f"{SETTING}: {name} has a processor of {', '.join(attributes)}; expected an image processor and a "
                    "tokenizer"
                )
            return [loaders[part](folder) if part in loaders else _Absent() for part in attributes]

        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
            if isinstance(argument, _Absent):
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

    _WithoutVideo.__name__ = class_name  # it names files and messages
    return _WithoutVideo


class _Absent(dict[str, Any]):
    """Stands where a processor keeps its video half.

    Some ask it for defaults even when there is no video, and a processor writes itself as JSON into its log line.
    """

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _image_processor(name: str) -> ImageProcessingMixin:
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
    given = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if given is None:
        model_type = transformers.AutoConfig.from_pretrained(name).model_type
        given = (IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}).get("pil")
    if not given:
        raise _UnfitProcessorError(
            f"{SETTING}: {name} does not say which image processor it takes (preprocessor_config.json)"
        )
    base = str(given).replace("FeatureExtractor", "ImageProcessor").removesuffix("Pil").removesuffix("Fast")
    kind = getattr(transformers, f"{base}Pil", None)
    if kind is None:
        raise _UnfitProcessorError(
            f"{SETTING}: {name} takes the image processor {given}, of which transformers {transformers.__version__} "
            "has no Pillow variant"
        )
    return kind.from_pretrained(name)


def one_view(image_processor: ImageProcessingMixin) -> dict[str, bool]:
    """The settings of this image processor that have to be switched off, for its call."""
    known = getattr(image_processor, "valid_kwargs", None)
    accepted = set(getattr(known, "__annotations__", ())) | set(vars(image_processor))
    return {key: value for key, value in ONE_VIEW.items() if key in accepted}


def require_side(side: int | None, max_pixels: int) -> None:
    """Refuse a size that no image can be brought to.

    Raises:
        ValueError: out of range, or more pixels than an image may have.
    """
    most = min(MOST_SIDE, math.isqrt(max_pixels))
    if side is not None and not LEAST_SIDE <= side <= most:
        raise ValueError(
            f"--image_size: expected {LEAST_SIDE} to {most} pixels, got {side}; leave it out for the size that the "
            "model's own processor resizes to"
        )


def common_size(image_processor: ImageProcessingMixin, side: int | None) -> ImageSpec:
    """The size to which all images are brought before the model's own processor sees them.

    Equal size gives equal numbers of visual tokens, without which an image cannot replace another. By default it is
    the size the processor resizes to; where it takes any size, the multiple of its patches nearest to 448 pixels that
    lies within its limits.

    Args:
        image_processor: of the model.
        side: pixels of a side asked for by the user, or None.
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
    """Qwen's processors: any size in whole merged patches, with limits on the area in pixels."""
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


def _first(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
