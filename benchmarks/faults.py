"""Tests whether faults are noticed and named. Each is injected into a short run; healthy set-ups are also run.

    python benchmarks/faults.py                        everything, in two processes; writes docs/fault-benchmark.md
    python benchmarks/faults.py --only pairs-rolled,seed-1
    python benchmarks/faults.py --resume               continue with the cases that have no result yet
    python benchmarks/faults.py --pt-alone             the faults of evaluation, with the .pt alone in an empty folder
    python benchmarks/faults.py --list

All runs use the tiny backbones. Every case runs in its own process, so that patches and crashes do not affect other
cases, and its result is written to outputs/fault-benchmark/cases.jsonl at once. The exit code is 1 if the target is not
reached.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import asdict
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # set before PyTorch is loaded, for two processes with one thread each

import torch

from eyechart.faults.table import FAULTS
from eyechart.files import write_atomic
from fault_backbones import BACKBONES
from fault_batches import BATCHES
from fault_checkpoints import CHECKPOINTS
from fault_connector import CONNECTOR
from fault_features import FEATURES
from fault_fusion import FUSION
from fault_healthy import SET_UPS
from fault_healthy_images import HEALTHY_IMAGES
from fault_healthy_settings import HEALTHY_SETTINGS
from fault_images import IMAGES
from fault_labels import LABELS
from fault_loss import LOSS
from fault_openings import OPENINGS
from fault_pairs import PAIRS
from fault_pixels import PIXELS
from fault_prompt import PROMPT
from fault_rates import RATES
from fault_resuming import RESUMING
from fault_rows import ROWS
from fault_run import run_case, train_base
from fault_site import HELD_OUT, SAVE_EVERY, TRAINED, Case, Site, World, make_worlds
from fault_splits import SPLITS
from fault_table import Row, missed, reached, render, totals
from fault_text import TEXT
from fault_training import TRAINING

_ORDER = {code: place for place, code in enumerate(FAULTS)}
_OF_DATA = (*ROWS, *PAIRS, *SPLITS, *IMAGES)
_OF_INPUTS = (*PROMPT, *LABELS, *PIXELS, *BATCHES)
_OF_MODELS = (*BACKBONES, *FEATURES, *CONNECTOR, *FUSION, *LOSS, *TEXT)
_OF_RUNS = (*TRAINING, *RATES, *RESUMING, *CHECKPOINTS, *OPENINGS)
INJECTIONS = tuple(sorted((*_OF_DATA, *_OF_INPUTS, *_OF_MODELS, *_OF_RUNS), key=lambda case: _ORDER[case.code]))
HEALTHY = (*SET_UPS, *HEALTHY_IMAGES, *HEALTHY_SETTINGS)
CASES = {case.name: case for case in (*INJECTIONS, *HEALTHY)}
FIRST = {case.code: case.name for case in reversed(INJECTIONS)}
"""The first injection of each code."""
assert len(CASES) == len(INJECTIONS) + len(HEALTHY), "two cases share a name"

PAGE, KEPT = Path("docs/fault-benchmark.md"), Path("docs/fault-benchmark.jsonl")
_PATIENCE = 900.0
"""Seconds after which a case is ended and reported."""


def base_folder(folder: Path, world: World) -> Path:
    """Return the folder of the healthy run of a world."""
    return folder / "base" / world / "run"


def _train_base(folder: Path, world: World) -> None:
    torch.set_num_threads(1)
    train_base(Site(base_folder(folder, world).parent, world, folder), SAVE_EVERY)


def _run(folder: Path, name: str, reuse: bool, base: Path, tries: bool) -> None:
    """Run a case in this process, write its row, and keep its run in `trained/`."""
    torch.set_num_threads(1)
    case, place = CASES[name], folder / "cases" / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    kept = folder / "trained" / name
    before = kept if reuse and list(kept.glob("checkpoint_*.pt")) else None
    try:
        site = Site(place, case.world, base_folder(base, case.world), alone=base != folder)
        row = run_case(case, site, before, tries)
    except Exception as error:  # noqa: BLE001 - reported as a row, so that the benchmark continues
        row = broken(case, f"benchmark: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    write_atomic(folder / "rows" / f"{name}.json", json.dumps(asdict(row)))
    if case.where != "evaluation" and before is None and (place / "run").is_dir():
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(place / "run", kept)
    shutil.rmtree(place, ignore_errors=True)


def broken(case: Case, why: str) -> Row:
    """Return the row of a case that did not finish."""
    return Row(case.name, case.code, case.how, case.where, case.world, list(case.also), crash=why)


def run_all(folder: Path, names: list[str], reuse: bool, workers: int, base: Path, tried: set[str]) -> None:
    """Run the named cases, `workers` at a time; each row is added to cases.jsonl when its case ends.

    Args:
        folder: folder of the cases and their results.
        names: names of the cases.
        reuse: whether to use the runs that an earlier benchmark has trained.
        workers: processes at a time.
        base: folder of the healthy runs. If it is another folder, checkpoints are evaluated without the other files
            of their run.
        tried: names of the cases in which `trial` runs as well.
    """
    context = multiprocessing.get_context("fork")
    worlds: list[World] = ["scenes", "digits"]
    missing = [world for world in worlds if not list(base_folder(base, world).glob("checkpoint_600.pt"))]
    bases = [context.Process(target=_train_base, args=(base, world)) for world in missing]
    for process in bases:
        process.start()
    for process in bases:
        process.join()
        if process.exitcode:
            raise SystemExit(f"the healthy run that other cases start from ended with exit code {process.exitcode}")
    waiting, running, began, done = list(names), dict[int, tuple[str, ForkProcess, float]](), time.monotonic(), 0
    while waiting or running:
        while waiting and len(running) < workers:
            name = waiting.pop(0)
            (folder / "rows" / f"{name}.json").unlink(missing_ok=True)
            process = context.Process(target=_run, args=(folder, name, reuse, base, name in tried))
            process.start()
            running[process.sentinel] = (name, process, time.monotonic())
        ended = wait(list(running), timeout=5.0)
        for sentinel, (name, process, started) in list(running.items()):
            late = time.monotonic() - started > _PATIENCE
            if late:
                process.kill()
            if late or sentinel in ended:
                process.join()
                del running[sentinel]
                done += 1
                row = _row_of(folder, name, f"ended after {_PATIENCE:.0f} s" if late else f"exit {process.exitcode}")
                _keep(folder, row)
                passed = time.monotonic() - began
                print(f"{done:>3}/{len(names)} {passed / 60:5.1f} min  {line(row)}", flush=True)


def _row_of(folder: Path, name: str, otherwise: str) -> Row:
    path = folder / "rows" / f"{name}.json"
    return read_row(path.read_text(encoding="utf-8")) if path.is_file() else broken(CASES[name], otherwise)


def _keep(folder: Path, row: Row) -> None:
    with (folder / "cases.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def read_row(text: str) -> Row:
    """Read a row from JSON."""
    tree = json.loads(text)
    kinds = ("findings", "ablate_findings", "diagnose_findings", "trial_findings")
    pairs = {kind: [(code, severity) for code, severity in tree[kind]] for kind in kinds if kind in tree}
    return Row(**{**tree, **pairs})


def read_rows(folder: Path) -> dict[str, Row]:
    """Return the last row of each case that still exists, in the order of the page."""
    path = folder / "cases.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = {row.name: row for row in map(read_row, lines)}
    return {name: rows[name] for name in CASES if name in rows}


def line(row: Row) -> str:
    """Return the line that the terminal shows for a finished case."""
    if row.crash:
        state = "CRASHED"
    elif not row.code:
        state = "healthy" if not (row.errors or row.warnings or row.message) else "COMPLAINED"
    else:
        state = "named" if row.named else "noticed" if row.noticed else "MISSED"
    said = ", ".join(f"{code}({severity[0]})" for code, severity in row.findings) or row.message[:120] or "-"
    crash = f"  CRASH {row.crash[-200:]}" if row.crash else ""
    differs = "" if row.agrees else f"  DIFFERS {row.differing}"
    crash += differs + ("  PASS BESIDE AN ERROR" if row.contradicts else "")
    return (
        f"{row.name:<32} {row.code:<22} four {row.four:<13} {state:<10} "
        f"{row.ours}: {said}  {row.seconds:.0f} s ({row.diagnosing:.0f}){crash}"
    )


def main() -> int:
    """Run the cases, print the totals and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names or fault codes, separated by commas; the page is not written")
    parser.add_argument("--resume", action="store_true", help="run only the cases that have no result yet")
    parser.add_argument("--reuse", action="store_true", help="use the runs that an earlier benchmark has trained")
    parser.add_argument("--pt-alone", action="store_true", help="the faults of evaluation, with nothing but the .pt")
    parser.add_argument(
        "--trial-of",
        choices=["all", "first"],
        default="all",
        help="run `trial` for all injections or the first of each code",
    )
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--page", action="store_true", help="write the page from the existing results")
    parser.add_argument("--workers", type=int, default=2, help="number of processes at a time, with one thread each")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/fault-benchmark"), help="folder for runs and results"
    )
    options = parser.parse_args()
    if options.list:
        for case in CASES.values():
            print(f"{case.name:<34} {case.code or 'healthy':<24} {case.where:<11} {case.world:<7} {case.how}")
        return 0
    wanted = [part for part in options.only.split(",") if part]
    unknown = [part for part in wanted if part not in CASES and part not in FAULTS]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; --list shows the names")
    names = [name for name, case in CASES.items() if not wanted or name in wanted or case.code in wanted]
    base = options.folder
    if options.pt_alone:
        options.folder, names = base / "pt-alone", [name for name in names if CASES[name].where == "evaluation"]
    options.folder.mkdir(parents=True, exist_ok=True)
    if not (options.resume or wanted or options.page):
        # Healthy runs made by an older version of the package may lack data that the detectors need.
        for part in ("cases", "rows") if options.reuse else ("cases", "rows", "base", "trained"):
            shutil.rmtree(options.folder / part, ignore_errors=True)
        (options.folder / "cases.jsonl").unlink(missing_ok=True)
    if options.resume:
        names = [name for name in names if name not in read_rows(options.folder)]
    if not options.page:
        make_worlds()
        tried = {case.name for case in INJECTIONS} if options.trial_of == "all" else set(FIRST.values())
        run_all(options.folder, names, options.reuse, options.workers, base, tried)
    rows = list(read_rows(options.folder).values())
    if wanted or options.pt_alone:
        rows = [row for row in rows if row.name in names]
    else:
        write_atomic(PAGE, render(rows, TRAINED, HELD_OUT))
        write_atomic(KEPT, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
        print(f"written: {PAGE}, {KEPT}")
    total = totals(rows)
    print(f"\nnoticed {total.noticed} of {total.injected}, named {total.named}; four conditions: {dict(total.four)}")
    print(f"healthy {total.healthy}: errors {total.healthy_errors}, warnings {total.healthy_warnings}")
    print(f"PASS beside an error: {total.contradicting}; trial, ablate and diagnose differ: {total.disagreeing}")
    for row in missed(rows):
        print(f"  {line(row)}")
    return 0 if reached(total) else 1


if __name__ == "__main__":
    sys.exit(main())
