"""The figures of a short trial are those of the version before the two distributions; `make bench-golden` compares all.

`golden.json` was written by that version. Processors differ in the last digits and training multiplies the difference,
so figures are compared with a tolerance here, and exactly by benchmarks/golden.py, where both versions run on one
machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from golden import numbers
from qwen3_vlm.cli import main

pytestmark = pytest.mark.slow
STORED = Path(__file__).parent / "golden.json"
SHORT = [
    *("--data.max_samples", "1600", "--data.eval_ratio", "0.04", "--train.epochs", "2"),
    *("--threads", "1", "--ablation.gallery", "0"),
]


def test_a_short_trial_measures_what_it_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    folder = tmp_path / "run"
    code = main(["trial", *SHORT, "--output_dir", str(folder)])
    stored: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (code, results["verdict"]) == (stored["code"], stored["verdict"]), capsys.readouterr().err
    found = numbers(results)
    assert len(stored["figures"]) > 100
    assert {name: found.get(name) for name in stored["figures"]} == pytest.approx(stored["figures"], rel=0.03, abs=0.03)
