"""Commands in forked processes, for benchmarks that kill or race them, and what must hold for a run's folder.

Processes are forked from one that has loaded PyTorch, so that they take only the time of the command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from eyechart.manifest import MANIFEST, read_manifest
from eyechart.reporting.results_folder import RESULTS_FILE, read_folder
from qwen3_vlm.train.checkpoint import find_checkpoints, load_checkpoint
from qwen3_vlm.train.run_files import require_one_run

_CHECKPOINT = re.compile(r"checkpoint_\d+\.pt")


def start(command: Callable[[], int], output: Path) -> int:
    """Fork a process that carries out a command, with its output in a file; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        for stream in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        code = command()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Return the exit code of a process; minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left_over(folder: Path) -> list[str]:
    """Return the names of drafts and locks in a folder and directly above it."""
    places = [place for place in (folder, folder.parent) if place.is_dir()]
    return sorted(
        path.name
        for place in places
        for path in place.iterdir()
        if path.name.startswith(".") and (path.name.endswith(".draft") or "lock" in path.name)
    )


def problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong with a run's folder: drafts, files of different runs, files that the manifest lacks."""
    if left := left_over(folder):
        yield f"left over: {', '.join(left)}"
    manifest = read_manifest(folder)
    if manifest is None:
        yield f"no {MANIFEST}"
        return
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    # An older checkpoint that was removed stays listed until the next change of the manifest (`RunFolder.removing`).
    gone = {name for name in manifest.files if not _CHECKPOINT.fullmatch(name)} - there
    if wrong := (there - set(manifest.files)) | gone:
        yield f"not listed, or listed and not there: {', '.join(sorted(wrong))}"
    runs = {load_checkpoint(path).get("run") for path in find_checkpoints(folder)}
    try:
        for path in find_checkpoints(folder):
            require_one_run(load_checkpoint(path), path)
        if (folder / RESULTS_FILE).is_file():
            runs.add(read_folder(folder).run)
    except ValueError as error:
        yield str(error)
    if runs - {manifest.run}:
        yield f"runs {runs} in a folder of run {manifest.run}"


def done_before(path: Path) -> list[dict[str, object]]:
    """Return the cases that an earlier call recorded, one per line."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def options_of(doc: str, cases: str, n: int) -> argparse.Namespace:
    """Read the command line of a benchmark that records its cases: `n`, and the file `record`, whose folder is made."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--n", type=int, default=n, help=cases)
    file = Path("outputs") / f"{cases}.jsonl"
    parser.add_argument("--record", type=Path, default=file, help=f"file of finished {cases}")
    options = parser.parse_args()
    options.record.parent.mkdir(parents=True, exist_ok=True)
    return options


def record(case: dict[str, object], path: Path) -> None:
    """Add a finished case to the file of cases."""
    with path.open("a") as file:
        file.write(json.dumps(case) + "\n")


def prepare() -> None:
    """Make this process safe to fork, and load what is otherwise loaded late."""
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])
