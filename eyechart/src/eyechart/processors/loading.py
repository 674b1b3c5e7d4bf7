"""Loading a model's own processor without torchvision, and choosing the size to which all images are resized.

Only the Pillow variants of image processors are used: they exist for every architecture that was tried, give the same
pixels on every machine, and need no further dependency. Videos are not scored, so the video part of a processor, which
needs torchvision, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import transformers  # its attributes are only accessed on use, because the first access loads PyTorch

from eyechart.data.images import ImageSpec
from eyechart.hub import explain_absence, hub_bounded, unreadable

if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from transformers.image_processing_base import ImageProcessingMixin

SETTING = "MODEL"
"""Name of the scored model's argument on the command line."""
ONE_VIEW = {"do_image_splitting": False, "crop_to_patches": False, "do_pan_and_scan": False}
"""Settings that disable tiling, so that every image has one view and the same number of visual tokens."""
_DEFAULT_SIDE = 448
"""Side in pixels if the processor accepts images of any size."""
_BICUBIC = 3
LEAST_SIDE, MOST_SIDE = 8, 4096
"""Smallest and largest allowed side in pixels. A smaller image has less than one pixel per tile of an 8x8 tiling; with
a larger one, a batch of images takes gigabytes even before the model's own processor runs."""


class _UnfitProcessorError(ValueError):
    """A processor that loads but cannot be used here; transformers raises other ValueErrors about processors."""


def load_processor(name: str) -> ProcessorMixin:
    """Load the processor of a checkpoint: tokenizer, chat template, and the Pillow image processor.

    Raises:
        ValueError: the checkpoint does not exist, is not an image-text-to-text model, or has no Pillow image processor.
    """
    try:
        with hub_bounded(name):
            model_type = transformers.AutoConfig.from_pretrained(name).model_type
            return _processor_class(name, model_type).from_pretrained(name)
    except OSError as error:
        raise ValueError(explain_absence(name, SETTING, error)) from error
    except ImportError as error:
        raise ValueError(
            f"{SETTING}: the processor of {name} needs a package that is not installed ({_first(error)}); install it, "
            "or use a version of transformers whose Pillow processors do not need it"
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

    class _WithoutVideo(kind):  # type: ignore[misc, valid-type]  # its base class is only known at run time
        """The processor without its video part; its other parts are loaded one by one."""

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

    _WithoutVideo.__name__ = class_name  # this name appears in file names and messages
    return _WithoutVideo


class _Absent(dict[str, Any]):
    """A placeholder for the video part of a processor.

    Some processors read defaults from it even without a video, and every processor is logged as JSON with this part.
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
        raise _UnfitProcessorError(f"{SETTING}: {name} does not name its image processor (preprocessor_config.json)")
    base = str(given).replace("FeatureExtractor", "ImageProcessor").removesuffix("Pil").removesuffix("Fast")
    kind = getattr(transformers, f"{base}Pil", None)
    if kind is None:
        raise _UnfitProcessorError(
            f"{SETTING}: {name} uses the image processor {given}, of which transformers {transformers.__version__} "
            "has no Pillow variant"
        )
    return kind.from_pretrained(name)


def one_view(image_processor: ImageProcessingMixin) -> dict[str, bool]:
    """Return the settings that disable tiling in this image processor, as arguments of its call."""
    known = getattr(image_processor, "valid_kwargs", None)
    accepted = set(getattr(known, "__annotations__", ())) | set(vars(image_processor))
    return {key: value for key, value in ONE_VIEW.items() if key in accepted}


def require_side(side: int | None, max_pixels: int) -> None:
    """Reject a size to which images cannot be resized.

    Raises:
        ValueError: the side is out of range, or the image would have more than `max_pixels` pixels.
    """
    most = min(MOST_SIDE, math.isqrt(max_pixels))
    if side is not None and not LEAST_SIDE <= side <= most:
        raise ValueError(
            f"--image_size: expected {LEAST_SIDE} to {most} pixels, got {side}; leave it out to use the size to "
            "which the model's own processor resizes"
        )


def common_size(image_processor: ImageProcessingMixin, side: int | None) -> ImageSpec:
    """Return the size to which all images are resized before they are passed to the model's own processor.

    Images of equal size have equal numbers of visual tokens, so that one can replace another. The default is the size
    to which the processor resizes. If the processor accepts any size, the default is the multiple of its patch size
    nearest to 448 pixels within its limits.

    Args:
        image_processor: image processor of the model.
        side: side in pixels requested by the user, or None.
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
    """Return the side for Qwen's processors, which need a whole number of merged patches and limit the area."""
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
