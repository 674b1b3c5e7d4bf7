"""Learning rates far off are named by how far updates move the weights; sound ones, slow or fast, are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.faults.learning_rate import (
    Movement,
    could_not_move,
    diagnose_movement,
    diagnose_step,
    movement,
    typical_size,
)
from eyechart.faults.table import finding
from eyechart.faults.weights import ConnectorEvidence, diagnose_connector
from eyechart.results import Verdict
from test_diagnosis_ablation import HEALTHY, ablation

SIZE = 0.06
"""The typical weight of the tiny connector."""
STATE = {
    "projector.net.0.weight": SIZE * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)),
    "projector.net.0.bias": torch.zeros(32),
    "resampler.ln.weight": torch.ones(512),
}


def moved(by: float) -> dict[str, Tensor]:
    """The state after every matrix has moved by so many times its own norm, and the rest by a little."""
    generator = torch.Generator().manual_seed(1)
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in STATE.items()}
    return {
        name: value + by * noise[name] * (float(value.norm()) or 1.0) / float(noise[name].norm())
        for name, value in STATE.items()
    }


def said(seen: Movement, verdict: Verdict | None, rate: float | None = 2e-3) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in diagnose_movement(seen, rate, SIZE, verdict)]


@pytest.mark.parametrize(
    ("rate", "severity"), [(1e-4, None), (2e-3, None), (1e-2, None), (0.06, "warning"), (2.0, "error"), (3.0, "error")]
)
def test_a_rate_is_judged_by_the_size_of_one_update(rate: float, severity: str | None) -> None:
    found = diagnose_step(rate, SIZE)
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert all(f.code == "learning-rate-too-high" for f in found)


def test_without_a_matrix_nothing_is_said_about_a_rate() -> None:
    assert typical_size({"ln.weight": torch.ones(512), "small": torch.randn(2, 2)}) is None
    assert diagnose_step(1e3, None) == [] == diagnose_movement(Movement(9.0, 9), 1.0, None, "FAIL")
    assert movement({}, {}, 10) is None and movement(STATE, STATE, None) is None and movement(STATE, STATE, 0) is None


def test_the_typical_weight_is_that_of_matrices_alone() -> None:
    assert typical_size(STATE) == pytest.approx(SIZE, rel=0.1)


def test_movement_is_measured_against_the_weights_own_size() -> None:
    seen = movement(STATE, moved(0.3), 150)
    assert seen is not None and seen.moved == pytest.approx(0.3, rel=1e-4)
    assert seen.pace == pytest.approx(0.3 / 150**0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (Movement(0.014, 150), "note"),  # a hundredth of a sound rate
        (Movement(5e-4, 150), "error"),  # a 3000th
        (Movement(0.28, 150), None),  # a sound rate
        (Movement(0.05, 15), None),  # a sound rate and few updates
        (Movement(0.5, 1_000_000), None),  # slow, but no longer near its start
    ],
    ids=lambda value: str(value),
)
def test_a_run_that_fails_was_too_slow_if_it_is_still_at_its_start(seen: Movement, severity: str | None) -> None:
    for verdict in ("FAIL", "INCONCLUSIVE"):
        assert said(seen, verdict) == ([("learning-rate-too-low", severity)] if severity else [])
    assert said(seen, "PASS") == [] == said(seen, None)


def test_weights_that_every_update_replaces_are_named_at_any_verdict() -> None:
    fast = Movement(4.8, 150)
    assert said(fast, "PASS") == [("learning-rate-too-high", "warning")]
    assert said(fast, "FAIL") == [("learning-rate-too-high", "error")] == said(fast, "FAIL", rate=None)
    assert said(Movement(1.0, 150), "FAIL") == [], "five times a sound rate"


def test_the_message_tells_a_rate_of_the_config_from_one_that_it_does_not_have() -> None:
    with_rate, without = (diagnose_movement(Movement(4.8, 150), rate, SIZE, "FAIL")[0] for rate in (2e-3, None))
    assert "train.lr is 0.002" in with_rate.message and "train.lr is" not in without.message


def evidence(stored: dict[str, Tensor], verdict: Verdict, rate: float = 2e-3, updates: int = 150) -> RunEvidence:
    correct, _, gaps = HEALTHY["short" if verdict == "PASS" else "shorter"]
    connector = ConnectorEvidence(STATE, stored, updates=updates, learning_rate=rate)
    return RunEvidence(connector=connector, ablation=ablation(correct, verdict, **gaps))


def codes(given: RunEvidence) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in diagnose_run(given) if f.code != "under-trained"]


def test_a_sound_run_shows_nothing_and_one_with_a_rate_far_off_is_named() -> None:
    assert codes(evidence(moved(0.28), "PASS")) == [] == codes(evidence(moved(0.28), "FAIL"))
    assert codes(evidence(moved(4.8), "PASS")) == [("learning-rate-too-high", "warning")]
    assert codes(evidence(moved(0.014), "FAIL")) == [("learning-rate-too-low", "note")]


def test_a_rate_comes_before_the_errors_that_it_explains_and_becomes_one() -> None:
    given = evidence(moved(4.8), "PASS")
    unused = finding("pixels-unused", "48 of 64 patches change no visual token", "look for a mask")
    first, second = diagnose_run(RunEvidence([unused], given.connector, ablation=given.ablation))
    assert (first.code, first.severity) == ("learning-rate-too-high", "error")
    assert (second.code, second.explained_by) == ("pixels-unused", ["learning-rate-too-high"])


@pytest.mark.parametrize("code", ["no-gradient", "connector-not-loaded", "loss-not-reproduced", "non-finite"])
def test_weights_that_are_not_what_training_made_say_nothing_about_its_rate(code: str) -> None:
    given = evidence(moved(5e-4), "FAIL")
    found = diagnose_run(RunEvidence([finding(code, "m", "f")], given.connector, ablation=given.ablation))
    assert "learning-rate-too-low" not in {f.code for f in found}


@pytest.mark.parametrize("code", ["connector-not-loaded", "non-finite"])
def test_weights_further_away_than_another_start_show_a_high_rate_whatever_else_was_found(code: str) -> None:
    for by, first in ((4.8, "learning-rate-too-high"), (2.6, code)):
        given = evidence(moved(by), "FAIL")
        found = diagnose_run(RunEvidence([finding(code, "m", "f")], given.connector, ablation=given.ablation))
        assert found[0].code == first and (found[-1].explained_by == [first] or by < 3)


def test_tensors_that_are_missing_or_of_another_shape_are_left_out_of_the_movement() -> None:
    more = {**STATE, "other": torch.randn(32, 32), "wide": torch.randn(64, 16)}
    seen = movement(more, {**moved(0.3), "wide": torch.zeros(2, 2)}, 150)
    assert seen is not None and seen.moved == pytest.approx(0.3, rel=1e-4)


def test_a_connector_near_its_start_was_loaded_if_its_rate_could_not_move_it() -> None:
    assert could_not_move(1e-7, 150, STATE) and not could_not_move(2e-3, 150, STATE)
    assert not could_not_move(None, 150, STATE) and not could_not_move(1e-7, None, STATE)
    near = {name: value + 1e-4 * SIZE * torch.randn(value.shape) for name, value in STATE.items()}
    of = {rate: ConnectorEvidence(STATE, near, updates=150, learning_rate=rate) for rate in (1e-7, 2e-3)}
    assert diagnose_connector(of[1e-7]) == []
    assert [f.code for f in diagnose_connector(of[2e-3])] == ["connector-not-loaded"]
    assert codes(evidence(near, "FAIL", rate=1e-7)) == [("learning-rate-too-low", "error")]
    untouched = ConnectorEvidence(STATE, STATE, updates=150, learning_rate=1e-7)
    assert [f.code for f in diagnose_connector(untouched)] == ["connector-not-loaded"], "no rate leaves every bit"


def pace_of(rate: float, updates: int) -> float:
    """The pace of a linear map that AdamW fits to another one."""
    torch.manual_seed(0)
    learnt, target = nn.Linear(32, 32), nn.Linear(32, 32)
    initial = {name: p.detach().clone() for name, p in learnt.named_parameters()}
    optimizer = torch.optim.AdamW(learnt.parameters(), lr=rate)
    for _ in range(updates):
        x_B = torch.randn(16, 32)
        optimizer.zero_grad()
        (learnt(x_B) - target(x_B).detach()).square().mean().backward()
        optimizer.step()
    seen = movement(initial, {name: p.detach() for name, p in learnt.named_parameters()}, updates)
    assert seen is not None
    return seen.pace


def test_real_updates_have_the_pace_of_their_rate_however_many_there_are() -> None:
    assert pace_of(2e-5, 20) < pace_of(2e-5, 100) < 3e-3 < pace_of(3e-3, 5) < pace_of(3e-3, 100) < 0.2
    assert pace_of(1.0, 5) > 0.2 and pace_of(1.0, 100) > 0.2
