"""A live model and the process are the same after a score, a check or a look, bit for bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eyechart
from collators import collate, load, picture
from eyechart.models.gate import FeatureGate
from eyechart.models.unchanged import unchanged
from eyechart.trainers.looking import Looking
from saved_models import Saved, saved

__all__ = ["saved"]
FEW = eyechart.ScoreSettings(ablation=eyechart.AblationSettings(derangements=1, gallery=0))


class Restless(nn.Module):
    """Changes everything that a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, values_BE: Tensor) -> Tensor:
        self.seen += 1
        self.register_buffer("cache", values_BE.detach())
        self.note = random.random() + float(np.random.rand())
        if not self._forward_hooks:
            self.register_forward_hook(lambda *_: None)
        result: Tensor = self.drop(self.norm(values_BE))
        return result


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that could change, as plain values."""
    modules = dict(model.named_modules())
    return {
        "modes": {name: module.training for name, module in modules.items()},
        "attributes": {name: {k: id(v) for k, v in vars(module).items()} for name, module in modules.items()},
        "hooks": {name: list(module._forward_hooks) for name, module in modules.items()},
        "weights": {name: (weight.detach().clone(), weight.dtype) for name, weight in model.named_parameters()},
        "gradients": {name: None if w.grad is None else w.grad.clone() for name, w in model.named_parameters()},
        "buffers": {name: buffer.clone() for name, buffer in model.named_buffers()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1:3],
        "python": random.getstate(),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def changed_parts(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [part for part in before if not same(before[part], after[part])]


@pytest.mark.parametrize("evaluating", [True, False])
def test_whatever_a_forward_pass_changes_is_put_back(evaluating: bool) -> None:
    model = Restless()
    before = state_of(model)
    with unchanged(model, evaluating), torch.no_grad():
        assert model.training is not evaluating
        model(torch.randn(4, 3))
        assert model.seen == 1
    assert changed_parts(before, state_of(model)) == []
    model(torch.randn(4, 3))
    assert {"attributes", "hooks", "buffers", "torch", "numpy", "python"} <= {*changed_parts(before, state_of(model))}


def test_a_model_is_put_back_after_an_error() -> None:
    model = Restless()
    before = state_of(model)
    with pytest.raises(RuntimeError), unchanged(model, True):
        model(torch.randn(4, 5))
    assert changed_parts(before, state_of(model)) == []


def test_a_model_in_training_is_the_same_after_a_score_a_check_and_a_look(saved: Saved) -> None:
    model, processor = load(saved, "qwen2_5_vl")
    batch = collate(processor, [[picture(row)] for row in range(4)])
    model.train()
    for block in model.modules():
        if isinstance(getattr(block, "attention_dropout", None), float):
            block.attention_dropout = 0.2
    model(**batch).loss.backward()
    before = state_of(model)
    eyechart.score(model, batch, "runbook", processor=processor, settings=FEW)
    assert changed_parts(before, state_of(model)) == []
    eyechart.check_model(model, batch, processor)
    assert changed_parts(before, state_of(model)) == []
    assert Looking(model, [batch], processor, 1, 0).look(1).step == 1
    assert changed_parts(before, state_of(model)) == []


def test_a_method_that_a_stack_replaced_on_the_model_is_used_and_stays(saved: Saved) -> None:
    model, processor = load(saved, "llava")
    batch = collate(processor, [[picture(row)] for row in range(4)])
    encode, calls = model.model.get_image_features, []  # type: ignore[union-attr]

    def patched(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return encode(*args, **kwargs)

    model.model.get_image_features = patched  # type: ignore[union-attr]
    with FeatureGate(model).answering(None):
        pass
    assert model.model.get_image_features is patched  # type: ignore[union-attr]
    eyechart.score(model, batch, "runbook", processor=processor, settings=FEW)
    assert calls
    assert model.model.get_image_features is patched  # type: ignore[union-attr]
