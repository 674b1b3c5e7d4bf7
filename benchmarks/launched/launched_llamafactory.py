"""LLaMA-Factory: `run_exp` with callbacks, from a script, with the settings of a YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml
from llamafactory.train.tuner import run_exp

from launched import WATCHING, run_jobs, start
from thread_outcome import Checked


def train(arguments: list[str]) -> None:
    """Train as `llamafactory-cli train FILE` does, with callbacks."""
    timed = start(Checked(watching=WATCHING))
    args = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))
    run_exp(args, callbacks=[timed.before, timed.checked, timed.after])


if __name__ == "__main__":
    run_jobs(train)
