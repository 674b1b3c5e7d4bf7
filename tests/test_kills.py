"""SIGKILL loses nothing: the newest checkpoint loads, and the resumed run equals an uninterrupted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "benchmarks" / "kill.py"


@pytest.mark.slow
def test_five_kills_at_random_moments_and_inside_saves_are_survived() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--n", "5", "--seed", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == 5 and counts["failures"] == []
    assert counts["kills inside a save"] >= 1
