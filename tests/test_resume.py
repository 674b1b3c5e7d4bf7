"""A run that was cut off and resumed is bit for bit the run that was not."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3_vlm.train import loop
from qwen3_vlm.train.checkpoint import load_checkpoint
from qwen3_vlm.train.stage1_align import main
from tiny_runs import TinyWorld, log_of, make_world, same, weights_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: TinyWorld) -> Path:
    """The last checkpoint of an uninterrupted run that saves after each update."""
    return world.train("whole", train__save_every=1)


MADE_AGAIN = ("config.yaml", "run.json")


def cut_off(world: TinyWorld, whole: Path, name: str, step: int) -> Path:
    """A folder as the uninterrupted run had left it right after `step`, with the whole log."""
    folder = world.root / name
    shutil.copytree(whole.parent, folder)
    for path in folder.glob("checkpoint_*.pt"):
        if int(path.stem.split("_")[1]) > step:
            path.unlink()
    return folder


@pytest.mark.parametrize(
    ("step", "where"),
    [(2, "middle of the first epoch"), (5, "epoch boundary"), (7, "middle of the last epoch"), (9, "last update")],
    ids=lambda value: str(value),
)
def test_resuming_gives_the_same_weights_optimizer_and_log(
    world: TinyWorld, whole: Path, step: int, where: str
) -> None:
    folder = cut_off(world, whole, f"from_{step}", step)
    torch.manual_seed(999)  # another process has another global generator
    last = world.train(folder.name, resume=True, train__save_every=1)
    for path in whole.parent.glob("checkpoint_*.pt"):
        assert same(weights_of(folder / path.name), weights_of(path)), path.name
    assert last.name == whole.name and log_of(folder) == log_of(whole.parent)


def test_resuming_with_images_read_by_a_worker_process_is_the_same_too(world: TinyWorld, whole: Path) -> None:
    folder = cut_off(world, whole, "workers", 7)
    world.train("workers", resume=True, train__save_every=1, data__workers=1, data__cache_gb=1.0)
    assert same(weights_of(folder / whole.name), weights_of(whole))


def test_resuming_a_finished_run_changes_nothing(world: TinyWorld, whole: Path) -> None:
    folder = cut_off(world, whole, "finished", 10)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in MADE_AGAIN}
    assert world.train("finished", resume=True, train__save_every=1) == folder / whole.name
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in MADE_AGAIN} == before


def test_resume_without_a_checkpoint_starts_from_the_beginning(world: TinyWorld, whole: Path) -> None:
    assert same(weights_of(world.train("fresh", resume=True, train__save_every=1)), weights_of(whole))


def test_resuming_says_where_it_goes_on_from(world: TinyWorld, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cut_off(world, whole, "says", 7)
    world.train("says", resume=True, train__save_every=1)
    assert capsys.readouterr().out.startswith(f"resuming from {folder / 'checkpoint_7.pt'}\n")


def test_a_changed_config_is_refused_with_the_keys_that_differ(
    world: TinyWorld, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut_off(world, whole, "changed", 5)
    config = str(world.config_file("changed", train__lr=1.0, train__epochs=9, seed=7))
    assert main(["--config", config, "--resume"]) == 2
    assert capsys.readouterr().err == (
        f"error: {folder / 'checkpoint_5.pt'}: cannot resume with another config (seed: 42 then, 7 now; train.epochs: "
        "2 then, 9 now; train.lr: 0.003 then, 1.0 now); restore these settings, or use --overwrite\n"
    )
    assert sorted(p.name for p in folder.glob("checkpoint_*")) == [f"checkpoint_{s}.pt" for s in (2, 4, 5)]


def test_where_a_run_lies_and_what_it_keeps_may_change(world: TinyWorld, whole: Path) -> None:
    folder = cut_off(world, whole, "moved", 7)
    last = world.train("moved", resume=True, train__keep_last=1, threads=1)
    assert [p.name for p in folder.glob("checkpoint_*.pt")] == [last.name]
    assert same(weights_of(last), weights_of(whole))


def test_another_data_file_is_refused(world: TinyWorld, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut_off(world, whole, "data_changed", 5)
    file = world.image_root / "data.json"
    text = file.read_text()
    file.write_text(text.replace("red circle", "red square", 1))
    try:
        config = str(world.config_file("data_changed", train__save_every=1))
        assert main(["--config", config, "--resume"]) == 2
    finally:
        file.write_text(text)
    assert "data.json_file is not the file that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: [p.pop(k) for k in list(p) if k not in ("resampler", "projector")],
            "it can be scored but not resumed",
        ),
        (lambda p: p.pop("rng"), "it lacks rng; use an older checkpoint"),
        (lambda p: p.update(optimizer={"state": {}}), "optimizer or progress cannot be restored"),
        (lambda p: p.update(progress={"epoch": 1}), "optimizer or progress cannot be restored"),
        (
            lambda p: p["resampler"].update(latents=torch.full((4, 16), float("nan"))),
            "`resampler.latents` does not have",
        ),
    ],
    ids=["older form", "no rng", "other optimizer", "no progress", "NaN"],
)
def test_a_checkpoint_that_cannot_be_gone_on_from_is_one_line_and_exit_2(
    world: TinyWorld,
    whole: Path,
    change: Any,
    message: str,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    name = "bad_" + request.node.callspec.id.replace(" ", "_")
    path = cut_off(world, whole, name, 5) / "checkpoint_5.pt"
    payload = load_checkpoint(path)
    change(payload)
    torch.save(payload, path)
    config = str(world.config_file(name, train__save_every=1))
    assert main(["--config", config, "--resume"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}: ") and message in err and err.count("\n") == 1


@pytest.fixture
def harmless() -> Iterator[None]:
    """Where training does not listen to SIGTERM, the test should fail, not the whole test run end."""
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_ctrl_c_and_sigterm_finish_the_update_save_say_how_to_go_on_and_exit_130(
    world: TinyWorld,
    whole: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = number.name
    update, calls = loop.update, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return update(*args, **kwargs)

    monkeypatch.setattr(loop, "update", interrupted)
    before = signal.getsignal(number)
    config = str(world.config_file(name))
    assert main(["--config", config]) == 130
    err = capsys.readouterr().err
    path = world.root / name / "checkpoint_4.pt"
    assert "finishing this update, then saving" in err
    assert err.endswith(f"interrupted: saved {path}; continue with the same command and --resume\n")
    assert len(calls) == 2 and signal.getsignal(number) is before
    assert same(weights_of(path), weights_of(whole.parent / path.name))
    assert main(["--config", config, "--resume"]) == 0
    assert same(weights_of(path.parent / whole.name), weights_of(whole))


def test_a_second_ctrl_c_stops_at_once(world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(loop, "update", twice)
    assert main(["--config", str(world.config_file("twice"))]) == 130
    assert list((world.root / "twice").glob("*.pt")) == []


def test_an_interrupt_in_the_last_update_still_ends_the_run(
    world: TinyWorld, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = loop.evaluate

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    config = str(world.config_file("ends"))
    assert main(["--config", config]) == 130, "the first epoch is not the last"
    assert main(["--config", config, "--resume"]) == 0, "the run is complete, so this is no interrupt"
    assert same(weights_of(world.root / "ends" / whole.name), weights_of(whole))
