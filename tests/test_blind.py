"""The blind prompt: it learns from captions alone, what it rests on decides whether it is used again, nothing moves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eyechart.data.dataset import Dataset
from eyechart.exits import NonFiniteError
from eyechart.scoring.batching import collate
from eyechart.scoring.decomposition import Blind
from eyechart.seam import TokenNLL, VisualTokens
from qwen3_vlm import ablate
from qwen3_vlm.build import Prepared, build_model, prepare_data
from qwen3_vlm.commands import scoring
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train import blind as module
from qwen3_vlm.train.blind import BlindPlan, blind_prompt
from tiny_runs import TinyWorld, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


class Run:
    """A model and its training split, without a checkpoint."""

    def __init__(self, world: TinyWorld, folder: Path, **changes: Any) -> None:
        config = world.config("blind", **{"ablation__blind_captions": 320, **changes})
        self.plan = BlindPlan(config.seed, config.ablation.blind_captions, config.model.precision, 4)
        self.prepared: Prepared = prepare_data(config)
        self.vlm: VLM = build_model(config, self.prepared.inputs)
        self.folder = folder

    def train(self, step: int = 7) -> Blind:
        pad_id = self.prepared.inputs.pad_id
        return blind_prompt(self.vlm, self.prepared.train, self.plan, pad_id, self.folder / f"blind_{step}.pt")

    def held_out_loss(self, prompt_QE: torch.Tensor) -> float:
        batch = collate([self.prepared.eval.text(i) for i in range(len(self.prepared.eval))], 0)
        visual = VisualTokens((prompt_QE.expand(len(batch), -1, -1),))
        with torch.no_grad():
            return float(self.vlm.nll(batch, visual).nll_N.mean())


@pytest.fixture(scope="module")
def trained(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Blind]:
    run = Run(world, tmp_path_factory.mktemp("run"))
    return run, run.train()


@pytest.fixture(scope="module")
def short(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Blind]:
    run = Run(world, tmp_path_factory.mktemp("short"), ablation__blind_captions=16)
    return run, run.train()


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing may be trained."""

    def fail(*arguments: Any) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(module._Task, "train", fail)
        yield


def test_it_beats_every_prompt_that_was_not_trained(trained: tuple[Run, Blind]) -> None:
    run, blind = trained
    shape = (run.vlm.connector.shape.latents, run.vlm.llm.width)
    assert blind.prompt_QE.shape == shape and blind.captions == 320 and blind.learning_rate in module.LEARNING_RATES
    scale = run.vlm.llm.text_rms()
    others = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale for seed in range(5)]
    loss = run.held_out_loss(blind.prompt_QE)
    assert loss < 0.9 * min(map(run.held_out_loss, [torch.zeros(shape), *others]))


def test_no_image_is_opened_and_no_weight_moves(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(world, tmp_path, ablation__blind_captions=16)
    before = {name: value.clone() for name, value in run.vlm.state_dict().items()}
    monkeypatch.setattr(Dataset, "__getitem__", lambda self, position: pytest.fail("an image was opened"))
    run.train()
    assert all(torch.equal(value, before[name]) for name, value in run.vlm.state_dict().items())
    assert all(parameter.grad is None for parameter in run.vlm.parameters())


@pytest.mark.parametrize("norm", [True, False])
def test_its_scale_is_that_of_the_connectors_output(world: TinyWorld, tmp_path: Path, norm: bool) -> None:
    run = Run(world, tmp_path, connector__output_norm=norm, ablation__blind_captions=32)
    rms_Q = run.train().prompt_QE.square().mean(-1).sqrt() / run.vlm.llm.text_rms()
    assert (rms_Q - 1).abs().max() < 1e-3 if norm else 1e-3 < (rms_Q - 1).abs().max() < 1


def test_it_is_read_again_by_any_step_of_the_run_whatever_the_connector(
    trained: tuple[Run, Blind], untouched: None
) -> None:
    run, blind = trained
    with torch.no_grad():
        for parameter in run.vlm.connector.parameters():
            parameter.add_(1)
    for step in (7, 9):
        again = run.train(step)
        assert torch.equal(again.prompt_QE, blind.prompt_QE)
        assert replace(again, prompt_QE=blind.prompt_QE) == blind
    left = {path.name for path in run.folder.iterdir()}
    assert left == {"blind_7.pt", "run.json"}, "no half-written file either"
    saved = torch.load(run.folder / "blind_7.pt", weights_only=True)
    assert set(saved["trials"]) == {"0.01", "0.05", "0.2"} and saved["loss_aside"] <= max(saved["trials"].values())


def test_the_same_seed_gives_the_same_prompt(world: TinyWorld, tmp_path: Path, short: tuple[Run, Blind]) -> None:
    again = Run(world, tmp_path, ablation__blind_captions=16).train()
    assert torch.equal(again.prompt_QE, short[1].prompt_QE)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 43},
        {"ablation__blind_captions": 32},
        {"prompt__template": "a {human}\n"},
        {"data__max_seq_len": 15},
        {"connector__output_norm": True},
        {"connector__latents": 3},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_it_is_trained_again_where_anything_it_rests_on_has_changed(
    world: TinyWorld, tmp_path: Path, short: tuple[Run, Blind], changes: dict[str, Any]
) -> None:
    run, first = short
    shutil.copy(run.folder / "blind_7.pt", tmp_path)
    other = Run(world, tmp_path, **{"ablation__blind_captions": 16, **changes}).train()
    assert first.prompt_QE.shape != other.prompt_QE.shape or not torch.equal(first.prompt_QE, other.prompt_QE)


def test_it_is_trained_again_for_another_language_model_or_other_captions(world: TinyWorld, tmp_path: Path) -> None:
    run = Run(world, tmp_path, ablation__blind_captions=32)
    keys = [module._Task.of(run.vlm, run.prepared.train, run.plan, 0).key()]
    with torch.no_grad():
        next(run.vlm.llm.parameters()).view(-1)[0] += 1
    keys.append(module._Task.of(run.vlm, run.prepared.train, run.plan, 0).key())
    keys.append(module._Task.of(run.vlm, run.prepared.eval, run.plan, 0).key())
    assert len(set(keys)) == 3


@pytest.mark.parametrize("damage", [b"", b"not a file of torch", b"PK\x03\x04 half"])
def test_a_file_that_no_run_wrote_is_neither_used_nor_replaced(world: TinyWorld, tmp_path: Path, damage: bytes) -> None:
    run = Run(world, tmp_path, ablation__blind_captions=16)
    (tmp_path / "blind_7.pt").write_bytes(damage)
    assert torch.isfinite(run.train().prompt_QE).all()
    assert (tmp_path / "blind_7.pt").read_bytes() == damage


def test_the_learning_rate_is_the_one_with_the_lowest_loss_on_captions_held_aside(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEARNING_RATES", (1e-6, 0.1, 1e-5))
    run = Run(world, tmp_path)
    assert run.train().learning_rate == 0.1
    trials = torch.load(tmp_path / "blind_7.pt", weights_only=True)["trials"]
    assert min(trials, key=trials.__getitem__) == "0.1"


def test_captions_held_aside_are_not_trained_on(world: TinyWorld, tmp_path: Path) -> None:
    run = Run(world, tmp_path)
    task = module._Task.of(run.vlm, run.prepared.train, run.plan, 0)
    assert sorted(task.fit + task.aside) == list(range(18)) and len(task.aside) == 2
    assert {p for batch in task.batches(7) for p in batch} == set(task.fit)
    assert [len(batch) for batch in task.batches(3)] == [16, 16, 16]


def test_a_loss_that_still_falls_when_the_budget_ends_is_recorded(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEARNING_RATES", (0.02,))
    assert Run(world, tmp_path / "short", ablation__blind_captions=256).train().still_falling
    monkeypatch.setattr(module, "LEARNING_RATES", (1e-6,))
    assert not Run(world, tmp_path / "still", ablation__blind_captions=256).train().still_falling


def test_falling_means_more_than_a_hundredth_and_more_than_chance() -> None:
    tokens = np.full(50, 10)
    noise = np.random.default_rng(0).normal(0, 0.05, 50)

    def falls(by: float, spread: float) -> bool:
        before = 20.0 + (by + spread * noise) * tokens
        return module._Trained(torch.zeros(1), 1, before, np.full(50, 20.0)).still_falling(tokens)

    assert falls(0.02, 1) and not falls(0.005, 1) and not falls(0.02, 30) and not falls(-0.02, 1)


def test_an_epoch_takes_every_caption_once_and_the_next_one_in_another_order(world: TinyWorld, tmp_path: Path) -> None:
    run = Run(world, tmp_path)
    fit = list(range(100, 100 + 3 * module.BATCH_SIZE + 5))
    task = replace(module._Task.of(run.vlm, run.prepared.train, run.plan, 0), fit=fit)
    batches = list(task.batches(8))
    first, second = (sum(part, []) for part in (batches[:4], batches[4:]))
    assert sorted(first) == sorted(second) == fit and first != second
    assert [len(batch) for batch in batches] == 2 * [*3 * [module.BATCH_SIZE], 5]


def test_the_gradient_of_an_update_is_the_sum_over_its_forward_passes(world: TinyWorld, tmp_path: Path) -> None:
    run, gradients = Run(world, tmp_path), []
    for micro in (1, 3, 16):
        task = replace(module._Task.of(run.vlm, run.prepared.train, run.plan, 0), micro=micro)
        raw_QE = torch.ones(task.shape).requires_grad_()
        task._step(raw_QE, torch.optim.SGD([raw_QE], lr=0.0), task.fit[:8])
        assert raw_QE.grad is not None
        gradients.append(raw_QE.grad)
    assert gradients[0].abs().max() > 0
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, rtol=1e-3, atol=1e-5)


def test_captions_per_forward_pass_do_not_matter(world: TinyWorld, tmp_path: Path) -> None:
    one, all_ = (
        Run(world, tmp_path / str(size), train__micro_batch_size=size, ablation__blind_captions=32).train()
        for size in (1, 16)
    )
    assert torch.allclose(one.prompt_QE, all_.prompt_QE, atol=1e-3) and one.learning_rate == all_.learning_rate


def test_a_loss_that_is_not_finite_is_an_error_and_nothing_is_saved(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(world, tmp_path, ablation__blind_captions=16)
    nll = VLM.nll

    def broken(self: VLM, batch: Any, visual: Any) -> TokenNLL:
        found = nll(self, batch, visual)
        return TokenNLL(found.nll_N * float("nan"), found.counts_B)

    monkeypatch.setattr(VLM, "nll", broken)
    with pytest.raises(NonFiniteError, match="not finite at learning rate 0.01, the best of 0.01, 0.05, 0.2"):
        run.train()
    assert list(tmp_path.iterdir()) == []


def test_without_captions_there_is_no_prompt(world: TinyWorld, tmp_path: Path) -> None:
    run = Run(world, tmp_path, data__max_samples=1, data__eval_ratio=0.0)
    with pytest.raises(ValueError, match="blind: expected at least 2 training captions with label tokens, got 1"):
        run.train()


@pytest.mark.parametrize("conditions", ["blind", "runbook,blind", "zero,blind,shuffled"])
def test_an_under_trained_prompt_splits_nothing_whatever_else_was_asked_for(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch, conditions: str
) -> None:
    last = world.train("poor", overwrite=True, ablation__derangements=1, data__eval_ratio=0.5)
    poor = Blind(torch.zeros(4, 32), 16, 0.2, True)  # no worse than zero, but than leaving the image out
    monkeypatch.setattr(scoring, "trained_blind", lambda *_: poor)
    got = ablate(last, conditions=conditions).ablation
    assert got is not None and got.decomposition is not None
    assert {"zero", "no-image", "mean-token"} <= set(got.conditions)
    assert got.decomposition.blind_under_trained and got.decomposition.information.value is None


@pytest.mark.slow
def test_full_scores_the_prompt_and_splits_the_gaps(world: TinyWorld) -> None:
    last = world.train("full", ablation__blind_captions=160)
    config = world.config("full", ablation__blind_captions=160)
    got = ablate(last, config, conditions="runbook,no-image,blind").ablation
    assert got is not None and got.decomposition is not None and got.conditions["blind"].gap is not None
    parts = got.decomposition
    assert parts.blind_captions == 160 and parts.blind_learning_rate in module.LEARNING_RATES
    if not parts.blind_under_trained:
        assert parts.information.value == pytest.approx(got.conditions["blind"].gap)
        assert parts.information.value + (parts.shock.value or 0) == pytest.approx(got.conditions["zero"].gap)
    again = ablate(last, config, conditions="runbook,no-image,blind").ablation
    assert again == got, "the saved prompt is the same one"
    assert (last.parent / f"blind_{last.stem.split('_')[1]}.pt").is_file()
