"""What a run says before it runs, and what it shows while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qwen3_vlm.train.run_files import TRACKER
from qwen3_vlm.train.stage1_align import main
from tiny_runs import LAST_STEP, TinyWorld, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("estimate"))


def test_a_dry_run_says_steps_disk_memory_and_time_and_writes_nothing(
    world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.config_file("dry")
    assert main(["--config", str(config), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"{LAST_STEP} batches of 4 in 6 updates, ending in checkpoint_{LAST_STEP}.pt" in said
    assert all(f"{what}: " in said for what in ("disk", "memory", "time"))
    assert not (world.root / "dry").exists()


def test_the_disk_estimate_is_what_the_checkpoints_take(world: TinyWorld, capsys: pytest.CaptureFixture[str]) -> None:
    # A larger connector: in a tiny one the few kB of config and headers would be most of the file.
    assert main(["--config", str(world.config_file("disk", connector__head_dim=128))]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("disk: "))
    count, size = int(line.split()[1]), float(line.split()[4]) * 1e6
    found = [path.stat().st_size for path in (world.root / "disk").glob("checkpoint_*.pt")]
    assert len(found) == count
    assert max(found) == pytest.approx(size, rel=0.05)


def test_the_tracker_shows_the_loss_of_every_update(world: TinyWorld) -> None:
    assert main(["--config", str(world.config_file("curves", train__tracker="tensorboard"))]) == 0
    (events,) = {path.parent for path in (world.root / "curves" / TRACKER).glob("events.*")}
    curves = EventAccumulator(str(events))
    curves.Reload()
    # Windows of two batches, the last of an epoch of one: updates end at these steps.
    assert [event.step for event in curves.Scalars("loss")] == [2, 4, 5, 7, 9, LAST_STEP]
    assert [event.step for event in curves.Scalars("epoch_eval_loss")] == [5, LAST_STEP]


def test_a_run_says_after_twenty_updates_how_long_it_will_take(
    world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(world.config_file("short"))]) == 0
    assert "time: about" not in capsys.readouterr().err
    assert main(["--config", str(world.config_file("long", train__epochs=7))]) == 0
    assert capsys.readouterr().err.count("time: about") == 1


def test_a_tracker_that_is_not_installed_is_named_with_the_way_to_get_it(
    world: TinyWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--config", str(world.config_file("wandb", train__tracker="wandb"))]) == 2
    assert "`pip install wandb`" in capsys.readouterr().err
    assert not Path(world.root / "wandb").exists()
