"""Runs inside a stack's own process: its trainings one after the other, with the checks between two clocks.

`thread_launch.py` starts the stack's script of this folder with a file of jobs, and with this folder on the path.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: its modules must not hide those of the stack

import launched_patches

import eyechart
from thread_outcome import Checked, Timed, said

WATCHING = eyechart.Watching(looks=10, samples=8, score=8)


class Now:
    """The training that runs, for the callbacks that a stack makes by itself."""

    timed = Timed.of(None)


def start(checked: Checked | None) -> Timed:
    """Put clocks around the callback of the training that begins."""
    Now.timed = Timed.of(checked)
    return Now.timed


def run_jobs(train: Callable[[list[str]], object]) -> None:
    """Train every job of the file that the command line names, and write its outcome.

    Args:
        train: starts the stack with a list of arguments, in the folder of the job.
    """
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for job in jobs:
        os.chdir(job["folder"])
        Now.timed, error = Timed.of(None), ""
        patch = getattr(launched_patches, job["patch"]) if job["patch"] else nullcontext
        try:
            with patch():
                train(job["arguments"])
        except Exception as raised:  # noqa: BLE001 - what the stack raises is what its user sees
            error = said(raised)
            sys.excepthook(type(raised), raised, raised.__traceback__)
        outcome = Now.timed.outcome()
        outcome.error = error
        Path(job["outcome"]).write_text(json.dumps(asdict(outcome)), encoding="utf-8")
