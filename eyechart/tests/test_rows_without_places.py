"""Rows whose question has no `<image>`: refused by themselves, used if a prompt for all rows has the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eyechart.api.check_named import check_named
from eyechart.api.score import score
from eyechart.data.reader import read_rows
from eyechart.rows import RejectKind
from saved_models import Saved, data, saved, settings

__all__ = ["data", "saved"]

PROMPT = "<image>\nName it."


def write(file: Path, data: Path, humans: list[str], key: str = "image") -> Path:
    """Write the rows of `data` with these questions in turn."""
    rows: list[dict[str, Any]] = json.loads((data / "data.json").read_text(encoding="utf-8"))
    for place, row in enumerate(rows):
        row["conversations"][0]["value"] = humans[place % len(humans)]
        image = row.pop("image")
        row[key] = image if key == "image" else [image]
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("key", ["image", "images"])
def test_a_row_without_a_place_is_read_only_if_places_are_optional(key: str, data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.json", data, ["Name it.", "<image>\nName it."], key)
    rows, rejects = read_rows(file, image_root=data)
    assert [row.row % 2 for row in rows] == [1] * 6
    assert {reject.kind for reject in rejects} == {RejectKind.NO_PLACEHOLDER}
    rows, rejects = read_rows(file, image_root=data, places_optional=True)
    assert rejects == [] and all(row.image and not row.conversation for row in rows)


def test_optional_places_make_no_other_row_usable(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.json", data, ["<image> and <image>"])
    rows = json.loads(file.read_text(encoding="utf-8"))
    del rows[0]["image"]
    rows[1]["conversations"][1]["value"] = "<image>"
    rows[2]["image"] = "../elsewhere.png"
    file.write_text(json.dumps(rows[:3]), encoding="utf-8")
    for optional in (False, True):
        found, rejects = read_rows(file, image_root=data, places_optional=optional)
        assert found == [] and len(rejects) == 3


def test_a_prompt_for_all_rows_brings_the_place_of_their_image(saved: Saved, data: Path, tmp_path: Path) -> None:
    """`mean-token` reads other rows, which need no place either."""
    bare = write(tmp_path / "bare.json", data, ["Name it.", "What is this?", ""])
    how = settings(prompt=PROMPT, train_data=str(bare))
    of_bare, of_full = (
        score(saved.folder("llava"), file, "shuffled,mean-token", None, data, how).ablation
        for file in (bare, data / "data.json")
    )
    assert of_bare is not None and of_full is not None and of_bare.samples == 12
    assert of_bare.conditions["mean-token"].loss == pytest.approx(of_full.conditions["mean-token"].loss, abs=1e-6)
    assert of_bare.conditions["shuffled"].loss == pytest.approx(of_full.conditions["shuffled"].loss, abs=1e-6)
    assert not [found for found in check_named(saved.folder("llava"), bare, 4, data, how) if found.severity == "error"]


def test_without_a_prompt_such_rows_are_refused_and_told_the_flag(saved: Saved, data: Path, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.json", data, ["Name it."])
    with pytest.raises(ValueError, match=r"no <image> in the human turn.*--prompt"):
        score(saved.folder("llava"), bare, "shuffled", None, data, settings())
