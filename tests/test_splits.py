from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyechart.data.choice import draw_rows
from qwen3_vlm.data.splits import Split, describe, draw_split, load_split, save_split


def test_the_runbooks_subset_is_4900_and_100() -> None:
    split = draw_split(558_128, 5_000, 0.02, 42)
    assert (len(split.train), len(split.eval)) == (4_900, 100)


@given(rows=st.integers(2, 400), drawn=st.none() | st.integers(2, 500), ratio=st.floats(0.001, 0.999))
def test_a_split_takes_each_drawn_row_once_and_leaves_no_part_empty(rows: int, drawn: int | None, ratio: float) -> None:
    split = draw_split(rows, drawn, ratio, 7)
    together = [*split.train, *split.eval]
    assert len(together) == len(set(together)) == (rows if drawn is None else min(rows, drawn))
    assert set(together) <= set(range(rows))
    assert split.train == tuple(sorted(split.train)) and split.train and split.eval


def test_a_split_depends_on_seed_and_length_alone() -> None:
    assert draw_split(1000, 100, 0.1, 1) == draw_split(1000, 100, 0.1, 1)
    assert draw_split(1000, 100, 0.1, 1) != draw_split(1000, 100, 0.1, 2)


def test_the_first_held_out_rows_are_a_random_subset() -> None:
    held_out = draw_split(10_000, None, 0.5, 3).eval
    assert held_out != tuple(sorted(held_out))
    assert 4_000 < sum(held_out[:500]) / 500 < 6_000


def test_nothing_is_held_out_at_ratio_zero() -> None:
    split = draw_split(5, None, 0.0, 0)
    assert split == Split(train=(0, 1, 2, 3, 4), eval=())
    assert sorted(draw_rows(5, 0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("rows", "drawn", "ratio"), [(0, None, 0.0), (1, None, 0.5), (9, 1, 0.1)])
def test_too_few_rows_to_split_is_an_error(rows: int, drawn: int | None, ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"cannot split {min(rows, 1)} rows .*the file has {rows} rows"):
        draw_split(rows, drawn, ratio, 0)


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    path.write_text("[1, 2, 3, 4]")
    return path


def test_a_saved_split_reads_back_also_from_a_moved_data_file(tmp_path: Path, data_file: Path) -> None:
    split = draw_split(4, None, 0.25, 0)
    save_split(tmp_path / "run" / "split.json", split, describe(data_file, 4))
    moved = data_file.rename(tmp_path / "other.json")
    assert load_split(tmp_path / "run" / "split.json", describe(moved, 4)) == split


def test_a_fixed_eval_file_has_its_own_rows(tmp_path: Path, data_file: Path) -> None:
    held_out = tmp_path / "eval.json"
    held_out.write_text("[1, 2]")
    split = Split(train=(0, 1, 2, 3), eval=(1, 0))
    save_split(tmp_path / "split.json", split, describe(data_file, 4), describe(held_out, 2))
    assert load_split(tmp_path / "split.json", describe(data_file, 4), describe(held_out, 2)) == split
    with pytest.raises(ValueError, match=r"data\.eval_json is not the file .* it was eval\.json .* now it is not set"):
        load_split(tmp_path / "split.json", describe(data_file, 4))


def test_a_changed_data_file_is_refused_with_both_versions(tmp_path: Path, data_file: Path) -> None:
    before = describe(data_file, 4)
    save_split(tmp_path / "split.json", draw_split(4, None, 0.25, 0), before)
    data_file.write_text("[1, 2, 3, 5]")
    after = describe(data_file, 4)
    with pytest.raises(ValueError, match=rf"data\.json_file is not .*{before.sha256[:12]}.*{after.sha256[:12]}"):
        load_split(tmp_path / "split.json", after)


@pytest.mark.parametrize(
    "change",
    [
        {"train": [0, 1, 2, 2]},
        {"train": [0, 1, 4], "eval": [3]},
        {"train": [-1, 1, 2], "eval": [3]},
        {"train": [0, 1, 2], "eval": [2]},
    ],
    ids=["a row twice", "a row beyond the file", "a negative row", "a row in both parts"],
)
def test_a_split_changed_by_hand_is_refused(tmp_path: Path, data_file: Path, change: dict[str, object]) -> None:
    path = tmp_path / "split.json"
    save_split(path, Split(train=(0, 1, 2), eval=(3,)), describe(data_file, 4))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="changed by hand"):
        load_split(path, describe(data_file, 4))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "data": null}'])
def test_a_broken_split_file_is_refused(tmp_path: Path, data_file: Path, content: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=r"split\.json: not a split file"):
        load_split(tmp_path / "split.json", describe(data_file, 4))


def test_row_indices_must_be_whole_numbers(tmp_path: Path, data_file: Path) -> None:
    path = tmp_path / "split.json"
    save_split(path, Split(train=(0, 1, 2), eval=(3,)), describe(data_file, 4))
    path.write_text(path.read_text().replace("[3]", "[3.0]"))
    with pytest.raises(ValueError, match="eval.0: Input should be a valid integer"):
        load_split(path, describe(data_file, 4))


def test_missing_files_are_named(tmp_path: Path, data_file: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: cannot read the split"):
        load_split(tmp_path / "none.json", describe(data_file, 4))
    with pytest.raises(ValueError, match=r"gone\.json: no such data file"):
        describe(tmp_path / "gone.json", 1)


def test_the_hash_tells_content_apart_and_not_names(tmp_path: Path, data_file: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(data_file.read_bytes())
    assert describe(copy, 4) == replace(describe(data_file, 4), name="copy.json")
