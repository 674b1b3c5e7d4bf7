"""`qwen3-vlm report` makes the page of a run again, as `eyechart report` does, and takes no settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyechart.files import write_atomic
from eyechart.results import to_json
from qwen3_vlm.cli import main
from report_data import make_results


def test_it_makes_the_page_of_a_folder_with_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_atomic(tmp_path / "results.json", to_json(make_results()))
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_it_takes_no_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--seed", "1"]) == 2
    assert "takes no config fields, got --seed 1" in capsys.readouterr().err
