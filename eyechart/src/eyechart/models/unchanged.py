"""Runs a live model, and then restores the model and the process to their earlier state, bit for bit.

A live model is a model in memory, for example during training. The following is restored: the train or eval mode of
every module, the content of every buffer (batch statistics, caches), the attributes and hooks of every module, and the
states of the random generators of Python, NumPy, PyTorch and CUDA. Attributes are restored because a forward pass may
add some, such as `rope_deltas` in the Qwen models. Parameters, their gradients, dtypes and devices need no restoring,
because forward passes run without gradients or use `torch.autograd.grad`, which does not write to parameters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_KEPT_APART = ("_parameters", "_buffers", "_modules", "training")


@contextmanager
def unchanged(model: nn.Module, evaluating: bool = False) -> Iterator[None]:
    """Run the `with` block, then restore the model and the random generators.

    Args:
        model: the model, without wrappers (`wrappers.unwrapped`).
        evaluating: True to run the block in eval mode, False to run it in the model's current mode.
    """
    modules = list(dict.fromkeys(model.modules()))
    modes = [module.training for module in modules]
    attributes = [_Attributes.of(module) for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    contents = {id(b): (b, b.detach().clone()) for found in buffers for b in found.values() if b is not None}
    try:
        with kept_randomness(), _uncompiled(modules):
            if evaluating:
                model.eval()
            yield
    finally:
        for module, mode, kept, tensors in zip(modules, modes, attributes, buffers, strict=True):
            module.training = mode
            kept.put_back(module)
            module._buffers.clear()
            module._buffers.update(tensors)
        with torch.no_grad():
            for buffer, content in contents.values():
                if not _same(buffer, content):
                    buffer.copy_(content)


@contextmanager
def kept_randomness(seed: int | None = None) -> Iterator[None]:
    """Restore the states of all random generators after the `with` block.

    Args:
        seed: the seed of PyTorch's generators at the start of the block; None does not seed them.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@dataclass(frozen=True)
class _Attributes:
    """The attributes of one module, and copies of the dicts in which it stores its hooks."""

    values: dict[str, Any]
    hooks: dict[str, dict[Any, Any]]

    @classmethod
    def of(cls, module: nn.Module) -> _Attributes:
        values = {name: value for name, value in vars(module).items() if name not in _KEPT_APART}
        return cls(values, {name: dict(value) for name, value in values.items() if _holds_hooks(name, value)})

    def put_back(self, module: nn.Module) -> None:
        now = {name: value for name, value in vars(module).items() if name not in _KEPT_APART}
        for name in now.keys() - self.values.keys():
            del vars(module)[name]
        for name, value in self.values.items():
            if name not in now or now[name] is not value:
                vars(module)[name] = value
        for name, content in self.hooks.items():
            found = self.values[name]
            if len(found) != len(content) or any(found.get(key) is not hook for key, hook in content.items()):
                found.clear()
                found.update(content)


def _holds_hooks(name: str, value: object) -> bool:
    return "_hooks" in name and isinstance(value, dict)


def _uncompiled(modules: list[nn.Module]) -> Any:
    """Return a context in which compiled modules run uncompiled, because compiling them would take minutes."""
    compiled = any(
        getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
        for module in modules
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, where NaN counts as equal to NaN."""
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
