"""Training rows that show a held-out picture leave training, and a split in which nothing repeats stays as drawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eyechart.data import same_files
from eyechart.faults.table import finding
from eyechart.rows import Row
from qwen3_vlm import audit
from qwen3_vlm.build import prepare_data
from qwen3_vlm.commands.diagnosis import diagnose
from qwen3_vlm.data.repeats import without_repeats
from qwen3_vlm.data.splits import Split, describe, draw_split, load_split, save_split
from qwen3_vlm.preflight.corpus import leak_named, left_findings
from tiny_runs import ROWS, TinyWorld, log_of, make_world

DRAWN = draw_split(ROWS, None, 0.2, 42)
COPY, HELD_OUT = DRAWN.train[5], DRAWN.eval[2]


def row(number: int, image: str) -> Row:
    return Row(number, str(number), image, "<image>", "a caption")


def split_of(held_out: list[Row], train: list[Row], root: Path) -> Split:
    drawn = Split(tuple(r.row for r in train), tuple(r.row for r in held_out))
    return without_repeats(drawn, held_out, train, root)


@pytest.fixture
def world(tmp_path: Path) -> TinyWorld:
    return make_world(tmp_path)


@pytest.fixture
def copied(world: TinyWorld) -> TinyWorld:
    """A training row whose image file is a copy of a held-out row's."""
    images = world.image_root / "images"
    shutil.copy(images / f"{HELD_OUT:05d}.png", images / f"{COPY:05d}.png")
    return world


def test_where_nothing_repeats_the_split_is_the_draw_row_for_row(world: TinyWorld) -> None:
    assert prepare_data(world.config("x")).split == DRAWN


def test_a_training_row_with_a_copy_of_a_held_out_image_leaves_and_no_other_row_moves(copied: TinyWorld) -> None:
    prepared = prepare_data(copied.config("x"))
    assert prepared.split.eval == DRAWN.eval
    assert prepared.split.train == tuple(r for r in DRAWN.train if r != COPY)
    assert prepared.split.repeats == ((COPY, HELD_OUT),)
    assert COPY not in prepared.train.rows and len(prepared.train) == 17


def test_a_training_row_that_names_a_held_out_rows_file_leaves_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "b.png").write_bytes(b"another")
    split = split_of([row(0, "a.png")], [row(1, "./a.png"), row(2, "b.png"), row(3, "a.png")], tmp_path)
    assert split == Split((2,), (0,), ((1, 0), (3, 0)))


def test_files_of_one_size_and_one_beginning_are_told_apart_by_their_end(tmp_path: Path) -> None:
    for name, end in (("held", b"x"), ("same", b"x"), ("other", b"y")):
        (tmp_path / name).write_bytes(bytes(same_files._HEAD + 10) + end)
    split = split_of([row(0, "held")], [row(1, "same"), row(2, "other")], tmp_path)
    assert split == Split((2,), (0,), ((1, 0),))


def test_no_file_is_read_where_all_sizes_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 2, 3):
        (tmp_path / f"{size}.png").write_bytes(bytes(size))
    monkeypatch.setattr(same_files, "_digest", lambda *_: pytest.fail("a file was read"))
    split_of([row(0, "1.png")], [row(1, "2.png"), row(2, "3.png")], tmp_path)
    with pytest.raises(pytest.fail.Exception):
        (tmp_path / "3.png").write_bytes(b"3")
        split_of([row(0, "1.png")], [row(1, "2.png"), row(2, "3.png")], tmp_path)


def test_files_that_are_missing_empty_or_no_files_repeat_nothing(tmp_path: Path) -> None:
    for name in ("empty", "empty too"):
        (tmp_path / name).touch()
    for name in ("folder", "folder too"):
        (tmp_path / name).mkdir()
    held_out = [row(i, name) for i, name in enumerate(("gone", "empty", "folder"))]
    train = [row(3 + i, name) for i, name in enumerate(("gone", "empty too", "folder too"))]
    assert split_of(held_out, train, tmp_path) == Split((3, 4, 5), (0, 1, 2))


def test_a_placeholder_picture_takes_no_row_out_of_training(tmp_path: Path) -> None:
    (tmp_path / "none.png").write_bytes(b"no image available")
    for i in range(40):
        (tmp_path / f"{i}.png").write_bytes(b"own %d" % i)
    own = [row(i, f"{i}.png") for i in range(40)]
    without = [row(100 + i, "none.png") for i in range(6)]
    assert split_of([row(200, "none.png")], [*own, *without], tmp_path).repeats == ()
    assert len(split_of([row(200, "none.png")], [*own, *without[:5]], tmp_path).repeats) == 5, "five captions of one"


def test_where_no_training_row_would_be_left_none_leaves(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    assert split_of([row(0, "a.png")], [row(1, "a.png")], tmp_path) == Split((1,), (0,))


def test_a_draw_with_a_row_on_both_sides_is_left_for_the_preflight_to_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    both = Split((0, 1), (0,))
    assert without_repeats(both, [row(0, "a.png")], [row(0, "a.png"), row(1, "a.png")], tmp_path) == both


def test_a_fixed_held_out_file_takes_no_row_out_of_training(copied: TinyWorld) -> None:
    rows = json.loads((copied.image_root / "data.json").read_text(encoding="utf-8"))
    (copied.image_root / "held_out.json").write_text(json.dumps([rows[HELD_OUT]]), encoding="utf-8")
    fixed = copied.config("x", data__eval_json=str(copied.image_root / "held_out.json"))
    assert prepare_data(fixed).split == Split(tuple(range(ROWS)), (0,))


def test_rows_that_left_are_in_split_json_and_are_no_rows_of_either_side(tmp_path: Path) -> None:
    data, path = tmp_path / "data.json", tmp_path / "split.json"
    data.write_text("[1, 2, 3, 4]")
    split = Split((0, 2), (3,), ((1, 3),))
    save_split(path, split, describe(data, 4))
    assert load_split(path, describe(data, 4)) == split
    for wrong in ([[0, 3]], [[3, 3]], [[7, 3]]):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"repeats": wrong}))
        with pytest.raises(ValueError, match="changed by hand"):
            load_split(path, describe(data, 4))


def test_a_split_of_an_older_version_keeps_its_rows(copied: TinyWorld) -> None:
    data, path = copied.image_root / "data.json", copied.root / "split.json"
    save_split(path, DRAWN, describe(data, ROWS))
    tree = json.loads(path.read_text(encoding="utf-8"))
    del tree["repeats"]
    path.write_text(json.dumps(tree), encoding="utf-8")
    assert prepare_data(copied.config("x"), path).split == DRAWN


@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_run_says_counts_and_keeps_what_left(
    copied: TinyWorld, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"data__cache_features": cache, "train__epochs": 1}
    last = copied.train("run", **settings)
    said = "data: 17 training rows and 4 held out; 1 more rows were drawn for training and removed"
    assert f"{said}, because they show a held-out picture (first {COPY})" in capsys.readouterr().out
    assert log_of(last.parent)[0]["samples"] == 17
    copied.train("run", resume=True, **settings)
    assert said in capsys.readouterr().out
    (note,) = (f for f in diagnose(copied.config("run", **settings), last).findings if f.code == "split-leak")
    assert note.severity == "note" and f"row {COPY} (the picture of held-out row {HELD_OUT})" in note.message
    assert note.evidence == {"left_training": 1, "drawn": 18, "held_out_rows": 1, "first_rows": [COPY]}


def test_an_audit_of_the_training_rows_says_that_rows_left(
    copied: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(copied.config("x")).samples == 17
    assert "1 more rows were drawn for training and removed" in capsys.readouterr().err
    assert audit(copied.config("x"), "eval").samples == 4
    assert "left it" not in capsys.readouterr().err


def test_a_run_where_nothing_left_says_nothing_of_it(world: TinyWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world.train("run", train__epochs=1)
    assert "left it" not in capsys.readouterr().out


def test_rows_that_left_do_not_keep_the_pixels_of_all_others_from_being_compared() -> None:
    left = left_findings(replace(DRAWN, repeats=((COPY, HELD_OUT),)))
    assert len(left) == 1 and not leak_named(left)
    assert leak_named([finding("split-leak", "alike by nature", "nothing", "note", rows=1)])
