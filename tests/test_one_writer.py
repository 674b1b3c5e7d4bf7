"""A run's folder: one writer, no file of a user lost, and no files of two runs read as one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from eyechart.manifest import MANIFEST
from eyechart.reporting.results_folder import read_folder
from eyechart.run_folder import writing
from qwen3_vlm import ablate
from qwen3_vlm.cli import main as cli
from qwen3_vlm.train.checkpoint import load_checkpoint
from qwen3_vlm.train.run_files import RUN_FILES, is_of_earlier_version
from qwen3_vlm.train.stage1_align import main as train
from tiny_runs import TinyWorld, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def tried(world: TinyWorld) -> Path:
    """The folder of a whole trial."""
    config = world.config_file("tried", train__epochs=1, train__tracker="tensorboard")
    assert cli(["trial", "--config", str(config), "--conditions", "runbook"]) in (0, 1, 3)
    return world.root / "tried"


@pytest.fixture
def copy(world: TinyWorld, tried: Path) -> Iterator[Path]:
    """A copy of that folder."""
    folder = world.root / "copy"
    shutil.copytree(tried, folder)
    yield folder
    shutil.rmtree(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_of_a_trial_has_the_id_of_its_run_or_of_its_measurement(tried: Path) -> None:
    run, measurement = (getattr(read_folder(tried), name) for name in ("run", "measurement"))
    assert run and measurement and run != measurement
    assert load_checkpoint(tried / "checkpoint_5.pt")["run"] == run
    assert json.loads((tried / "log.jsonl").read_text())["run"] == run
    assert json.loads((tried / "split.json").read_text())["run"] == run
    assert (tried / "config.yaml").read_text().splitlines()[0] == f"# run {run}"
    (settings,) = tried.rglob("hparams.yml")
    assert yaml.safe_load(settings.read_text())["run"] == run
    for name in ("report.html", "runbook.md"):
        assert run in (tried / name).read_text() and measurement in (tried / name).read_text()
    assert Image.open(tried / "samples.png").info == {"eyechart:measurement": measurement}
    manifest = json.loads((tried / MANIFEST).read_text())
    files = {str(path.relative_to(tried)) for path in tried.rglob("*") if path.is_file()} - {MANIFEST}
    assert set(manifest["files"]) == files and manifest["run"] == run


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "checkpoint_5.pt", "results.json", "split.json"])
@pytest.mark.parametrize("command", ["train", "trial"])
def test_a_users_file_in_the_output_folder_is_named_and_kept(
    world: TinyWorld, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    folder = world.root / f"{command}_{name}"
    folder.mkdir()
    (folder / name).write_text("mine: 1\n")
    config = str(world.config_file(folder.name))
    assert cli([command, "--config", config, "--overwrite"]) == 2
    assert capsys.readouterr().err == (
        f"error: {folder / name} was not written by a run, so it is neither replaced nor deleted; move it away, or "
        "choose another folder\n"
    )
    assert content(folder) == {name: b"mine: 1\n"}


def test_a_config_that_a_user_keeps_in_the_output_folder_is_kept_though_it_is_a_valid_one(world: TinyWorld) -> None:
    (world.root / "own").mkdir()
    config = world.config_file("own").rename(world.root / "own" / "config.yaml")
    before = config.read_bytes()
    assert train(["--config", str(config)]) == 2
    assert content(config.parent) == {"config.yaml": before}


def test_overwrite_deletes_what_the_run_wrote_and_nothing_else(world: TinyWorld, copy: Path) -> None:
    for name in ("checkpoint_best.pt", "notes.md", "tracker/mine.txt", "results.old.json"):
        (copy / name).write_text("mine")
    config = world.config_file("copy", train__epochs=1)
    assert train(["--config", str(config), "--overwrite"]) == 0
    left = set(content(copy))
    assert left == {
        *("checkpoint_best.pt", "notes.md", "tracker/mine.txt", "results.old.json"),
        *("checkpoint_5.pt", "config.yaml", "split.json", "log.jsonl", "findings.jsonl", MANIFEST),
    }, "no page of the old run beside the new checkpoint"


def test_a_file_that_a_user_changed_is_kept(world: TinyWorld, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (copy / "runbook.md").open("a") as file:
        file.write("\nMy remarks.\n")
    before = content(copy)
    config = str(world.config_file("copy", train__epochs=1))
    for arguments in (
        ["train", "--config", config, "--overwrite"],
        ["ablate", "--checkpoint", str(copy / "checkpoint_5.pt")],
    ):
        assert cli(arguments) == 2
        assert "runbook.md was changed after a run wrote it" in capsys.readouterr().err
    assert content(copy) == before


@pytest.mark.parametrize("command", ["train", "trial", "ablate", "report"])
def test_every_writer_is_refused_while_another_holds_the_folder(
    world: TinyWorld, copy: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    config = str(world.config_file("copy", train__epochs=1))
    arguments = {
        "train": ["--config", config, "--overwrite"],
        "trial": ["--config", config, "--overwrite"],
        "ablate": ["--checkpoint", str(copy / "checkpoint_5.pt")],
        "report": [str(copy)],
    }[command]
    codes: list[int] = []
    with writing(copy, RUN_FILES):
        before = content(copy)
        thread = threading.Thread(target=lambda: codes.append(cli([command, *arguments])))
        thread.start()
        thread.join()
        assert content(copy) == before
    assert codes == [2] and f"error: the folder {copy} is being written by process " in capsys.readouterr().err


def test_a_log_of_another_run_beside_a_checkpoint_is_refused(
    world: TinyWorld, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.loads((copy / "log.jsonl").read_text())
    (copy / "log.jsonl").write_text(json.dumps({**line, "run": "another"}) + "\n")
    checkpoint = str(copy / "checkpoint_5.pt")
    for arguments in (["ablate", "--output", str(copy / "x")], ["diagnose"]):
        assert cli([*arguments, "--checkpoint", checkpoint]) == 2
        said = capsys.readouterr().err
        assert "log.jsonl is of run another, checkpoint_5.pt beside it of 20" in said


def test_a_page_of_other_results_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps({**results, "measurement": "another"}))
    assert cli(["report", str(copy), "--output", str(copy / "page.html")]) == 2
    assert "report.html is of measurement 20" in (said := capsys.readouterr().err)
    assert "results.json beside it of another: they do not belong together" in said


def test_ablate_replaces_all_results_of_the_trial(copy: Path) -> None:
    assert cli(["ablate", "--checkpoint", str(copy / "checkpoint_5.pt"), "--conditions", "runbook"]) in (0, 1, 3)
    assert not (copy / "samples.png").exists(), "it shows the verdict of the earlier results"
    assert read_folder(copy).run == load_checkpoint(copy / "checkpoint_5.pt")["run"]


def test_mean_tokens_are_not_saved_in_a_folder_that_another_process_writes_to(
    world: TinyWorld, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    with writing(copy, RUN_FILES):
        scored = threading.Thread(
            target=lambda: results.append(ablate(copy / "checkpoint_5.pt", conditions="correct,mean-token"))
        )
        scored.start()
        scored.join()
    assert results and not (copy / "mean_tokens_5.pt").exists()
    assert "note: mean_tokens_5.pt is not saved: the folder " in capsys.readouterr().err


def test_a_folder_of_an_earlier_version_is_recognised_resumed_and_overwritten(
    world: TinyWorld, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier(copy)
    assert all(is_of_earlier_version(path) for path in copy.iterdir() if path.is_file()), "each by its content"
    config = str(world.config_file("copy", train__epochs=1))
    assert train(["--config", config, "--resume"]) == 0
    said = capsys.readouterr().err
    assert f"note: {copy} has no run.json, so it is of an earlier version; its files were recognised by what" in said
    (copy / MANIFEST).unlink()
    assert train(["--config", config, "--overwrite"]) == 0
    assert not any((copy / name).exists() for name in ("report.html", "samples.png"))
    assert load_checkpoint(copy / "checkpoint_5.pt")["run"]


def earlier(folder: Path) -> None:
    """Turn a folder into one of a version without manifest and ids."""
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder / "tracker")
    payload = torch.load(folder / "checkpoint_5.pt", weights_only=True)
    torch.save({key: value for key, value in payload.items() if key != "run"}, folder / "checkpoint_5.pt")
    for name in ("log.jsonl", "findings.jsonl", "split.json"):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        text = "".join(json.dumps({k: v for k, v in line.items() if k != "run"}) + "\n" for line in lines)
        (folder / name).write_text(text)
    config = (folder / "config.yaml").read_text().splitlines(keepends=True)
    (folder / "config.yaml").write_text("".join(config[1:]))
