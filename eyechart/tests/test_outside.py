"""What comes from outside is a regular file within its bounds, or one line that says why it is not read."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyechart.data.images import ImageError, ImageSpec, load_image
from eyechart.data.reader import open_rows
from eyechart.outside import bounds
from eyechart.outside.json_text import RepeatedKeyError, decode_row, parse_json, read_json
from eyechart.outside.patience import Patience
from eyechart.outside.regular import UnreadableError, open_regular, read_regular, refuse_odd_folder
from eyechart.outside.shown import short
from eyechart.outside.unpacking import PackedError, SmallReads, open_gzip
from eyechart.results import read
from tiny_rows import llava_row

MB = 2**20


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (pipe, "got a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "got a device"),
        (bound_socket, "got a socket"),
    ],
    ids=["a pipe", "a device", "a socket"],
)
def test_only_regular_files_are_opened_and_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 characters
    make(Path("a"))
    with pytest.raises(UnreadableError, match=f"^a: expected a regular file, {kind}$") as caught:
        read_regular("a", 100)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, OSError)


def test_a_link_to_a_regular_file_is_followed_and_a_folder_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "b", 4) == b"text"
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_file_above_its_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    os.truncate(path, 10**13)
    with pytest.raises(UnreadableError, match="a: 10,000,000,000,000 bytes, at most 5 are read"):
        read_regular(path, 5)


def test_a_file_without_a_size_is_read_to_its_bound() -> None:
    path = Path("/proc/self/maps")
    if not path.exists():
        pytest.skip("no files of the kernel here")
    assert path.stat().st_size == 0 and len(read_regular(path, MB)) > 100
    with pytest.raises(UnreadableError, match="at most 100 are read"):
        read_regular(path, 100)


def test_a_model_folder_has_regular_files_and_json_of_a_usual_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.pipe").parent.mkdir(exist_ok=True)
    pipe(tmp_path / "notes.pipe")
    refuse_odd_folder(tmp_path, 2)  # no library opens the pipe
    with pytest.raises(UnreadableError, match="config.json: 2 bytes, at most 1"):
        refuse_odd_folder(tmp_path, 1)
    pipe(tmp_path / "model.safetensors")
    with pytest.raises(UnreadableError, match="model.safetensors: .* a named pipe"):
        refuse_odd_folder(tmp_path, 2)


# --- gzip -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.binary(max_size=300_000), max_size=3), steps=st.lists(st.integers(0, 400_000), max_size=6))
def test_a_gzip_stream_reads_and_seeks_as_the_standard_library_does(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], steps: list[int]
) -> None:
    path = tmp_path_factory.mktemp("gzip") / "a.gz"
    path.write_bytes(b"".join(map(gzip.compress, parts or [b""])) + b"\0" * 5)
    whole = b"".join(parts)
    with open_gzip(path) as ours:
        assert ours.read() == whole
        for step in steps:
            ours.seek(step)
            assert ours.tell() == min(step, len(whole)) and ours.read(1000) == whole[step : step + 1000]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data[:30] + b"?" + data[31:], lambda d: d + b"x"]
)
def test_a_broken_gzip_file_is_an_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a.gz").write_bytes(damage(gzip.compress(os.urandom(100))))
    with pytest.raises(PackedError):
        open_gzip(tmp_path / "a.gz").read()


def test_a_file_may_unpack_to_a_hundred_times_its_size_and_small_ones_to_64_mb(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    member = gzip.compress(bytes(16 * MB), 1)
    path.write_bytes(member * 4)
    with open_gzip(path) as file:
        assert file.seek(10**9) == bounds.EXPANSION_FREE
    path.write_bytes(member * 5)
    with pytest.raises(UnreadableError, match="unpacks to more than 100 times its size, which is not read"):
        open_gzip(path).seek(80 * MB)


def test_a_large_header_of_an_archive_is_not_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.jpg")
    member.size, member.type = 4 * 2**30, tarfile.XHDTYPE
    path = tmp_path / "a.tar"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 4 * 2**30 + 1024)
    with pytest.raises(ValueError, match="a.tar: cannot read the archive .it has a header of 4,294,967,296 bytes"):
        open_rows(path)
    with pytest.raises(UnreadableError):
        SmallReads(open_regular(path), path).read()


# --- JSON -----------------------------------------------------------------------------------------------------------

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a:" \\', max_size=4), inner, max_size=3),
    max_leaves=10,
)


def written(value: Any, twice: list[str], colon: str) -> str:
    """A value as JSON; the first key of every object is written twice and noted."""
    if isinstance(value, dict) and value:
        pairs = [f"{json.dumps(key)}{colon}{written(item, twice, colon)}" for key, item in value.items()]
        twice.append(next(iter(value)))
        return f"{{{', '.join([*pairs, pairs[0]])}}}"
    return (
        f"[{', '.join(written(item, twice, colon) for item in value)}]"
        if isinstance(value, list)
        else json.dumps(value)
    )


@settings(max_examples=300, deadline=None)
@given(value=VALUES, colon=st.sampled_from([":", ": ", " : ", "\n:"]))
def test_a_key_that_occurs_twice_is_found_wherever_it_is_and_nothing_else_is(value: Any, colon: str) -> None:
    assert decode_row(json.dumps(value).encode()) == value
    twice: list[str] = []
    text = written(value, twice, colon).encode()
    if not twice:
        assert decode_row(text) == parse_json(text) == value
        return
    for parse in (decode_row, parse_json):
        with pytest.raises(RepeatedKeyError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"1," * 100 + b"1]", "about 101 values, at most 50"),
        (b"[NaN]", "NaN is not a number in JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' occurs twice in one object"),
        (b'"\xff"', "utf-8"),
    ],
)
def test_json_that_is_not_data_says_one_thing_in_few_values(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        parse_json(read_regular(tmp_path / "a.json", MB), 100_000 if b"[[" in text else 50)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1.5]}')
    assert read_json(tmp_path / "a.json") == {"a": [1.5]}


@pytest.mark.parametrize("change", ['"id": "other"', '"image" : "other.png"', '"conversations": []'])
def test_a_row_with_a_key_twice_is_rejected_by_that_name_and_its_number(tmp_path: Path, change: str) -> None:
    rows = [json.dumps(llava_row(row)) for row in range(3)]
    rows[1] = f"{{{change}, {rows[1][1:]}"
    path = tmp_path / "rows.json"
    path.write_text(f"[{', '.join(rows)}]")
    found, rejects = open_rows(path).read()
    assert [row.row for row in found] == [0, 2]
    assert [(reject.row, reject.reason) for reject in rejects] == [(1, "key twice")]
    assert "occurs twice in one object; delete one of them" in rejects[0].detail


def test_a_row_without_an_id_is_no_hiding_place_for_a_key_that_occurs_twice(tmp_path: Path) -> None:
    rows = [{key: value for key, value in llava_row(row).items() if key != "id"} for row in range(2)]
    text = json.dumps(rows).replace('{"image"', '{"image": "other.png", "image"', 1)
    (tmp_path / "rows.json").write_text(text)
    _, rejects = open_rows(tmp_path / "rows.json").read()
    assert [(reject.row, reject.reason) for reject in rejects] == [(0, "key twice")]


# --- bounds, images, lines ------------------------------------------------------------------------------------------


def test_the_size_of_data_files_is_bounded_and_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([llava_row(row) for row in range(8)]))
    monkeypatch.setenv(bounds.DATA_GB_VARIABLE, "1e-6")
    with pytest.raises(ValueError, match="at most 1,000 are read; split it into several files, or set EYECHART_MAX_"):
        open_rows(path)
    monkeypatch.setenv(bounds.DATA_GB_VARIABLE, "1e-5")
    assert len(open_rows(path)) == 8
    monkeypatch.setenv(bounds.DATA_GB_VARIABLE, "many")
    with pytest.raises(ValueError, match="EYECHART_MAX_DATA_GB: expected a number of gigabytes above 0, got 'many'"):
        open_rows(path)


@pytest.mark.parametrize(
    "content", [b" " * 2 * MB, bytes(2 * MB), b"[" * 2 * MB, b"x" * 2 * MB, b"[" + b"{}," * 6 * MB]
)
def test_a_large_file_of_something_else_is_recognised_before_it_is_parsed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(ValueError, match="rows.json: (not a JSON file of rows: |nested more than 200)") as caught:
        open_rows(tmp_path / "rows.json")
    assert len(str(caught.value)) < 300


def test_a_large_file_of_rows_is_read(tmp_path: Path) -> None:
    rows = json.dumps([llava_row(row) for row in range(100_000)])
    assert len(rows) > bounds.CHECKED_BYTES
    (tmp_path / "rows.json").write_text(rows)
    assert len(open_rows(tmp_path / "rows.json")) == 100_000


def test_a_lack_of_memory_is_never_called_damage_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    path, spec = tmp_path / "a.png", ImageSpec(16, 16, (0.5,) * 3, (0.5,) * 3, 2, 1 / 255)
    Image.new("RGB", (40, 40)).save(path)

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", no_memory)
    with pytest.raises(ImageError) as caught:
        load_image(path, spec, 10_000)
    assert caught.value.reason == "not enough memory" and "damaged" not in str(caught.value)


def test_results_with_a_key_twice_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"schema": 2, "verdict": "FAIL", "verdict": "PASS"}')
    with pytest.raises(ValueError, match="results.json: .*the key 'verdict' occurs twice"):
        read(tmp_path / "results.json")


def test_a_long_reading_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 3.0, 4.5, 5.0, 9.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    patience = Patience("reading rows.tar", "members")
    for count in (10, 2000, 3000, 4000):
        patience.tick(count)
    assert capsys.readouterr().err.splitlines() == [
        "reading rows.tar: 2,000 members so far",
        "reading rows.tar: 4,000 members so far",
    ]


@given(value=VALUES)
def test_what_is_shown_of_a_value_is_the_beginning_of_its_representation(value: Any) -> None:
    text = repr(value)
    assert short(value) == (text if len(text) <= 80 else f"{text[:77]}...") or "'" in text or '"' in text


@pytest.mark.parametrize(
    "make",
    [
        lambda: ["x" * 10**7] * 50,
        lambda: 10**10_000,
        lambda: b"x" * 10**7,
        lambda: [[[["deep"] * 500] * 500] * 500] * 500,
    ],
    ids=["texts", "a number", "bytes", "nested lists"],
)
def test_what_is_shown_of_a_large_value_is_one_short_line(make: Callable[[], object]) -> None:
    text = short(make())
    assert len(text) <= 80 and "\n" not in text


def test_a_value_that_contains_itself_is_shown_in_part() -> None:
    value: list[object] = []
    value.append(value)
    assert len(short(value)) == 80


def test_seeking_from_the_end_of_a_packed_file_is_not_possible(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"text"))
    with pytest.raises(io.UnsupportedOperation):
        open_gzip(tmp_path / "a.gz").seek(-1, os.SEEK_END)
