"""Callback, attach and watch inside transformers' Trainer, on a tiny Qwen2.5-VL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

import eyechart
from batches import Item
from eyechart.exits import FaultsFoundError
from eyechart.trainers.looking import look_steps
from saved_models import Saved, saved
from trainings import Collator, Rows, Stream, model_of, trainer_of

pytest.importorskip("accelerate")

__all__ = ["saved"]

QUIET = eyechart.Watching(score=0, samples=4)


class Dropping(Collator):
    """A collator that loses the pixels, as in several public threads."""

    def __call__(self, items: list[Any]) -> dict[str, Any]:
        made = super().__call__(items)
        return {key: value for key, value in made.items() if key not in ("pixel_values", "image_grid_thw")}


class Unlabelled(Collator):
    def __call__(self, items: list[Any]) -> dict[str, Any]:
        made = super().__call__(items)
        return {**made, "labels": torch.full_like(made["labels"], -100)}


class Cutting(Collator):
    """A collator whose maximum length cuts off every answer, as `max_length` does in TRL, silently."""

    def __call__(self, items: list[Any]) -> dict[str, Any]:
        made = super().__call__(items)
        return {
            key: value[:, :20] if value.shape[0] == len(items) and value.dim() == 2 and "grid" not in key else value
            for key, value in made.items()
        }


class TextTrainer(Trainer):
    """A trainer that passes on the fields that a text model needs."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = ("input_ids", "attention_mask", "labels")
        return super().compute_loss(model, {key: inputs[key] for key in wanted}, *args, **kwargs)


class Logs(TrainerCallback):
    """A tracker."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **handed: Any) -> None:
        self.seen.append({**logs, "step": state.global_step})


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (0, 4), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_seeded_run_ends_in_the_same_weights_with_and_without_attach(
    saved: Saved, tmp_path: Path, workers: int, accumulation: int
) -> None:
    ends = []
    for attached in (False, True):
        model, made = model_of(saved)
        model.config.text_config.attention_dropout = 0.1
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.1
        trainer = trainer_of(
            model,
            Collator(made),
            tmp_path,
            dataloader_num_workers=workers,
            gradient_accumulation_steps=accumulation,
            eval_dataset=Rows(8, 100),
        )
        if attached:
            callback = eyechart.attach(trainer, watching=eyechart.Watching(samples=4, score=4))
        trainer.train()
        ends.append(weights(model))
    assert callback.looks
    assert callback.results is not None
    assert equal(*ends)


def test_a_healthy_run_is_looked_at_and_scored_with_a_page(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    logs = Logs()
    trainer = trainer_of(model, Collator(made, "answers"), tmp_path, eval_dataset=Rows(12, 100), callbacks=[logs])
    callback = eyechart.attach(trainer, watching=eyechart.Watching(samples=8, score=12))
    trainer.train()
    assert not [one for one in callback.findings if one.severity == "error"]
    assert [look.step for look in callback.looks] == [1, 4]
    assert callback.results is not None
    assert callback.results.ablation is not None
    assert callback.results.ablation.samples == 12
    assert (tmp_path / "eyechart" / "report.html").is_file()
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


def test_figures_reach_the_trackers_and_the_trainers_own_log_stays(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    logs = Logs()
    trainer = trainer_of(model, Collator(made), tmp_path, callbacks=[logs])
    eyechart.attach(trainer, watching=QUIET)
    trainer.train()
    assert [seen["step"] for seen in logs.seen if "eyechart/gap_shuffled" in seen] == [1, 4]
    assert [seen["step"] for seen in logs.seen if "loss" in seen] == [1, 2, 3, 4]


def test_a_collator_that_drops_the_pixels_stops_the_training_before_any_update(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    before = weights(model)
    trainer = trainer_of(model, Dropping(made), tmp_path, callbacks=[eyechart.Callback(watching=QUIET)])
    with pytest.raises(FaultsFoundError, match="pixels-unused"):
        trainer.train()
    assert equal(before, weights(model))


def test_a_trainer_that_passes_no_pixels_to_the_model_stops_in_its_first_step(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    before = weights(model)
    trainer = trainer_of(model, Collator(made), tmp_path, kind=TextTrainer)
    callback = eyechart.attach(trainer, watching=QUIET)
    with pytest.raises(FaultsFoundError, match="does not reach the model"):
        trainer.train()
    assert callback.findings[-1].code == "pixels-unused"
    assert equal(before, weights(model))


def test_rows_without_labels_stop_the_training(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    trainer = trainer_of(model, Unlabelled(made), tmp_path, callbacks=[eyechart.Callback(watching=QUIET)])
    with pytest.raises(FaultsFoundError, match="no-labels"):
        trainer.train()


def test_batches_in_which_every_answer_is_cut_off_stop_the_training(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    trainer = trainer_of(model, Cutting(made), tmp_path, callbacks=[eyechart.Callback(watching=QUIET)])
    with pytest.raises(FaultsFoundError, match="answer-truncated"):
        trainer.train()


def test_a_training_goes_on_where_nothing_may_stop_it(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    callback = eyechart.Callback(watching=eyechart.Watching(stop="never", looks="off", score=0))
    trainer = trainer_of(model, Dropping(made), tmp_path, callbacks=[callback])
    assert trainer.train().global_step == 4
    assert "pixels-unused" in [one.code for one in callback.findings]


def test_labels_on_the_prompt_are_a_warning_and_no_stop(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    callback = eyechart.Callback(watching=eyechart.Watching(looks="off", score=0))
    trainer = trainer_of(model, Collator(made, "all"), tmp_path, callbacks=[callback])
    assert trainer.train().global_step == 4
    assert {one.severity for one in callback.findings} == {"warning"}


@pytest.mark.parametrize("collator", [Collator, Dropping])
def test_a_data_set_without_indices_is_checked_inside_its_first_step(
    saved: Saved, tmp_path: Path, collator: type[Collator]
) -> None:
    model, made = model_of(saved)
    callback = eyechart.Callback(watching=QUIET)
    whole = {"accelerator_config": {"dispatch_batches": False}}
    trainer = trainer_of(model, collator(made), tmp_path, Stream(32), callbacks=[callback], **whole)
    if collator is Dropping:
        with pytest.raises(FaultsFoundError, match="pixels-unused"):
            trainer.train()
    else:
        trainer.train()
        assert [look.step for look in callback.looks] == [1, 4]


def test_pixels_that_accelerate_cuts_like_rows_are_named_before_the_model_fails(saved: Saved, tmp_path: Path) -> None:
    # For a data set without indices, accelerate cuts every tensor to the batch size; pixel_values of Qwen are patches.
    model, made = model_of(saved)
    callback = eyechart.Callback(watching=QUIET)
    trainer = trainer_of(model, Collator(made), tmp_path, Stream(32), callbacks=[callback])
    with pytest.raises(IndexError):
        trainer.train()
    assert callback.findings[0].code == "placeholder-count"


def test_a_look_that_fails_is_one_line_and_the_training_goes_on(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, made = model_of(saved)
    callback = eyechart.Callback(rows=[row for row in Rows(1)], watching=QUIET)
    trainer = trainer_of(model, Collator(made), tmp_path, callbacks=[callback])
    assert trainer.train().global_step == 4
    lines = [line for line in capsys.readouterr().err.splitlines() if "no look" in line]
    assert len(lines) == 1
    assert not callback.looks


@pytest.mark.slow
def test_two_processes_stay_in_step_and_the_first_one_writes(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / f"models-{rank}").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).with_name("rank_training.py")
    done = subprocess.run(
        [*command, str(script), str(tmp_path), "attached"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("eyechart: look at step") == 2
    one, two = (torch.load(tmp_path / f"weights-1-{rank}.pt", weights_only=True) for rank in range(2))
    assert equal(one, two)
    assert (tmp_path / "eyechart" / "report.html").is_file()


class Packing(Collator):
    """Joins the rows of a batch into one, with positions that start again."""

    def __call__(self, items: list[Any]) -> dict[str, Any]:
        parts = [super(Packing, self).__call__([item]) for item in items]
        made = {key: torch.cat([part[key] for part in parts], 0 if "pixel" in key else 1) for key in parts[0]}
        positions = torch.cat([torch.arange(part["input_ids"].shape[1]) for part in parts])[None]
        return {**{key: value for key, value in made.items() if key != "attention_mask"}, "position_ids": positions}


class Caching(Collator):
    """Serves the picture of the first row to every row."""

    def __call__(self, items: list[Any]) -> dict[str, Any]:
        self.first = getattr(self, "first", items[0].images)
        return super().__call__([Item(self.first, item.texts) for item in items])


def test_packed_rows_that_the_model_cannot_be_tested_on_are_one_line_and_the_training_goes_on(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, made = model_of(saved, "gemma3")
    callback = eyechart.Callback(watching=eyechart.Watching(looks="off", score=0))
    trainer = trainer_of(model, Packing(made), tmp_path, callbacks=[callback], max_steps=2)
    assert trainer.train().global_step == 2
    assert "no check of the model: batch 0: packed rows are not supported" in capsys.readouterr().err


def test_a_collator_that_serves_one_picture_to_all_rows_is_named(saved: Saved, tmp_path: Path) -> None:
    model, made = model_of(saved)
    callback = eyechart.Callback(watching=eyechart.Watching(looks="off", score=0))
    trainer = trainer_of(model, Caching(made), tmp_path, callbacks=[callback], max_steps=1)
    trainer.train()
    assert callback.findings[0].code == "image-order"


def test_attach_refuses_what_takes_no_callbacks() -> None:
    with pytest.raises(ValueError, match=r"use eyechart.watch\(model\)"):
        eyechart.attach(object())


def test_a_callback_that_ms_swift_would_call_with_its_trainer_is_refused_with_the_line_that_works(
    saved: Saved, tmp_path: Path
) -> None:
    model, made = model_of(saved)
    trainer = trainer_of(model, Collator(made), tmp_path)
    with pytest.raises(ValueError, match=r"register callbacks_map\[.*Callback\(\).of\(trainer\)"):
        eyechart.Callback(trainer.args, trainer)


def test_looks_are_at_the_first_step_and_then_each_at_twice_the_one_before() -> None:
    assert look_steps("log", 1000, 10**6) == [1, 32, 63, 125, 250, 500, 1000]
    assert look_steps("log", 1000, 4000) == [1, 250, 500, 1000]
    assert look_steps("log", 20, 80) == [1, 20]
    assert look_steps(300, 1000, 80) == [300, 600, 900]
    assert look_steps("off", 1000, 10**6) == []


def test_watch_reports_that_images_arrive_and_change_the_output(
    saved: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    model, made = model_of(saved)
    watched = eyechart.watch(model)
    batch = Collator(made)(Rows(2).items)
    before = weights(model)
    for _ in range(5):
        model(**batch)
    watched.remove()
    assert len(watched.passages) == 3
    assert watched.passages[0].output_change
    assert "are encoded and change the logits" in capsys.readouterr().err
    assert equal(before, weights(model))


def test_watch_reports_that_no_images_arrive_and_that_they_stop(saved: Saved) -> None:
    model, made = model_of(saved)
    watched = eyechart.watch(model)
    batch = Collator(made)(Rows(1).items)
    text = {key: value for key, value in Dropping(made)(Rows(1).items).items() if key != "labels"}
    model(**text)
    assert not watched.passages[0].inputs
    model(**batch)
    for _ in range(60):
        model(input_ids=text["input_ids"][:, :2])
    model(**batch)
    assert [bool(passage.inputs) for passage in watched.passages] == [False, True, False, True, True]


def test_watch_names_the_last_module_that_depends_on_images_that_are_not_placed(saved: Saved) -> None:
    model, made = model_of(saved)
    watched = eyechart.watch(model)
    batch = Collator(made)(Rows(2).items)
    encode = model.model.get_image_features

    def blank(*args: Any, **kwargs: Any) -> Any:
        found = encode(*args, **kwargs)
        found.pooler_output = tuple(torch.zeros_like(one) for one in found.pooler_output)
        return found

    model.model.get_image_features = blank
    model(**batch)
    assert watched.passages[0].output_change == 0
    assert watched.passages[0].last_module.startswith("model.visual")
