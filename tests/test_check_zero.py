"""Check 0 in a run of ours: the training captions are counted as texts, and a wrong tokenizer bars the PASS."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from eyechart.data import dataset
from qwen3_vlm import ablate
from qwen3_vlm.build import build_model, prepare_data
from qwen3_vlm.commands import scoring
from qwen3_vlm.commands.scoring import count_captions
from qwen3_vlm.data.splits import save_split
from qwen3_vlm.train.checkpoint import connector_state, save_checkpoint
from tiny_runs import TinyWorld, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


def test_the_training_captions_are_counted_with_their_end_and_no_image_is_opened(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_data(world.config("counts"))

    def opened(*arguments: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(dataset, "load_image", opened)
    got = count_captions(prepared.train)
    by_hand = Counter[int]()
    for place in range(len(prepared.train)):
        by_hand.update(i for i in prepared.train.text(place).labels_T.tolist() if i >= 0)
    assert dict(zip(got.ids_K.tolist(), got.counts_K.tolist(), strict=True)) == dict(by_hand)
    assert got.captions == len(prepared.train) == by_hand[prepared.inputs.prompts.ids.eos]


def test_of_very_many_training_captions_an_even_choice_is_counted(
    world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MOST_CAPTIONS", 5)
    assert count_captions(prepare_data(world.config("counts")).train).captions == 5


def test_a_scored_checkpoint_holds_its_check_0_against_the_training_captions(world: TinyWorld) -> None:
    config = world.config("scored")
    prepared = prepare_data(config)
    vlm = build_model(config, prepared.inputs)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True)
    save_split(folder / "split.json", prepared.split, *prepared.files)
    payload = {**connector_state(vlm.connector), "step": 0, "config": config.to_yaml()}
    save_checkpoint(folder / "checkpoint_0.pt", payload)
    found = ablate(folder / "checkpoint_0.pt", config, conditions="runbook,no-image").ablation
    assert found is not None and found.unigram is not None
    assert (found.unigram.source, found.unigram.captions) == ("training", len(prepared.train))
    assert found.unigram.vocabulary == vlm.llm.vocabulary
    loss = found.conditions[found.unigram.condition].loss
    assert loss is not None and found.unigram.gain.value == pytest.approx(found.unigram.loss - loss)
