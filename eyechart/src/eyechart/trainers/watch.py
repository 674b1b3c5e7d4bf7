"""`watch(model)` reports whether images reach the model in any training loop, using a hook on its forward pass.

    watch = eyechart.watch(model)  # before the training
    ...
    watch.remove()                 # when it is no longer needed

The first forward passes with images are inspected: did pixels arrive, did a module of the model use them, did they
reach the language model, and did they change its output? For this, each of these forward passes is repeated twice
without gradients: once with its own pixels, and once with negated pixels. In later forward passes, only the names of
the arguments are read. A line is printed if images no longer arrive, or if they arrive again.

The hook does not change weights, buffers, gradients, the states of random generators, or the training mode. It does not
work inside a compiled model, so call `watch` before the model is compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eyechart.models.unchanged import unchanged
from eyechart.models.wrappers import unwrapped
from eyechart.progress import say
from eyechart.reporting.training import Passage, watch_line
from eyechart.trainers.firststep import image_inputs

INSPECTED = 3
"""Number of forward passes with images that are inspected."""
_MAIN = ("logits", "last_hidden_state")
"""Main fields of the output of a transformers module; other fields may repeat its inputs."""
SILENT = 50
"""After this many consecutive forward passes without any image, a line that reports this is printed. The number is
above 1, because mixed data contain rows without images."""


class Watch:
    """A hook on a model's forward pass; `passages` lists what was reported."""

    def __init__(self, model: nn.Module) -> None:
        """Register the hook on the model itself, not on a wrapper around it."""
        self._model = unwrapped(model)
        self._names = tuple(inspect.signature(self._model.forward).parameters)
        self.passages: list[Passage] = []
        self._forwards = self._inspected = self._without = 0
        self._inside = False
        self._handle = self._model.register_forward_hook(self._called, with_kwargs=True)

    def remove(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def _called(self, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if self._inside:
            return
        self._forwards += 1
        given = {**dict(zip(self._names, positional, strict=False)), **named}
        inputs = tuple(image_inputs(given))
        if not inputs:
            self._missed()
            return
        if self._without >= SILENT:
            self._report(Passage(self._forwards, inputs))
        self._without = 0
        if self._inspected < INSPECTED:
            self._inspected += 1
            self._report(self._inspect(given, inputs))

    def _missed(self) -> None:
        self._without += 1
        if self._forwards == 1 or self._without == SILENT:
            self._report(Passage(self._forwards, ()))

    def _report(self, passage: Passage) -> None:
        self.passages.append(passage)
        say(f"eyechart: {watch_line(passage)}")

    def _inspect(self, given: Mapping[str, Any], inputs: tuple[str, ...]) -> Passage:
        """Repeat the forward pass with the same pixels and with negated ones, and compare all modules' outputs."""
        others = {name: _negated(given[name]) for name in inputs}
        self._inside = True
        try:
            with unchanged(self._model), torch.no_grad():
                own, logits = self._trace(given)
            with unchanged(self._model), torch.no_grad():
                other, changed = self._trace({**given, **others})
        finally:
            self._inside = False
        differ = [name for name in own if own[name] != other.get(name)]
        change = None
        if logits is not None and changed is not None and logits.shape == changed.shape:
            change = float((logits.float() - changed.float()).abs().max())
        return Passage(self._forwards, inputs, bool(differ), change, differ[-1] if differ else "")

    def _trace(self, given: Mapping[str, Any]) -> tuple[dict[str, float], Tensor | None]:
        """Run the forward pass; return the sum of each module's output, in the order of calls, and the logits."""
        sums: dict[str, float] = {}
        handles = [
            module.register_forward_hook(lambda _m, _i, output, name=name: sums.__setitem__(name, _sum(output)))
            for name, module in self._model.named_modules()
            if name
        ]
        try:
            output = self._model(**given)
        finally:
            for handle in handles:
                handle.remove()
        return sums, getattr(output, "logits", None)


def watch(model: nn.Module) -> Watch:
    """Report, in any training loop, whether images reach a model's forward pass and change its output.

    Args:
        model: the model that is being trained, with or without a wrapper (PEFT, DistributedDataParallel).

    Returns:
        The watch: its method `remove()` removes the hook, and `passages` lists what was reported.
    """
    return Watch(model)


def _negated(value: Any) -> Any:
    if isinstance(value, Tensor):
        return -value if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_negated(item) for item in value)
    return value


def _sum(output: Any) -> float:
    """Return the sum of all numbers in a module's output; equal outputs have equal sums.

    If the output has logits or hidden states, only these are added up, because some models also return their inputs,
    such as the features of the tower.
    """
    if isinstance(output, Tensor):
        return float(output.detach().double().sum()) if output.is_floating_point() else 0.0
    if isinstance(output, Mapping) and (main := [output[key] for key in _MAIN if output.get(key) is not None]):
        return _sum(main[0])
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return sum(_sum(value) for value in values)
