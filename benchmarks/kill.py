"""Kills runs at random times; the newest checkpoint must always load, and resuming must give the same weights.

    python benchmarks/kill.py --n 200

Each attempt is forked from a process that has loaded PyTorch, so that it takes only the time of training. A run is
killed with SIGKILL and resumed until it finishes; then its weights, optimizer and log are compared bit for bit with an
uninterrupted run. There are two kinds of kills: at a random time of an attempt, and when a half-written checkpoint
appears. The second kind is needed because saving takes little time, so random kills would rarely interrupt it. The exit
code is 0 if all runs survived every kill, otherwise 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "eyechart" / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch  # noqa: E402

from forked import problems, start  # noqa: E402
from qwen3_vlm.train.checkpoint import find_checkpoints, load_checkpoint
from qwen3_vlm.train.stage1_align import main as train
from tiny_runs import TinyWorld, log_of, make_world, same, weights_of  # noqa: E402

RUN = {"train__epochs": 3, "train__accumulation": 1, "train__save_every": 1, "train__keep_last": 3}
"""15 steps in 15 updates with a checkpoint after each. Older ones are deleted, so a kill can interrupt a deletion."""


def training(world: TinyWorld, name: str) -> Callable[[], int]:
    """Return what starts or resumes the training of a run and returns the command's exit code."""
    return partial(train, ["--config", str(world.config_file(name, **RUN)), "--resume"])


def half_written(folder: Path) -> list[Path]:
    """Return the checkpoints whose saving has begun but not finished."""
    return list(folder.glob(".checkpoint_*")) if folder.is_dir() else []


def kill_at(pid: int, folder: Path, delay: float, in_save: bool) -> int | None:
    """Kill a process after `delay` seconds, or with `in_save` in the next save after them.

    Returns:
        The exit code if the process had already ended, otherwise None.
    """
    began = time.monotonic()
    seen: set[Path] = set(half_written(folder))
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - began >= delay and (not in_save or set(half_written(folder)) - seen):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.0002)  # much shorter than a save, and it leaves the core to the run


def check_newest(folder: Path) -> str | None:
    """Return the problem with the newest checkpoint; None if it loads or if there is none yet."""
    found = find_checkpoints(folder)
    if not found:
        return None
    try:
        load_checkpoint(found[-1])
    except ValueError as error:
        return str(error)
    return None


def compare(folder: Path, reference: Path) -> str | None:
    """Return how a killed run that was completed differs from the uninterrupted run; None if they are equal."""
    last = find_checkpoints(reference)[-1]
    if sorted(p.name for p in folder.iterdir()) != sorted(p.name for p in reference.iterdir()):
        return f"{folder}: the files differ from those in {reference}"
    if not same(weights_of(folder / last.name), weights_of(last)):
        return f"{folder}: the weights differ from those in {reference}"
    if log_of(folder) != log_of(reference):
        return f"{folder}: the log differs from that in {reference}"
    return next((f"{folder}: {problem}" for problem in problems(folder)), None)


def bench(world: TinyWorld, n: int, seed: int) -> dict[str, object]:
    """Kill `n` times, and return the counts of the table and the list of failures."""
    draw, quiet = random.Random(seed), world.root / "output.txt"
    # Run in this process, which then has loaded everything that is loaded late; forked processes inherit it.
    with redirect_stdout(sys.stderr):
        reference = world.train("reference", **RUN).parent
    began = time.monotonic()
    _, status = os.waitpid(start(training(world, "timed"), quiet), 0)
    assert status == 0, quiet.read_text()
    length = time.monotonic() - began
    counts: Counter[str] = Counter()
    failures: list[str] = []
    while counts["kills"] < n:
        counts["runs"] += 1
        name = f"run_{counts['runs']}"
        folder, code = world.root / name, None
        while code is None:
            in_save = draw.random() < 0.5
            # There were enough kills; let the last run finish.
            delay = draw.uniform(0, length) if counts["kills"] < n else float("inf")
            before = set(half_written(folder))
            code = kill_at(start(training(world, name), quiet), folder, delay, in_save)
            if code is None:
                counts["kills"] += 1
                counts["kills inside a save"] += bool(set(half_written(folder)) - before)
                counts["kills before the first checkpoint"] += not find_checkpoints(folder)
                failures += [problem] if (problem := check_newest(folder)) else []
        failures += [f"{name}: exit {code}"] if code else []
        failures += [problem] if not code and (problem := compare(folder, reference)) else []
        shutil.rmtree(folder)
    return {**counts, "failures": failures, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    """Print the table, or the counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="seed for the random times")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)  # forking a process with a thread pool is not safe
        counts = bench(make_world(Path(folder)), options.n, options.seed)
    if options.json:
        print(json.dumps(counts))
    else:
        print("| what | count |\n|---|---|")
        for name, value in counts.items():
            print(f"| {name} | {len(value) if isinstance(value, list) else value} |")
        for failure in counts["failures"]:  # type: ignore[attr-defined]
            print(failure)
    return 1 if counts["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
