"""`eyechart check`: a model given by name on a few rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eyechart.cli import main
from saved_models import Saved, data, saved

__all__ = ["data", "saved"]

CPU = ["--threads", "1", "--device", "cpu"]


def check(saved: Saved, name: str, data: Path, *more: str) -> int:
    where = [str(saved.folder(name)), "--data", str(data / "data.json"), "--image_root", str(data)]
    return main(["check", *where, *CPU, *more])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_a_sound_model_ends_in_0_and_the_batch_is_described(
    saved: Saved, data: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert check(saved, name, data) == 0
    printed = capsys.readouterr().out
    assert "no fault found" in printed.splitlines()[0]
    assert "4 rows" in printed


def test_a_page_shows_one_row(saved: Saved, data: Path, tmp_path: Path) -> None:
    assert check(saved, "llava", data, "--page", str(tmp_path / "row.html")) == 0
    assert "<html" in (tmp_path / "row.html").read_text(encoding="utf-8")


def test_a_model_whose_images_do_not_reach_the_answer_ends_in_1(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from eyechart.api import check_named

    original = check_named.check_model

    def blind(model: Any, batch: Any, processor: Any) -> Any:
        encode = model.model.get_image_features

        def zeros(*args: Any, **kwargs: Any) -> Any:
            found = encode(*args, **kwargs)
            found.pooler_output = [0 * one for one in found.pooler_output]
            return found

        model.model.get_image_features = zeros
        return original(model, batch, processor)

    monkeypatch.setattr(check_named, "check_model", blind)
    assert check(saved, "qwen2_5_vl", data) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith("error ")


def test_rows_that_cannot_be_used_are_one_line(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.json").write_text(json.dumps([{"id": "1", "image": "gone.png", "conversations": []}]))
    assert main(["check", str(saved.folder("llava")), "--data", str(tmp_path / "data.json"), *CPU]) == 2
    assert capsys.readouterr().err.startswith("error: --data: none of the 4 rows drawn can be used")
