"""Reads what reaches the model in the first training step, by a forward hook that is removed afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


class FirstForward:
    """Calls a function once, before the first forward pass, with the arguments of this pass by name."""

    def __init__(self, model: nn.Module, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """Register the hook on the model itself and not on a wrapper, because a wrapper may drop arguments."""
        self._names = tuple(inspect.signature(model.forward).parameters)
        self._tell = tell
        self._handle = model.register_forward_pre_hook(self._called, with_kwargs=True, prepend=True)

    def remove(self) -> None:
        """Remove the hook; it does not affect later forward passes."""
        self._handle.remove()

    def _called(self, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.remove()
        self._tell({**dict(zip(self._names, positional, strict=False)), **named})


def image_inputs(batch: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs of a batch that contain pixels or features of images.

    Grids, masks and sizes of images are not counted, because they do not contain the content of an image.
    """
    return [name for name, value in batch.items() if _is_image(name, value)]


def kept(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a batch that the training cannot change."""
    return {key: value.detach().clone() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def _is_image(name: str, value: Any) -> bool:
    if value is None or not any(word in name for word in ("pixel", "image", "vision", "encoder_output")):
        return False
    if isinstance(value, list | tuple | dict):
        return len(value) > 0
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 0 and "mask" not in name
