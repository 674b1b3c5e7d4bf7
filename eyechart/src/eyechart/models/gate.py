"""Records or replaces the output of `get_image_features`, the method that computes image features in transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

_METHOD = "get_image_features"


class _CaughtError(Exception):
    """Ends a forward pass as soon as its image features have been computed; the exception contains these features."""

    def __init__(self, features: Any) -> None:
        super().__init__("image features")
        self.features = features


class FeatureGate:
    """Patches `get_image_features` in every part of a model that has this method.

    The outer model's method calls the method of an inner model. A forward pass may call either of them, so both are
    patched.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the modules of the model that have the method `get_image_features`.

        Raises:
            ValueError: no module of the model has this method.
        """
        self._parts = self._parts_of(model)
        if not self._parts:
            raise ValueError(
                f"MODEL: {type(model).__name__} has no get_image_features, the only method whose visual tokens can "
                "be replaced; models without it cannot be scored"
            )

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Return whether at least one module of the model has the method `get_image_features`."""
        return bool(cls._parts_of(model))

    @staticmethod
    def _parts_of(model: nn.Module) -> list[nn.Module]:
        return [part for part in model.modules() if callable(getattr(part, "get_image_features", None))]

    def catch(self, forward: Callable[[], Any]) -> Any:
        """Run a forward pass until it has computed its image features, and return them; None if it computes none."""

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
        """Make every forward pass inside the `with` block use these features, regardless of the pixels."""
        with self._standing(lambda _: lambda *arguments, **options: features):
            yield

    @contextmanager
    def _standing(self, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
        # If another library has patched the method on the instance, its patch is called, and restored afterwards.
        before = [vars(part).get(_METHOD) for part in self._parts]
        try:
            for part in self._parts:
                vars(part)[_METHOD] = make(cast(Callable[..., Any], part.get_image_features))
            yield
        finally:
            for part, replaced in zip(self._parts, before, strict=True):
                vars(part).pop(_METHOD, None)
                if replaced is not None:
                    vars(part)[_METHOD] = replaced
