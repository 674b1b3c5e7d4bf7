"""What is wrong with rows is named from plain values, and by `eyechart rows` on rows of any layout."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyechart.api.check_rows import check_rows
from eyechart.cli import main
from eyechart.faults.rows_captions import diagnose_captions, diagnose_held_out, diagnose_ids, diagnose_requests
from eyechart.faults.rows_pictures import diagnose_equal_pixels
from eyechart.faults.rows_rejected import _FAULT_OF, _SAYS
from eyechart.faults.rows_shares import severity_by_share
from eyechart.faults.table import FAULTS
from eyechart.results import Finding
from eyechart.rows import RejectKind, Row

COLOURS, SHAPES = ("red", "green", "blue", "grey", "pink"), ("circle", "square", "cross", "star", "ring", "line")


def caption(row: int) -> str:
    return f"A {COLOURS[row % 5]} {SHAPES[row % 6]} in place {row}"


def codes(found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in found]


def picture(seed: int, side: int = 48) -> Image.Image:
    """Smooth, so that it survives being saved again."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def write(folder: Path, rows: list[dict[str, Any]], pictures: Callable[[int], Image.Image] = picture) -> Path:
    """A data set; rows get an id, an image of their own and a caption where they do not bring one."""
    folder.mkdir(exist_ok=True)
    for row, given in enumerate(rows):
        given.update({"id": f"n{row}", "image": f"{row}.png", "caption": caption(row)} | given)
        if not (folder / given["image"]).exists():
            pictures(row).save(folder / given["image"])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "rows.jsonl"


def empty(count: int = 40) -> list[dict[str, Any]]:
    return [{} for _ in range(count)]


def test_sound_rows_and_sound_held_out_rows_raise_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "train", empty())
    other = write(tmp_path / "other", empty(12), lambda row: picture(1000 + row))
    assert check_rows(data, held_out=other)[1] == [], "files of the same names in another folder are other files"


@pytest.mark.parametrize("sampled", [True, False])
def test_a_single_row_is_never_a_share(sampled: bool) -> None:
    assert severity_by_share(1, 8, 0.01, sampled) == "warning"
    assert severity_by_share(2, 8, 0.01, sampled) == "error"
    assert severity_by_share(2, 8, 0.5, sampled) == "warning"
    assert severity_by_share(1, 8, 0.0, sampled) == "error", "none is allowed"
    assert severity_by_share(1, 1, 0.01, sampled) == "error", "there is no other row"


def test_two_bad_rows_of_a_hundred_that_were_drawn_do_not_show_that_one_percent_is_bad() -> None:
    assert severity_by_share(2, 100, 0.01) == "error"
    assert severity_by_share(2, 100, 0.01, sampled=True) == "warning"


def test_a_caption_under_every_fourth_row_is_a_warning_and_under_every_tenth_is_not() -> None:
    def found(every: int) -> list[Finding]:
        return [*diagnose_captions(["a picture" if row % every == 0 else caption(row) for row in range(60)])]

    assert codes(found(4)) == [("captions-degenerate", "warning")]
    assert found(4)[0].evidence["top"]["a picture"] == 15
    assert found(10) == []


def test_held_out_captions_of_another_language_or_case_are_named() -> None:
    train, german = [caption(row) for row in range(40)], ["Zwei Katzen schlafen neben dem Ofen"] * 10
    (language,) = diagnose_held_out(train, german)
    (case,) = diagnose_held_out(train, [text.upper() for text in train[:12]])
    assert language.evidence == {"words": 60, "unheard": 60} and "'zwei'" in language.message
    assert case.code == "held-out-differs" and case.evidence["in_another_case"] > 30
    assert [*diagnose_held_out(train, train[:12])] == []


def test_an_answer_in_its_own_request_is_a_leak_and_a_list_of_all_answers_is_none() -> None:
    every = "; ".join(caption(row) for row in range(20))
    hinted = [Row(i, str(i), "", f"<image> Is it {caption(i).upper()}?", caption(i)) for i in range(20)]
    listed = [Row(i, str(i), "", f"<image> One of {every}", caption(i)) for i in range(20)]
    assert codes([*diagnose_requests(hinted, 0.01)]) == [("leak", "error")]
    assert [*diagnose_requests(listed, 0.01)] == []


def test_every_kind_of_reject_is_a_fault_of_the_table_or_none() -> None:
    assert set(_FAULT_OF) == set(RejectKind)
    assert {fault for fault in _FAULT_OF.values() if fault} == set(_SAYS) <= set(FAULTS)


def test_ids_that_name_the_files_of_other_rows_are_mismatched_pairs() -> None:
    rows = [Row(i, f"{i:03d}", f"images/{(i + 1) % 30:03d}.jpg", "", caption(i)) for i in range(30)]
    assert codes([*diagnose_ids(rows)]) == [("pairs-mismatched", "error")]
    assert [*diagnose_ids([Row(i, f"{i:03d}", f"images/{i:03d}.jpg", "", "") for i in range(30)])] == []


def test_pixels_that_many_training_rows_show_are_no_leak_but_those_of_one_are() -> None:
    train = [*(f"own {i}" for i in range(50)), *["not available"] * 10, ""]
    assert [*diagnose_equal_pixels(train, ["not available", "new", ""], 0.01)] == []
    (leak,) = diagnose_equal_pixels(train, ["not available", "own 3", "new"], 0.01)
    assert leak.code == "split-leak" and leak.evidence == {"rows": 1, "of": 3}


def blank(row: int) -> Image.Image:
    return Image.new("RGB", (48, 48), (row, 7, 200)) if row % 2 else picture(row)


def same(row: int) -> Image.Image:
    made = picture(0)
    made.info["row"] = row
    return made


@pytest.mark.parametrize(
    ("rows", "pictures", "found"),
    [
        ([{"caption": "a picture"} for _ in range(40)], picture, [("captions-degenerate", "warning")]),
        ([{"id": "7"} for _ in range(40)], picture, [("duplicate-ids", "warning")]),
        ([{"image": f"{row // 20}.png"} for row in range(40)], picture, [("images-degenerate", "warning")]),
        (empty(), same, [("images-degenerate", "error")]),
        (empty(), blank, [("images-degenerate", "warning")]),
    ],
    ids=["captions", "ids", "one file for many rows", "one picture in many files", "blank pictures"],
)
def test_what_is_wrong_with_rows_is_named(
    tmp_path: Path, rows: list[Any], pictures: Callable[[int], Image.Image], found: list[tuple[str, str]]
) -> None:
    assert codes(check_rows(write(tmp_path / "data", rows, pictures))[1]) == found


def test_short_answers_to_many_questions_are_equal_by_nature(tmp_path: Path) -> None:
    rows = [{"question": f"Is there a {caption(row)}?", "answer": "yes" if row % 2 else "no"} for row in range(40)]
    for row in rows:
        row["caption"] = ""
    assert check_rows(write(tmp_path / "data", rows))[1] == []


def test_images_that_cannot_be_opened_are_counted(tmp_path: Path) -> None:
    data = write(tmp_path / "data", empty())
    for row in (3, 9, 20):
        (tmp_path / "data" / f"{row}.png").write_bytes(b"<html>404</html>")
    (found,) = check_rows(data)[1]
    assert (found.code, found.severity) == ("images-unreadable", "error")
    assert found.evidence["rows"] == 3 and found.evidence["first_rows"] == [3, 9, 20]


def test_rejected_rows_are_named_by_their_fault(tmp_path: Path) -> None:
    data = write(tmp_path / "data", [{"caption": " "} if row % 4 == 0 else {} for row in range(40)])
    (tmp_path / "data" / "5.png").unlink()
    assert codes(check_rows(data)[1]) == [("no-labels", "error"), ("images-unreadable", "warning")], "one is no share"


def saved_again(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return Image.open(buffer)


@pytest.mark.parametrize(
    ("how", "by_bytes"), [(lambda image: image, 12), (saved_again, None)], ids=["copied", "saved again"]
)
def test_held_out_pictures_that_are_trained_on_are_a_leak(
    tmp_path: Path, how: Callable[[Any], Image.Image], by_bytes: int | None
) -> None:
    data = write(tmp_path / "train", empty())
    other = write(tmp_path / "other", empty(12), lambda row: how(picture(row)))
    (found,) = check_rows(data, held_out=other)[1]
    assert (found.code, found.severity) == ("split-leak", "error")
    assert found.evidence.get("same_bytes") == by_bytes
    assert found.evidence["rows"] >= (by_bytes or 6), "most of the twelve"


def test_findings_are_printed_after_the_rows_and_are_in_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", [{"caption": "a \x1b[31m picture"} for _ in range(40)])
    assert main(["rows", str(data)]) == 0, "rows can be used"
    out = capsys.readouterr().out
    assert "checks of the rows: 1 warning\nwarning captions-degenerate: all 40 rows have the same caption" in out
    assert "\n  Fix: check how captions were made" in out and "\x1b" not in out
    assert "\n  docs/faults/captions-degenerate.md\n" in out
    assert main(["rows", str(data), "--json", "--held-out", str(data)]) == 0
    assert [f["code"] for f in json.loads(capsys.readouterr().out)["findings"]] == [
        "split-leak",
        "captions-degenerate",
    ]


def test_rows_are_checked_without_torch(tmp_path: Path) -> None:
    data = write(tmp_path / "data", empty())
    code = "import sys; sys.modules['torch'] = None; from eyechart.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "rows", str(data)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "checks of the rows: no fault found" in done.stdout, done.stderr
