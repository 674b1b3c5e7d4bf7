"""Kills ablate, report, world generation, the feature cache and the maker of tiny backbones at random times.

    python benchmarks/kill_commands.py --n 100

After each kill, the folder must be readable as one measurement or say that its results are not in their places; then
the same command is run to its end. It must succeed, leave no draft, and give a complete folder that belongs to one run.
`kill.py` does the same for training. Kills are recorded in a file and continued from there. The exit code is 0 if
nothing was broken or left, otherwise 1.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "eyechart" / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from eyechart.reporting.results_folder import read_folder  # noqa: E402
from forked import done_before, left_over, options_of, prepare, problems, record, start, wait  # noqa: E402
from qwen3_vlm.cli import main as cli  # noqa: E402
from qwen3_vlm.demo.tiny.maker import Options, make  # noqa: E402
from qwen3_vlm.demo.worlds import scenes  # noqa: E402
from tiny_runs import TinyWorld, make_world  # noqa: E402

RUN = {"train__epochs": 1, "train__accumulation": 1, "train__canary": False}
_OK = {0, 1, 3}


@dataclass(frozen=True)
class Job:
    """A command that is killed."""

    begin: Callable[[Path], None]
    """Prepares the folder before the first attempt."""
    command: Callable[[Path], int]
    check: Callable[[Path], Iterator[str]]
    """Yields what is wrong after the command has ended."""


def jobs(world: TinyWorld, model: Path) -> dict[str, Job]:
    """Return the commands by name; `model` is the folder of a finished trial."""

    def ablate(folder: Path) -> int:
        return cli(["ablate", "--checkpoint", str(folder / "checkpoint_5.pt"), "--conditions", "runbook"])

    def cache(folder: Path) -> int:
        config = str(world.config_file(folder.name, **RUN, data__cache_features="on"))
        return cli(["train", "--config", config, "--resume"])

    def tiny(folder: Path) -> int:
        rows, images = world.image_root / "data.json", world.image_root
        make(Options(output=folder, data=rows, image_root=images, steps=1, image_size=16, threads=1))
        return 0

    def copied(folder: Path) -> None:
        shutil.copytree(model, folder)

    def nothing(folder: Path) -> None:
        pass

    def world_whole(folder: Path) -> Iterator[str]:
        found = len(list(folder.rglob("*.png")))
        if found != 300 or not (folder / scenes.FILE).is_file():
            yield f"{found} of 300 pictures"
        if left := left_over(folder):
            yield f"left over: {', '.join(left)}"

    def tiny_whole(folder: Path) -> Iterator[str]:
        names = ("README.md", "config.yaml", "llm/model.safetensors", "vision/model.safetensors")
        if absent := [name for name in names if not (folder / name).is_file()]:
            yield f"missing: {', '.join(absent)}"
        if left := left_over(folder):
            yield f"left over: {', '.join(left)}"

    return {
        "ablate": Job(copied, ablate, problems),
        "report": Job(copied, lambda folder: cli(["report", str(folder)]), problems),
        "feature cache": Job(nothing, cache, problems),
        "world": Job(nothing, lambda folder: int(not scenes.write(folder, count=300, seed=3)), world_whole),
        "tiny backbones": Job(nothing, tiny, tiny_whole),
    }


def after_kill(name: str, folder: Path) -> Iterator[str]:
    """Yield what is wrong directly after a kill, before anything is repaired."""
    if name in ("ablate", "report"):
        try:
            read_folder(folder)
        except ValueError as error:
            if "are not all in their places" not in str(error):
                yield f"after the kill: {error}"


def kill(number: int, name: str, job: Job, folder: Path, length: float) -> dict[str, object]:
    """Kill a command once at a random time, run it to its end, and return what happened."""
    output = folder.with_name(f"{folder.name}.output")
    job.begin(folder)
    pid = start(partial(job.command, folder), output)
    # More kills near the end, where files are written.
    time.sleep(length * random.Random(number).random() ** 0.5)
    os.kill(pid, signal.SIGKILL)
    killed = wait(pid) == -signal.SIGKILL
    left = bool(left_over(folder))
    found = list(after_kill(name, folder))
    code = wait(start(partial(job.command, folder), output))
    if code not in _OK:
        found.append(f"the next {name} ended with {code}: {output.read_text()[-300:]}")
    found += job.check(folder)
    output.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    return {"kill": number, "command": name, "killed": killed, "left": left, "problems": found}


def main() -> int:
    """Do the kills that are missing, and print a table."""
    options = options_of(__doc__, "kills", 100)
    begun = len(done_before(options.record))
    if begun < options.n:
        prepare()
        with tempfile.TemporaryDirectory() as root:
            world = make_world(Path(root))
            model = world.root / "model"
            assert cli(["trial", "--config", str(world.config_file("model", **RUN)), "--conditions", "runbook"]) in _OK
            chosen = list(jobs(world, model).items())
            lengths: dict[str, float] = {}
            for number in range(begun, options.n):
                name, job = chosen[number % len(chosen)]
                if name not in lengths:
                    folder, began = world.root / f"timed_{number}", time.monotonic()
                    job.begin(folder)
                    assert wait(start(partial(job.command, folder), world.root / "timed.output")) in _OK
                    lengths[name] = time.monotonic() - began
                result = kill(number, name, job, world.root / f"killed_{number}", lengths[name])
                record(result, options.record)
    done = done_before(options.record)[: options.n]
    count: Counter[str] = Counter(str(row["command"]) for row in done)
    in_time: Counter[str] = Counter(str(row["command"]) for row in done if row["killed"])
    drafts: Counter[str] = Counter(str(row["command"]) for row in done if row["left"])
    print("| command | attempts | killed in time | with a draft or lock at the kill |\n|---|---|---|---|")
    for name in count:
        print(f"| {name} | {count[name]} | {in_time[name]} | {drafts[name]} |")
    wrong = [row for row in done if row["problems"]]
    print(f"broken or left over: {len(wrong)} of {len(done)}")
    for bad in wrong:
        print(bad)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
