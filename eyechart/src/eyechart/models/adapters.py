"""Folders with a PEFT adapter instead of a model: the base model is loaded, then the adapter is added to it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from eyechart.exits import InputError, foreign_code
from eyechart.outside.json_text import read_json

_FILE = "adapter_config.json"
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Adapter:
    """An adapter folder."""

    folder: str
    base: str
    """Folder or hub id of the model that the adapter was trained on."""
    has_processor: bool
    """Whether the folder has its own processor, as trainers save one that they changed."""


def read_adapter(name: str) -> Adapter | None:
    """Read an adapter folder; return None if it is not one, or if `name` is a hub id.

    Raises:
        InputError: PEFT is not installed, the adapter's config names no base model, or it adds tokens to every prompt.
    """
    file = Path(name) / _FILE
    if not file.is_file():
        return None
    if importlib.util.find_spec("peft") is None:
        raise InputError(
            f"MODEL: {name} is a PEFT adapter, but PEFT is not installed", "run pip install 'eyechart[peft]'"
        )
    try:
        config: dict[str, Any] = read_json(file)
    except ValueError as error:
        raise InputError(f"MODEL: {file} is not JSON ({error})", "copy the adapter again") from error
    base = config.get("base_model_name_or_path")
    if not base:
        raise InputError(
            f"MODEL: {file} names no base model", "set base_model_name_or_path in it, or merge the adapter"
        )
    if "PROMPT" in str(config.get("peft_type")) or config.get("peft_type") == "P_TUNING":
        raise InputError(
            f"MODEL: {name} is an adapter of the kind {config['peft_type']}, which adds tokens to every row",
            "use an adapter that changes layers, such as LoRA",
        )
    return Adapter(name, str(base), any((Path(name) / found).is_file() for found in _PROCESSOR_FILES))


def with_adapter(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Add the adapter's weights to the base model, and return the model.

    Raises:
        InputError: the adapter does not fit the model, or some of its weights are missing.
    """
    import peft

    with foreign_code(
        f"MODEL: the adapter {adapter.folder} does not fit its base model {adapter.base}",
        "check base_model_name_or_path in its adapter_config.json",
    ):
        config = peft.PeftConfig.from_pretrained(adapter.folder)
        wrapped = peft.get_peft_model(model, config)
        loaded = wrapped.load_adapter(adapter.folder, "default", is_trainable=False)
    missing = sorted(getattr(loaded, "missing_keys", ()))
    if missing:
        raise InputError(
            f"MODEL: the adapter {adapter.folder} lacks {len(missing)} of its weights (first: {missing[0]}), which "
            "would be random",
            "save or copy the adapter again",
        )
    inner: nn.Module = wrapped.get_base_model()
    return inner
