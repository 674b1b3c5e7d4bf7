"""The connector's tensors: untrained, partial, damaged and foreign ones are named, trained ones are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eyechart.faults.weights import ConnectorEvidence, diagnose_connector, distance, flatten
from eyechart.results import Finding
from qwen3_vlm.models.connector import Connector, ConnectorShape
from qwen3_vlm.train.checkpoint import connector_state

State = dict[str, Tensor]
SHAPE = ConnectorShape(24, 32, 4, 4, 2, 2, 8, 2, vision_ln=True, key_positions=True)


def fresh(seed: int = 0, shape: ConnectorShape = SHAPE) -> State:
    torch.manual_seed(seed)
    return flatten(connector_state(Connector(shape)))


def trained(steps: int = 3, lr: float = 1e-3, decay: float = 0.01, frozen: str = "nothing") -> State:
    torch.manual_seed(0)
    connector = Connector(SHAPE)
    chosen = [p for name, p in connector.named_parameters() if not name.startswith(frozen)]
    optimizer = torch.optim.AdamW(chosen, lr=lr, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        connector(torch.randn(3, 4, 24)).square().mean().backward()
        optimizer.step()
    return flatten(connector_state(connector))


def diagnose(stored: State, in_use: State | None = None, **more: object) -> list[Finding]:
    return diagnose_connector(ConnectorEvidence(fresh(), stored, in_use, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(("steps", "lr"), [(1, 1e-3), (3, 1e-3), (10, 1e-4), (3, 1.0)])
def test_a_trained_connector_shows_nothing_however_little_it_was_trained(steps: int, lr: float) -> None:
    state = trained(steps, lr)
    assert diagnose(state) == [] and diagnose(state, state) == []


def test_a_trained_connector_that_runs_in_bfloat16_shows_nothing() -> None:
    state = trained()
    assert diagnose(state, {name: value.bfloat16() for name, value in state.items()}) == []


def test_a_connector_at_its_start_was_not_loaded() -> None:
    (found,) = diagnose(fresh(), updates=921)
    assert found.code == "connector-not-loaded" and "after 921 updates" in found.message


def test_weight_decay_alone_is_no_training() -> None:
    (found,) = diagnose({name: 0.9 * value for name, value in fresh().items()})
    assert found.code == "connector-not-loaded"


def test_a_connector_at_its_start_whose_gradients_were_zero_never_got_one() -> None:
    assert diagnose(fresh(), gradient_norms=(0.0, 0.0))[0].code == "no-gradient"
    assert diagnose(fresh(), gradient_norms=(0.0, 0.2))[0].code == "connector-not-loaded"


def test_a_start_from_another_seed_is_recognised_by_what_all_starts_share() -> None:
    (found,) = diagnose(fresh(seed=5))
    assert found.code == "connector-not-loaded" and "never trained" in found.message


@pytest.mark.parametrize("part", ["resampler", "projector", "vision_ln"])
def test_a_part_that_stayed_behind_is_named(part: str) -> None:
    (found,) = diagnose(trained(frozen=part))
    assert found.code == "connector-not-loaded" and f"`{part}`" in found.message


@pytest.mark.parametrize("part", ["resampler", "projector"])
def test_a_part_from_another_start_is_told_from_the_trained_rest(part: str) -> None:
    other = fresh(seed=5)
    mixed = {name: other[name] if name.startswith(part) else value for name, value in trained().items()}
    (found,) = diagnose(mixed)
    assert found.code == "connector-not-loaded" and f"`{part}`" in found.message


def test_a_connector_trained_from_another_seed_shows_nothing() -> None:
    moved = {name: value + 0.01 * torch.randn(value.shape) for name, value in fresh(seed=5).items()}
    assert diagnose(moved) == []


Change = Callable[[State], None]


def lose(state: State) -> None:
    del state["projector.net.0.weight"]


def lose_a_part(state: State) -> None:
    for name in [n for n in state if n.startswith("projector.")]:
        del state[name]


def rename(state: State) -> None:
    state["projector.net.weight"] = state.pop("projector.net.0.weight")


def widen(state: State) -> None:
    state["resampler.latents"] = torch.randn(8, 16)


def poison(state: State) -> None:
    state["projector.net.2.bias"][3] = torch.nan


@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        (lose, "connector-not-loaded", "projector.net.0.weight"),
        (lose_a_part, "connector-not-loaded", "projector.net.0.weight"),
        (rename, "connector-not-loaded", "projector.net.weight"),
        (widen, "connector-not-loaded", "(8, 16)"),
        (poison, "non-finite", "projector.net.2.bias"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_tensor(change: Change, code: str, name: str) -> None:
    state = trained()
    change(state)
    (found,) = diagnose(state)
    assert found.code == code and name in found.message


def test_a_model_in_use_with_other_tensors_than_the_checkpoint_is_named() -> None:
    state = trained()
    part = {n: w if n.startswith("projector.") else fresh()[n] for n, w in state.items()}
    (found,) = diagnose(state, part)
    assert found.code == "connector-not-loaded" and "with their initial values" in found.message


def test_the_distance_is_measured_up_to_shrinking() -> None:
    start = torch.tensor([3.0, 4.0])
    assert distance(0.5 * start, start) == 0
    assert distance(2 * start, start) == pytest.approx(1.0)
    assert distance(torch.tensor([4.0, -3.0]), start) == pytest.approx(1.0)
    assert distance(torch.tensor([0.6, 0.8]), torch.zeros(2)) == pytest.approx(1.0)
