"""Loads a model's own processor without torchvision: its tokenizer, template and Pillow image processor.

The class is found as `AutoProcessor` finds it: by `processor_class` in the processor's, the image processor's or the
tokenizer's file, then by the type of the model. The video part of a processor needs torchvision and is not needed here,
so it is left out.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import transformers  # attributes are only accessed in functions, because the first access loads PyTorch

from eyechart.exits import InputError
from eyechart.hub import first_line

if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from transformers.image_processing_base import ImageProcessingMixin


class NoPillowError(InputError):
    """The processor, or its image processor, cannot be used without torchvision."""


def pillow_processor(name: str, why: str) -> ProcessorMixin:
    """Load the processor of a checkpoint without torchvision.

    Args:
        name: folder or hub id.
        why: why torchvision is not used, as part of a sentence.

    Raises:
        NoPillowError: a part of the processor needs torchvision, or it has no image processor or no tokenizer.
    """
    class_name = _class_name(name)
    if class_name is None:
        model_type = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
        raise NoPillowError(
            f"MODEL: {name} names no processor, and transformers {transformers.__version__} has none for the type "
            f"{model_type!r}",
            "save the model's processor in its folder, or name an image-text-to-text model",
        )
    kind = getattr(transformers, class_name)
    if getattr(kind, "is_dummy", False) or kind is None:
        raise NoPillowError(f"MODEL: the processor {class_name} of {name} needs torchvision, and {why}", _INSTALL)
    return _without_video(kind, name, why).from_pretrained(name)


_INSTALL = "install a torchvision that fits the installed torch"


def _class_name(name: str) -> str | None:
    """Return the name of the processor class, as `AutoProcessor` resolves it."""
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    def read_processor() -> dict[str, Any]:
        return dict(transformers.ProcessorMixin.get_processor_dict(name)[0])

    def read_image_processor() -> dict[str, Any]:
        return dict(ImageProcessingMixin.get_image_processor_dict(name)[0])

    def read_tokenizer() -> dict[str, Any]:
        return dict(get_tokenizer_config(name))

    for reader in (read_processor, read_image_processor, read_tokenizer):
        try:
            found = reader().get("processor_class")
        except (OSError, TypeError):  # there is no such file
            found = None
        if found:
            return str(found)
    model_type = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
    found = PROCESSOR_MAPPING_NAMES.get(model_type)
    return str(found) if found else None


def _without_video(kind: Any, name: str, why: str) -> type[ProcessorMixin]:
    class _WithoutVideo(kind):  # type: ignore[misc]  # its base class is only known at run time
        """The processor without its video part; its other parts are loaded one by one."""

        @classmethod
        def _get_arguments_from_pretrained(cls, folder: str, *_: object, **__: object) -> list[Any]:
            attributes = cls.get_attributes()
            if not {"tokenizer", "image_processor"} <= set(attributes):
                raise NoPillowError(
                    f"MODEL: {name} has a processor of {', '.join(attributes)}",
                    "expected an image processor and a tokenizer; name an image-text-to-text model",
                )
            parts: dict[str, Any] = {
                "tokenizer": lambda: transformers.AutoTokenizer.from_pretrained(folder),
                "image_processor": lambda: _image_processor(folder, why),
            }
            return [parts[part]() if part in parts else _Absent() for part in attributes]

        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
            if isinstance(argument, _Absent):
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

    _WithoutVideo.__name__ = kind.__name__  # this name appears in file names and messages
    return _WithoutVideo


class _Absent(dict[str, Any]):
    """A placeholder for the video part of a processor.

    Some processors read defaults from this part even without a video, and logging a processor as JSON includes it.
    """

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _image_processor(name: str, why: str) -> ImageProcessingMixin:
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
    given = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if given is None:
        model_type = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
        given = (IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}).get("pil")
    if not given:
        raise NoPillowError(
            f"MODEL: {name} does not say which image processor it takes (preprocessor_config.json)",
            "save the model's image processor in its folder",
        )
    base = str(given).replace("FeatureExtractor", "ImageProcessor").removesuffix("Pil").removesuffix("Fast")
    # If an image processor has only a Pillow variant, its class name has no suffix (Emu3, Video-LLaVA).
    only_pillow = {names["pil"] for names in IMAGE_PROCESSOR_MAPPING_NAMES.values() if names and "pil" in names}
    kind = getattr(transformers, base if base in only_pillow else f"{base}Pil", None)
    if kind is None or getattr(kind, "is_dummy", False):
        raise NoPillowError(
            f"MODEL: {name} takes the image processor {given}, of which transformers {transformers.__version__} has no "
            f"variant that runs without torchvision, and {why}",
            _INSTALL,
        )
    found: ImageProcessingMixin = kind.from_pretrained(name)
    return found


def torchvision_problem() -> str:
    """Return why torchvision cannot be used, as part of a sentence; empty if it can."""
    try:
        importlib.import_module("torchvision.transforms.v2.functional")
    except ImportError as error:
        return (
            "torchvision is not installed"
            if error.name == "torchvision"
            else f"torchvision fails ({first_line(error)})"
        )
    except Exception as error:  # noqa: BLE001 - a build for another torch may raise anything
        return f"the installed torchvision does not fit the installed torch ({first_line(error)})"
    return ""
