"""Several gloo processes do what one does, and end together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from eyechart.reporting.results_folder import read_folder
from eyechart.results import EXIT_CODES, read
from eyechart.run_folder import writing
from qwen3_vlm import ablate
from qwen3_vlm.train.checkpoint import load_checkpoint, stored_config
from qwen3_vlm.train.looks import read_looks
from qwen3_vlm.train.run_files import RUN_FILES
from tiny_runs import TinyWorld, log_of, make_world

pytestmark = pytest.mark.slow

CONFIG = {"train__save_every": 1, "train__ablate_every": 3}
JOBS: list[dict[str, Any]] = [
    {"name": "two", "ranks": 2},
    {"name": "three", "ranks": 3},
    {"name": "refused", "ranks": 2},
    {"name": "again", "ranks": 2, "more": ["--overwrite"]},
    {"name": "sigterm", "ranks": 2, "trouble": "sigterm"},
    {"name": "sigterm", "as": "resumed", "ranks": 3, "more": ["--resume"]},
    {"name": "nan", "ranks": 2, "trouble": "nan"},
    {"name": "killed", "ranks": 2, "trouble": "kill"},
    {"name": "trial", "ranks": 2, "entry": "trial", "more": ["--conditions", "standard"]},
    {"name": "locked", "ranks": 2, "entry": "trial"},
]


@dataclass(frozen=True)
class Ended:
    """Output of a job."""

    codes: dict[str, list[int]]
    logs: Path
    world: TinyWorld

    def said(self, name: str, rank: int, kind: str) -> str:
        return (self.logs / f"{name}.{rank}.{kind}").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def one(world: TinyWorld) -> Path:
    """The last checkpoint of a run with one process."""
    return world.train("one", **CONFIG)


@pytest.fixture(scope="module")
def ended(world: TinyWorld, one: Path) -> Ended:
    for name in ("refused", "again"):
        world.train(name, train__epochs=1)
    jobs = []
    for job in JOBS:
        arguments = ["--config", str(world.config_file(job["name"], **CONFIG)), *job.get("more", [])]
        jobs.append({**job, "name": job.get("as", job["name"]), "arguments": arguments})
    logs = world.root / "logs"
    logs.mkdir()
    scoring = ["--checkpoint", str(one), "--output", str(world.root / "scored"), "--ablation.batch_size", "1"]
    scoring += ["--conditions", "runbook"]  # mean-token would leave a file beside the checkpoint
    jobs.append({"name": "scored", "ranks": 3, "entry": "ablate", "arguments": scoring})
    script = str(Path(__file__).with_name("rank_jobs.py"))
    with writing(world.root / "locked", RUN_FILES):
        done = subprocess.run(
            [sys.executable, script, json.dumps(jobs), str(logs)],
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    return Ended(json.loads(done.stdout.splitlines()[-1]), logs, world)


@pytest.mark.parametrize(("name", "ranks"), [("two", 2), ("three", 3)])
def test_ranks_give_the_losses_gradients_and_checkpoints_of_one_process(
    ended: Ended, one: Path, name: str, ranks: int
) -> None:
    # 18 rows in batches of 4: the last batch has 2 samples, so of three ranks one has nothing to do there.
    assert ended.codes[name] == [0] * ranks
    folder = ended.world.root / name
    assert {p.name for p in folder.iterdir()} == {p.name for p in one.parent.iterdir()}
    for got, expected in zip(log_of(folder), log_of(one.parent), strict=True):
        for key, value in expected.items():
            close = key in ("eval_part",) or isinstance(value, float)
            assert got[key] == (pytest.approx(value, rel=1e-5) if close else value), key
    # AdamW's first moment after one update is 0.1 of the gradient.
    mine, theirs = (load_checkpoint(f / "checkpoint_2.pt")["optimizer"]["state"] for f in (folder, one.parent))
    for index, state in theirs.items():
        moment = state["exp_avg"]
        assert torch.allclose(mine[index]["exp_avg"], moment, rtol=1e-5, atol=1e-5 * float(moment.abs().max()))


def test_check_1_over_ranks_gives_the_result_of_one_process(ended: Ended, one: Path) -> None:
    config = stored_config(one, ["--ablation.batch_size", "1"])
    expected = ablate(one, config, conditions="runbook")
    got = read(ended.world.root / "scored" / "results.json")
    assert ended.codes["scored"] == [EXIT_CODES[expected.verdict], 0, 0], "only the first returns the verdict"
    assert got.ablation == expected.ablation
    assert ended.said("scored", 0, "out").count("VERDICT") == 1
    assert ended.said("scored", 1, "out") == ended.said("scored", 2, "out") == ""


def test_a_trial_over_ranks_gives_the_results_of_one_process_and_only_the_first_returns_the_verdict(
    ended: Ended, world: TinyWorld
) -> None:
    folder = ended.world.root / "trial"
    got = read_folder(folder)
    assert ended.codes["trial"] == [EXIT_CODES[got.verdict], 0] != [0, 0], "this tiny trial does not pass"
    assert {"samples.png", "report.html", "runbook.md", "samples.parquet"} <= {path.name for path in folder.iterdir()}
    assert got.run == load_checkpoint(folder / "checkpoint_10.pt")["run"]
    expected = ablate(folder / "checkpoint_10.pt", world.config("trial", **CONFIG))
    assert got.ablation is not None and got.ablation == expected.ablation
    assert ended.said("trial", 0, "out").count("VERDICT") == 1 and ended.said("trial", 1, "out") == ""


def test_a_locked_folder_is_refused_by_all_ranks_with_the_process_that_holds_it(ended: Ended) -> None:
    assert ended.codes["locked"] == [2, 2]
    for rank in (0, 1):
        assert f"is being written by process {os.getpid()} on " in ended.said("locked", rank, "err")
    assert not (ended.world.root / "locked").exists()


@pytest.mark.parametrize("name", ["two", "three"])
def test_only_the_main_process_prints(ended: Ended, name: str, one: Path) -> None:
    assert ended.said(name, 0, "out").count("epoch ") == 2 and ended.said(name, 0, "out").count("projector") == 1
    for rank in range(1, len(ended.codes[name])):
        assert ended.said(name, rank, "out") == ""


def test_a_folder_with_a_run_is_refused_by_all_ranks_and_overwritten_by_one(ended: Ended, one: Path) -> None:
    assert ended.codes["refused"] == [2, 2]
    assert ended.said("refused", 0, "err").startswith("error: output_dir ")
    assert ended.said("refused", 1, "err").startswith("[rank 1] error: output_dir ")
    assert ended.codes["again"] == [0, 0]
    assert {p.name for p in (ended.world.root / "again").iterdir()} == {p.name for p in one.parent.iterdir()}


def test_a_signal_to_one_rank_stops_all_at_the_same_update_and_another_number_of_ranks_goes_on(
    ended: Ended, one: Path
) -> None:
    assert ended.codes["sigterm"] == [130, 130]
    path = ended.world.root / "sigterm" / "checkpoint_4.pt"
    assert ended.said("sigterm", 0, "err").endswith(
        f"interrupted: saved {path}; continue with the same command and --resume\n"
    )
    assert ended.codes["resumed"] == [0, 0, 0]
    expected = log_of(one.parent)[-1]
    assert log_of(path.parent)[-1]["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)


def test_a_bad_value_on_another_rank_is_explained_by_the_main_process(ended: Ended) -> None:
    assert ended.codes["nan"] == [1, 1]
    line = ended.said("nan", 0, "err").splitlines()[-1]
    assert line.startswith("stopped: loss is not finite in the update ending at step 4, rows ")
    assert "first bad tensor: tower features of row " in line
    assert len(line.split("rows ")[1].split(";")[0].split(", ")) == 8, "the rows of all ranks"


def test_a_rank_that_is_killed_ends_the_others_with_a_line(ended: Ended) -> None:
    assert ended.codes["killed"] == [130, -9]
    line = ended.said("killed", 0, "err").splitlines()[-1]
    assert line.startswith("stopped: another process of this job of 2 ended or was killed")
    assert "--resume" in line
    assert (ended.world.root / "killed" / "checkpoint_2.pt").is_file()


def test_torchrun_ends_the_job_of_a_killed_rank_and_names_the_rank(world: TinyWorld, tmp_path: Path) -> None:
    config = str(world.config_file("torchrun", **CONFIG))
    script = tmp_path / "run.py"
    script.write_text(
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import rank_jobs\n"
        "if os.environ['RANK'] == '1': rank_jobs.trouble_rank_1('kill')\n"
        f"sys.exit(rank_jobs.main(['--config', {config!r}]))\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        launch, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 1 and "Signal 9 (SIGKILL) received by PID" in done.stderr
    assert "rank      : 1 (local_rank: 1)" in done.stderr
    assert (world.root / "torchrun" / "checkpoint_2.pt").is_file()


@pytest.mark.parametrize("name", ["two", "three", "sigterm"])
def test_the_looks_of_a_job_are_those_of_one_process(ended: Ended, one: Path, name: str) -> None:
    expected, got = (read_looks(folder) for folder in (one.parent, ended.world.root / name))
    assert [look.step for look in got] == [look.step for look in expected] == [4, 7, 9]
    for look, other in zip(got, expected, strict=True):
        assert (look.correct, look.gap_shuffled) == pytest.approx((other.correct, other.gap_shuffled), abs=1e-4)
        assert look.r_at_1 == other.r_at_1
