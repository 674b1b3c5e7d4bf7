"""`eyechart.assert_sees`: one line in a test suite that fails if a model cannot see the images of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from eyechart.api.check_model import check_model


def assert_sees(model: nn.Module, batch: Mapping[str, Any], processor: Any = None, *, optimizer: Any = None) -> None:
    """Assert that images reach the losses of a live model and its trainable parts: `check_model` finds no error.

    It does not assert that the model was trained well: use `eyechart.score` and its verdict for that.

    Args:
        model: as for `check_model`.
        batch: as for `check_model`.
        processor: as for `check_model`.
        optimizer: as for `check_model`.

    Raises:
        AssertionError: there is an error among the findings; the message is the most likely cause and its fix.
        InputError: model or batch cannot be used.
    """
    errors = [found for found in check_model(model, batch, processor, optimizer=optimizer) if found.severity == "error"]
    if errors:
        others = f" (also: {', '.join(found.code for found in errors[1:])})" if errors[1:] else ""
        raise AssertionError(f"{errors[0].code}: {errors[0].message}; {errors[0].fix}{others}")
