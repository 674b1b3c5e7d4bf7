from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eyechart.data.reader import count_rows, read_rows
from eyechart.seam import Reject, RejectKind, Row
from tiny_rows import llava_row

ROWS = [llava_row(0), llava_row(1, caption="ein grünes Kreuz 🟩 十字"), llava_row(2)]


def as_list(rows: list[Any]) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def as_lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write(folder: Path, data: bytes, name: str = "data.json") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read_one(folder: Path, row: Any) -> Row | Reject:
    """Read `row` between two good ones, which must not be touched by it."""
    records, rejects = read_rows(write(folder, as_list([llava_row(0), row, llava_row(2)])))
    assert [r.row for r in [*records, *rejects] if r.row != 1] == [0, 2]
    (one,) = [r for r in [*records, *rejects] if r.row == 1]
    return one


FORMS = {
    "list": as_list(ROWS),
    "lines": as_lines(ROWS),
    "list with BOM": b"\xef\xbb\xbf" + as_list(ROWS),
    "lines with BOM": b"\xef\xbb\xbf" + as_lines(ROWS),
    "list with CRLF": as_list(ROWS).replace(b"\n", b"\r\n"),
    "lines with CRLF": as_lines(ROWS).replace(b"\n", b"\r\n"),
    "lines with blank lines and no last newline": b"\n" + as_lines(ROWS).replace(b"\n", b"\n\n").rstrip(),
    "gzipped list": gzip.compress(as_list(ROWS)),
    "gzipped lines with BOM": gzip.compress(b"\xef\xbb\xbf" + as_lines(ROWS)),
    "list in one line, escaped": json.dumps(ROWS).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_file_gives_the_same_records(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, FORMS[form])
    records, rejects = read_rows(path)
    assert rejects == []
    assert records == [
        Row(0, "000000000", "images/00000.png", "Describe the picture.\n<image>", "a red circle"),
        Row(1, "000000001", "images/00001.png", "Describe the picture.\n<image>", "ein grünes Kreuz 🟩 十字"),
        Row(2, "000000002", "images/00002.png", "Describe the picture.\n<image>", "a blue cross"),
    ]
    assert count_rows(path) == 3


def test_the_caption_is_stripped(tmp_path: Path) -> None:
    record = read_one(tmp_path, llava_row(1, caption=" \n a cat\t\n"))
    assert isinstance(record, Row) and record.caption == "a cat"


def test_a_list_with_one_image_is_one_image(tmp_path: Path) -> None:
    record = read_one(tmp_path, llava_row(1, image=["images/a.png"]))
    assert isinstance(record, Row) and record.image == "images/a.png"


def test_dots_in_a_file_name_do_not_leave_the_image_root(tmp_path: Path) -> None:
    record = read_one(tmp_path, llava_row(1, image="images/a..b/..c.png"))
    assert isinstance(record, Row) and record.image == "images/a..b/..c.png"


def test_string_number_missing_and_repeated_ids_are_accepted_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [llava_row(0, id="a"), llava_row(1, id=7), llava_row(2, id=None), llava_row(3, id="a"), llava_row(4, id="")]
    del (no_id := llava_row(5))["id"]
    with caplog.at_level(logging.WARNING):
        records, rejects = read_rows(write(tmp_path, as_list([*rows, no_id])))
    assert rejects == []
    assert [r.id for r in records] == ["a", "7", "2", "a", "4", "5"]
    assert "3 rows without an id" in caplog.text
    assert "1 ids are used by 2 rows, such as 'a'" in caplog.text


def test_clean_ids_are_not_talked_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_rows(write(tmp_path, as_list(ROWS)))
    assert caplog.text == ""


def turns(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"from": role, "value": value} for role, value in pairs]


BAD_ROWS: dict[str, tuple[Any, str]] = {
    "a string": ("abc", "row not an object"),
    "null": (None, "row not an object"),
    "a list": ([1, 2], "row not an object"),
    "no conversations": ({"id": "1", "image": "a.png"}, "no conversations"),
    "conversations are text": (llava_row(1) | {"conversations": "hello"}, "no conversations"),
    "no turn at all": (llava_row(1) | {"conversations": []}, "no human turn"),
    "no human turn": (llava_row(1) | {"conversations": turns(("gpt", "a cat"))}, "no human turn"),
    "no gpt turn": (llava_row(1) | {"conversations": turns(("human", "<image>"))}, "no gpt turn"),
    "a turn that is text": (llava_row(1) | {"conversations": ["<image>", "a cat"]}, "turn not an object"),
    "a human turn that is a number": (llava_row(1, human=3), "turn not text"),
    "answer before the question": (
        llava_row(1) | {"conversations": turns(("gpt", "a cat"), ("human", "<image>"))},
        "turns out of order",
    ),
    "two exchanges": (
        llava_row(1) | {"conversations": turns(("human", "<image>"), ("gpt", "a"), ("human", "b"), ("gpt", "c"))},
        "several exchanges",
    ),
    "no placeholder": (llava_row(1, human="Describe the picture."), "no <image> in the human turn"),
    "two placeholders, one image": (llava_row(1, human="<image><image>"), "more <image> than images"),
    "a placeholder and no image": (llava_row(1, image=None), "more <image> than images"),
    "neither placeholder nor image": (llava_row(1, human="Hello", image=None), "no image"),
    "a blank image path": (llava_row(1, image="  "), "no image"),
    "several images": (llava_row(1, human="<image><image>", image=["a.png", "b.png"]), "several images"),
    "an image path that is a number": (llava_row(1, image=12), "image not a path"),
    "an absolute path": (llava_row(1, image="/etc/passwd"), "image outside the image root"),
    "a path that climbs": (llava_row(1, image="images/../../secret.png"), "image outside the image root"),
    "a path that climbs in Windows' way": (llava_row(1, image="images\\..\\..\\a.png"), "image outside the image root"),
    "a path with a drive": (llava_row(1, image="C:\\a.png"), "image outside the image root"),
    "a path with a NUL": (llava_row(1, image="a\0.png"), "image outside the image root"),
    "caption null": (llava_row(1, caption=None), "caption null"),
    "caption blank": (llava_row(1, caption=" \n\t"), "caption blank"),
    "caption empty": (llava_row(1, caption=""), "caption blank"),
    "caption a number": (llava_row(1, caption=5), "caption not text"),
    "caption a list": (llava_row(1, caption=["a cat"]), "caption not text"),
    "an id that is a list": (llava_row(1, id=[1]), "id not text or number"),
    "an id that is a truth value": (llava_row(1, id=True), "id not text or number"),
    **{
        f"{token} in the caption": (llava_row(1, caption=f"a {token} cat"), "image token in caption")
        for token in ("<image>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
    },
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_an_unusable_row_is_rejected_with_its_own_reason(tmp_path: Path, case: str) -> None:
    row, reason = BAD_ROWS[case]
    reject = read_one(tmp_path, row)
    assert isinstance(reject, Reject)
    assert reject.reason == reason
    assert reject.detail and "\n" not in reject.detail and len(reject.detail) < 250


def test_every_reason_has_one_kind(tmp_path: Path) -> None:
    kinds = {
        "image outside the image root": RejectKind.UNUSABLE_FILE,
        "image not a path": RejectKind.UNUSABLE_FILE,
        "several images": RejectKind.IMAGE_COUNT,
        "more <image> than images": RejectKind.IMAGE_COUNT,
        "no image": RejectKind.IMAGE_COUNT,
        "no <image> in the human turn": RejectKind.NO_PLACEHOLDER,
        "image token in caption": RejectKind.IMAGE_IN_CAPTION,
        "several exchanges": RejectKind.SEVERAL_EXCHANGES,
        "turns out of order": RejectKind.SEVERAL_EXCHANGES,
        **dict.fromkeys(("caption null", "caption blank", "caption not text"), RejectKind.NO_CAPTION),
    }
    for row, reason in BAD_ROWS.values():
        reject = read_one(tmp_path, row)
        assert isinstance(reject, Reject) and reject.kind is kinds.get(reason, RejectKind.LAYOUT), reason


def test_a_number_out_of_range_and_a_byte_that_is_not_utf8_reject_their_row_alone(tmp_path: Path) -> None:
    good = json.dumps(llava_row(0)).encode()
    latin1 = json.dumps(llava_row(1, caption="gr\u00fcn"), ensure_ascii=False).encode("latin-1")
    huge = good.replace(b'"000000000"', b"1e999")
    key = good.replace(b"conversations", b"conver\xe7ations")
    records, rejects = read_rows(write(tmp_path, b"[" + b",".join([good, latin1, huge, key, good]) + b"]"))
    assert [r.row for r in records] == [0, 4]
    expected = [(1, "row not UTF-8"), (2, "row not readable"), (3, "row not UTF-8")]
    assert [(r.row, r.reason) for r in rejects] == expected
    assert "0xfc" in rejects[0].detail and "0xe7" in rejects[2].detail


def test_only_the_rows_asked_for_are_read_and_keep_their_indices(tmp_path: Path) -> None:
    rows = [llava_row(0), "bad", llava_row(2), llava_row(3), "bad"]
    records, rejects = read_rows(write(tmp_path, as_list(rows)), [4, 2, 0])
    assert [r.row for r in records] == [0, 2] and [r.row for r in rejects] == [4]
    assert read_rows(write(tmp_path, as_list(rows)), []) == ([], [])


@pytest.mark.parametrize("wanted", [[0, 3], [-1, 1]])
def test_a_row_that_is_not_in_the_file_is_refused(tmp_path: Path, wanted: list[int]) -> None:
    with pytest.raises(ValueError, match=r"data.json: rows -?\d to \d were requested, but the file has rows 0 to 2"):
        read_rows(write(tmp_path, as_list(ROWS)), wanted)


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"the file is empty \(0 bytes"),
    "white space": (b" \r\n\t", r"the file is empty \(4 bytes"),
    "only a BOM": (b"\xef\xbb\xbf", r"the file is empty"),
    "zero rows": (b"[]", r"zero rows"),
    "truncated list": (as_list(ROWS)[:200], r"ends at byte 200, in the middle of a value"),
    "truncated lines": (as_lines(ROWS)[:-30], r"line 3 \(from byte \d+\): the JSON ends"),
    "a syntax error": (b'[{"id": 1}, {id: 2}]', r"not valid JSON: .*\(byte 13\)"),
    "a syntax error after a BOM": (b'\xef\xbb\xbf[{"id": 1}, {id: 2}]', r"\(byte 13\), counted after the byte order"),
    "a syntax error in a line": (b'{"id": 1}\n{id: 2}\n', r"line 2 \(from byte 10\): not valid JSON"),
    "a NaN": (b"[NaN]", r"not valid JSON"),
    "an object": (b'{"data": []}', r"one object with the keys \['data'\]"),
    "an object over several lines": (b'{\n "data": []\n}', r"one object with the keys \['data'\]"),
    "a number": (b"42", r"not a list of rows"),
    "nested without end": (b"[" * 100_000, r"not valid JSON|JSON ends at"),
    "UTF-16": (json.dumps(ROWS).encode("utf-16"), r"not valid JSON"),
    "half a surrogate pair": (b'[{"id": "\\ud800 ab cd ef"}]', r"not valid JSON"),
    "truncated gzip": (gzip.compress(as_list(ROWS))[:-20], r"broken gzip file"),
    "damaged gzip": (b"\x1f\x8b" + b"nonsense" * 9, r"broken gzip file"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0", r"not valid JSON"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_broken_file_is_one_line_with_the_file_and_the_fault(tmp_path: Path, case: str) -> None:
    data, message = BAD_FILES[case]
    path = write(tmp_path, data)
    for reader in (read_rows, count_rows):
        with pytest.raises(ValueError, match=message) as caught:
            reader(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: no such data file \(the working directory is"):
        read_rows(tmp_path / "none.json")
    with pytest.raises(ValueError, match="is a folder"):
        count_rows(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["id", "image", "conversations"])
NEARLY = st.builds(lambda key, value: llava_row(1) | {key: value}, KEYS, JSON)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(JSON | NEARLY, min_size=1, max_size=5))
@example(rows=[llava_row(1) | {"conversations": [{"from": None, "value": 1}]}])
@example(rows=[{"png": False}])
def test_whatever_the_rows_are_each_is_a_record_or_a_reject(tmp_path: Path, rows: list[Any]) -> None:
    path = write(tmp_path, as_list([*rows, llava_row(2)]))
    # The key of the image is named, because a file in which two keys may be the image is refused as a whole.
    records, rejects = read_rows(path, range(len(rows)), layout="llava,image=image")
    assert sorted(r.row for r in [*records, *rejects]) == list(range(len(rows)))


def test_a_file_in_which_two_keys_may_be_the_image_is_refused_with_the_option_that_names_one(tmp_path: Path) -> None:
    path = write(tmp_path, as_list([{"png": False}, llava_row(2)]))
    with pytest.raises(
        ValueError, match=r"2 keys may be the image: image, png .* --layout or data.layout: llava,image="
    ):
        read_rows(path, range(1), layout="llava")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_gives_rows_or_one_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([as_list(ROWS), as_lines(ROWS)])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path, bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        records, rejects = read_rows(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert len(records) + len(rejects) == count_rows(path)
