"""`eyechart.assert_sees`: an assertion for test suites. It fails if a model cannot see the images of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from eyechart.api.check_model import check_model


def assert_sees(model: nn.Module, batch: Mapping[str, Any], processor: Any = None, *, optimizer: Any = None) -> None:
    """Assert that `check_model` finds no error: images reach the losses, and gradients reach the trainable parts.

    The function does not test how well the model was trained; for that, use the verdict of `eyechart.score`.

    Args:
        model: as for `check_model`.
        batch: as for `check_model`.
        processor: as for `check_model`.
        optimizer: as for `check_model`.

    Raises:
        AssertionError: at least one finding is an error; the message states the most likely cause and its fix.
        InputError: the model or the batch cannot be used.
    """
    errors = [found for found in check_model(model, batch, processor, optimizer=optimizer) if found.severity == "error"]
    if errors:
        others = f" (also: {', '.join(found.code for found in errors[1:])})" if errors[1:] else ""
        raise AssertionError(f"{errors[0].code}: {errors[0].message}; {errors[0].fix}{others}")
