"""A trial opens data and backbones once, and a checkpoint is diagnosed with one language model in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_vlm import ablate, build, trial
from qwen3_vlm.cli import main
from qwen3_vlm.commands.loaded import load, trained
from qwen3_vlm.models.connector import fresh_connector
from qwen3_vlm.train.checkpoint import connector_state, load_checkpoint
from qwen3_vlm.train.stage1 import train_run
from tiny_runs import TinyWorld, make_world, same


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def checkpoint(world: TinyWorld) -> Path:
    return world.train("scored", train__lr=1e-9, force=True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is opened, by the name of what opens it."""
    names: list[str] = []

    def counted(name: str) -> None:
        original = getattr(build, name)
        monkeypatch.setattr(build, name, lambda *given: names.append(name) or original(*given))

    for name in ("load_llm", "load_tower", "load_tokenizer", "load_image_spec", "read_rows"):
        counted(name)
    yield names


ONCE = ["load_image_spec", "load_llm", "load_tokenizer", "load_tower", "read_rows", "read_rows"]
"""Rows are read once for training and once for the held-out side."""


def test_a_trial_that_does_not_pass_opens_everything_once(world: TinyWorld, opened: list[str]) -> None:
    results = trial(world.config("trial", train__lr=1e-9), conditions="runbook", force=True)
    assert results.verdict != "PASS" and results.diagnosis and sorted(opened) == ONCE


def test_an_ablation_that_does_not_pass_opens_everything_once(checkpoint: Path, opened: list[str]) -> None:
    results = ablate(checkpoint, conditions="runbook")
    assert results.verdict != "PASS" and results.diagnosis and sorted(opened) == ONCE


def test_a_checkpoint_is_diagnosed_with_one_language_model(
    checkpoint: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["diagnose", "--checkpoint", str(checkpoint), "--rows", "4", "--json"])
    assert "scored samples" in capsys.readouterr().out and sorted(opened) == ONCE


@pytest.mark.parametrize("norm", [False, True])
def test_a_fresh_connector_is_bit_for_bit_that_of_a_new_model(world: TinyWorld, checkpoint: Path, norm: bool) -> None:
    config = world.config("fresh", connector__output_norm=norm, connector__vision_ln=True, seed=7)
    new = build.build_model(config, build.prepare_inputs(config)).connector
    again = fresh_connector(new.shape, config.seed, new.text_rms)
    assert same(connector_state(new), connector_state(again)) and again.text_rms == new.text_rms


def test_what_a_trial_scores_is_the_checkpoint_that_was_written(world: TinyWorld) -> None:
    run = train_run(world.config("written"))
    with torch.no_grad():
        for parameter in run.vlm.connector.parameters():
            parameter.add_(1.0)  # whatever happened to the model since
    ours, read = trained(run), load(run.checkpoint)
    assert same(connector_state(ours.vlm.connector), connector_state(read.vlm.connector))
    assert ours.step == read.step == run.step and not ours.vlm.training
    assert all(parameter.grad is None for parameter in ours.vlm.parameters())


def test_a_backbone_that_moved_while_training_is_not_scored(world: TinyWorld) -> None:
    run = train_run(world.config("moved"))
    with torch.no_grad():
        next(run.vlm.llm.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="the language model has changed since the end of the training"):
        trained(run)


def test_nothing_of_the_optimizer_is_kept_with_a_loaded_checkpoint(checkpoint: Path) -> None:
    payload: dict[str, Any] = load_checkpoint(checkpoint)
    assert set(payload) - set(load(checkpoint).payload) == {"optimizer", "rng"}
