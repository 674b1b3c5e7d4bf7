"""The one place where the picture enters a model of transformers: `get_image_features`, recorded or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn


class _CaughtError(Exception):
    """Carries the image features out of a forward pass whose rest is not needed."""

    def __init__(self, features: Any) -> None:
        super().__init__("image features")
        self.features = features


class FeatureGate:
    """Replaces `get_image_features` in every part of a model that has it.

    The outer model hands the call on to an inner one; whichever of them a forward pass calls, it meets the gate.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the parts.

        Raises:
            ValueError: the model has none.
        """
        self._parts = [m for m in model.modules() if callable(getattr(m, "get_image_features", None))]
        if not self._parts:
            raise ValueError(
                f"MODEL: {type(model).__name__} has no get_image_features, the one place where visual tokens can be "
                "replaced; models without it cannot be scored"
            )

    def catch(self, forward: Callable[[], Any]) -> Any:
        """The image features of a forward pass, which ends as soon as they are there; None if it asks for none."""

        def listen(own: Callable[..., Any]) -> Callable[..., Any]:
            def answer(*arguments: Any, **options: Any) -> Any:
                raise _CaughtError(own(*arguments, **options))

            return answer

        with self._standing(listen):
            try:
                forward()
            except _CaughtError as caught:
                return caught.features
        return None

    @contextmanager
    def answering(self, features: Any) -> Iterator[None]:
        """Give these features, whatever the pixels, to every forward pass inside."""
        with self._standing(lambda _: lambda *arguments, **options: features):
            yield

    @contextmanager
    def _standing(self, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
        try:
            for part in self._parts:
                vars(part)["get_image_features"] = make(cast(Callable[..., Any], part.get_image_features))
            yield
        finally:
            for part in self._parts:
                vars(part).pop("get_image_features", None)
