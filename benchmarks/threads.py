"""Would the faults of public threads have been found? Each is made again from its cause, in a training of 20 steps.

    make bench-threads                                 installs TRL, datasets and PEFT beside the environment, and runs
    make stack-environments                            LLaMA-Factory, ms-swift and axolotl, whose cases need them
    python benchmarks/threads.py --resume              go on with the cases that have no result yet
    python benchmarks/threads.py --only packed,shrunk  these cases; the page is not written
    python benchmarks/threads.py --list

Every case runs with three seeds in a process of its own, on a tiny model with random weights. Its results are added to
outputs/threads/cases.jsonl at once. At the end, docs/threads.jsonl and docs/threads.md are written. Exits with 1 where
the target is not reached.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch: one process of one thread
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers

from eyechart.files import write_atomic
from stack_environments import exists
from stack_environments import versions as versions_of
from thread_case import Case
from thread_healthy import HEALTHY
from thread_images import OF_IMAGES
from thread_labels import OF_LABELS
from thread_launch import LAUNCHED, launch, launch_of
from thread_launched import LAUNCHED_BROKEN, LAUNCHED_HEALTHY
from thread_models import OF_MODELS
from thread_outcome import Outcome
from thread_stack import job_of, run
from thread_table import Row, as_line, reached, read, render, totals

BROKEN = tuple(
    sorted((*OF_LABELS, *OF_IMAGES, *OF_MODELS, *LAUNCHED_BROKEN), key=lambda case: int(case.thread.split()[0]))
)
CASES = {case.name: case for case in (*BROKEN, *HEALTHY, *LAUNCHED_HEALTHY)}
assert len(CASES) == len(BROKEN) + len(HEALTHY) + len(LAUNCHED_HEALTHY), "two cases share a name"
assert all(case.twin in CASES for case in BROKEN), "a case is compared with a set-up that does not exist"
SEEDS = (0, 1, 2)
STACKS = ("torch", "transformers", "trl", "datasets", "peft")
FOLDER = Path("outputs/threads")
PAGE, KEPT, FIRST = Path("docs/threads.md"), Path("docs/threads.jsonl"), Path("docs/threads-first.jsonl")
_PATIENCE = 600.0
"""Seconds after which a case is ended and reported."""


def row_of(case: Case, seed: int, outcome: Outcome) -> Row:
    """The result of a case with one seed."""
    return Row(
        **{name: getattr(case, name) for name in ("name", "thread", "how", "stack", "family", "code", "twin")},
        also=list(case.also),
        seed=seed,
        **vars(outcome),
    )


def _run(case: Case) -> None:
    """In a process of its own: run a case with every seed."""
    torch.set_num_threads(1)
    log = (FOLDER / "log.txt").open("a", encoding="utf-8")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    transformers.logging.set_verbosity_error()
    for seed in SEEDS:
        job = job_of(case.stack, case.family, seed, FOLDER)
        case.change(job)
        _keep(row_of(case, seed, run(job)))


def run_launched(stack: str, names: list[str]) -> None:
    """Run the named cases of a stack with every seed, in one process of the stack's environment."""
    cases, launches = [], []
    for name in names:
        for seed in SEEDS:
            one = launch_of(stack, CASES[name].family, seed, FOLDER, name)
            CASES[name].change(one)
            launches.append(one)
            cases.append(CASES[name])
    for case, one, outcome in zip(cases, launches, launch(launches), strict=True):
        _keep(row_of(case, one.seed, outcome))
    for name in names:
        _tell(name)


def _keep(row: Row) -> None:
    with (FOLDER / "cases.jsonl").open("a", encoding="utf-8") as file:
        file.write(as_line(row) + "\n")


def run_all(names: list[str]) -> None:
    """Run the named cases one after the other; those of a stack without its environment are left out, and said."""
    context = multiprocessing.get_context("fork")
    for name in (name for name in names if CASES[name].stack not in LAUNCHED):
        process = context.Process(target=_run, args=(CASES[name],))
        process.start()
        process.join(_PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode:
            for seed in SEEDS:
                _keep(row_of(CASES[name], seed, Outcome(error=f"benchmark: exit {process.exitcode}", broken=True)))
        _tell(name)
    for stack in LAUNCHED:
        some = [name for name in names if CASES[name].stack == stack]
        if some and exists(stack):
            run_launched(stack, some)
        elif some:
            print(f"{stack}: no environment (`make stack-environments`); its kept results stay: {', '.join(some)}")


def _tell(name: str) -> None:
    row = rows_in(FOLDER / "cases.jsonl")[name][-1]
    found = ", ".join(f"{code} ({severity})" for code, severity in row.findings) or "-"
    print(f"{name:<22} {row.code or 'healthy':<24} {found}  {row.error}", flush=True)


def rows_in(path: Path) -> dict[str, list[Row]]:
    """The last results of each case that still exists, by name and in the order of seeds."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    last = {(row.name, row.seed): row for row in map(read, lines) if row.name in CASES}
    found = {name: [last[name, seed] for seed in SEEDS if (name, seed) in last] for name in CASES}
    return {name: [_described(row) for row in rows] for name, rows in found.items() if rows and _complete(name, rows)}


def _complete(name: str, rows: list[Row]) -> bool:
    """Whether a case has all its seeds; launched cases count with those that ran, and the page shows how many."""
    return len(rows) == len(SEEDS) or CASES[name].stack in LAUNCHED


def _described(row: Row) -> Row:
    """A result beside the present description of its case."""
    case = CASES[row.name]
    return replace(row, thread=case.thread, how=case.how, code=case.code, also=list(case.also), twin=case.twin)


def versions() -> str:
    """The stacks, with their versions."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in STACKS)


def main() -> int:
    """Run, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, separated by commas; the page is not written")
    parser.add_argument("--resume", action="store_true", help="run only what has no result yet")
    parser.add_argument("--list", action="store_true", help="show the cases")
    options = parser.parse_args()
    if options.list:
        for case in CASES.values():
            print(f"{case.name:<22} {case.code or 'healthy':<24} {case.stack:<8} {case.family:<12} {case.how}")
        return 0
    wanted = [part for part in options.only.split(",") if part]
    unknown = [part for part in wanted if part not in CASES]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; --list shows the names")
    if not (options.resume or wanted):
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = rows_in(FOLDER / "cases.jsonl") if options.resume else {}
    run_all([name for name in CASES if (not wanted or name in wanted) and name not in done])
    found = rows_in(FOLDER / "cases.jsonl")
    if not wanted:
        missing = {name: rows for name, rows in rows_in(KEPT).items() if CASES[name].stack in LAUNCHED}
        found = {name: rows for name in CASES if (rows := found.get(name) or missing.get(name))}
        stacks = {stack: versions_of(stack) for stack in LAUNCHED if exists(stack)}
        about = json.dumps({"versions": versions(), "stacks": {**_about().get("stacks", {}), **stacks}})
        kept = [as_line(row) for rows in found.values() for row in rows]
        write_atomic(KEPT, "\n".join([about, *kept]) + "\n")
        write_atomic(PAGE, page())
        print(f"written: {PAGE}, {KEPT}")
    total = totals(found)
    print(f"noticed {total.noticed} of {total.threads}, named {total.named}; healthy {total.healthy}: "
          f"errors in {total.healthy_errors}")  # fmt: skip
    return 0 if reached(total) else 1


def page() -> str:
    """docs/threads.md, from the kept results."""
    return render(rows_in(KEPT), rows_in(FIRST), _about())


def _about() -> dict[str, Any]:
    """What the first line of the kept results says of their versions."""
    about: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8").splitlines()[0])
    return about


if __name__ == "__main__":
    sys.exit(main())
