"""`eyechart rows DATA`: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eyechart.cli import main
from layout_files import CAPTIONS_ONLY, QUESTION, WITH_QUESTIONS, csv_captions, make_pairs, parquet

PAIRS = make_pairs(9)


def rows(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["rows", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_layout_keys_counts_and_three_rows_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = rows(capsys, parquet(tmp_path, PAIRS))
    assert (code, err) == (0, "")
    assert "rows.parquet: Parquet, layout messages: conversation from `messages`, image from `images`" in out
    assert "rows: 9, usable 9, rejected 0\nturns per row: 2 in 9\nimages per row: 1 in 9\n" in out
    assert [line for line in out.splitlines() if line.startswith("row ")] == [
        "row 0 (id 0)",
        "row 4 (id 4)",
        "row 8 (id 8)",
    ]
    assert f"  image 1: rows.parquet::images/0@4: 24x24 pixels, PNG\n  user: <image>{QUESTION}\n" in out
    assert f"  assistant: {PAIRS[4].caption}\n" in out


def test_rejected_rows_and_unread_keys_are_shown_with_their_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = csv_captions(tmp_path, PAIRS)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([f"{lines[0]};width", *(f"{line};24" for line in lines[1:-2]), "x.png;a;1", "y.png;;1"]))
    (tmp_path / PAIRS[0].name).write_bytes(b"no image")
    code, out, _ = rows(capsys, path)
    assert code == 0
    assert "keys that are not read: width" in out
    assert "rows: 9, usable 7, rejected 2\n  image missing: 1\n  caption null: 1\n" in out
    assert "row 7: image missing (" in out and "row 8: caption null (" in out
    assert f"image 1: {PAIRS[0].name}: not an image: expected one of " in out


def test_rows_that_score_and_stage_1_do_not_read_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": role, "content": "text"} for role in ("user", "assistant", "user", "assistant")]
    (tmp_path / "a.jsonl").write_text(f"{json.dumps({'messages': turns})}\n{json.dumps({'messages': turns[:2]})}\n")
    code, out, _ = rows(capsys, tmp_path / "a.jsonl")
    assert code == 0 and "turns per row: 2 in 1, 4 in 1\nimages per row: 0 in 2\n" in out
    assert "read 0 of them, with one image, one question and one answer; they reject the others: no image 2" in out


def test_json_has_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = rows(capsys, CAPTIONS_ONLY["side files"](tmp_path, PAIRS), "--json")
    report: dict[str, Any] = json.loads(out)
    assert code == 0 and (report["kind"], report["layout"], report["rows"]) == ("side files", "captions", 9)
    assert report["shown"][2]["turns"] == [["user", "<image>"], ["assistant", PAIRS[8].caption]]
    assert report["shown"][2]["images"][0]["image"] == f"nested/{PAIRS[8].name}"


def test_texts_of_the_data_cannot_affect_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"image": "a\x1b[2J.png", "caption": "red \x1b[31m \u202e", "x\x1b[1m": 1}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(row)}\n")
    (tmp_path / "a\x1b[2J.png").write_bytes(PAIRS[0].data)
    code, out, _ = rows(capsys, tmp_path / "a.jsonl")
    assert code == 0 and "\x1b" not in out and "\u202e" not in out and "red <U+001B>[31m <U+202E>" in out


@pytest.mark.parametrize("image_root", ["set/pictures", "."])
def test_the_folder_of_the_images_is_found_near_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, image_root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "set" / "pictures" / "a.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(PAIRS[0].data)
    image = picture.relative_to(tmp_path / image_root)
    (tmp_path / "set" / "rows.csv").write_text(f"image,caption\n{image},a cat\n")
    code, _, err = rows(capsys, "set/rows.csv")
    found = err.rpartition("set --image_root to ")[2].strip()
    assert code == 2 and Path(found).resolve() == (tmp_path / image_root).resolve()
    assert rows(capsys, "set/rows.csv", "--image_root", found)[0] == 0


@pytest.mark.parametrize("case", ["unknown layout", "no such data", "images elsewhere", "no such image root"])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    path = WITH_QUESTIONS["llava"](tmp_path, PAIRS)
    arguments, message = {
        "unknown layout": ((path, "--layout", "lava"), "layout: expected auto, one of llava, "),
        "no such data": ((tmp_path / "none.json",), "no such data file"),
        "images elsewhere": (
            (path, "--image-root", tmp_path.parent),
            f"none of its 9 rows can be used: image missing 9; set --image_root to {tmp_path}\n",
        ),
        "no such image root": ((path, "--image_root", tmp_path / "none"), "is not a folder"),
    }[case]
    code, _, err = rows(capsys, *arguments)
    assert code == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1
