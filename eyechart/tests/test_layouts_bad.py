"""Rows and files that cannot be used as they are: each has a true reason, or one line that says what to do."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eyechart import stored
from eyechart.data import tars
from eyechart.data.images import ImageError, ImageSpec, load_image
from eyechart.data.reader import count_rows, open_rows, read_rows
from eyechart.exits import InputError
from eyechart.outside import bounds
from eyechart.rows import Reject, RejectKind, Row, Turn
from layout_files import (
    CAPTIONS_ONLY,
    IMAGE,
    QUESTION,
    arrow,
    csv_captions,
    make_pairs,
    openai_base64,
    parquet,
    parquet_shards,
    tar_captions,
    tar_gz,
    write_images,
)

PAIRS = make_pairs(4)
SPEC = ImageSpec(24, 24, (0.5,) * 3, (0.5,) * 3, 2, 1 / 255)
GOOD: dict[str, Any] = {
    "messages": [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "A"}],
    "images": ["a.png"],
}


def turns(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


def part(**image: Any) -> list[dict[str, Any]]:
    return [{"type": "image", **image}, {"type": "text", "text": "Q"}]


def one(folder: Path, row: dict[str, Any], **options: Any) -> Row | Reject:
    """Read a row after a good one."""
    path = folder / "rows.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(row)}\n", encoding="utf-8")
    rows, rejects = open_rows(path, **options).read()
    (found,) = [item for item in [*rows, *rejects] if item.row == 1]
    return found


SYSTEM = {"role": "system", "content": "Be brief."}
ROWS: dict[str, tuple[dict[str, Any], tuple[str, ...], list[tuple[str | int, ...]]]] = {
    "two exchanges": (
        {"messages": turns("<image>\nQ", "A", "B", "C"), "images": ["a.png"]},
        ("a.png",),
        [(0, "Q"), ("A",), ("B",), ("C",)],
    ),
    "two images, one in each question": (
        {"messages": turns("<image>Q", "A", "And <image>?", "C"), "images": ["a.png", "b.png"]},
        ("a.png", "b.png"),
        [(0, "Q"), ("A",), ("And", 1, "?"), ("C",)],
    ),
    "parts that name their images": (
        {"messages": turns([*part(path="a.png"), *part(image="b.png")], "A")},
        ("a.png", "b.png"),
        [(0, "Q", 1, "Q"), ("A",)],
    ),
    "images that no text refers to": (
        {"messages": turns("Compare.", "A"), "images": ["a.png", "b.png"]},
        ("a.png", "b.png"),
        [(0, 1, "Compare."), ("A",)],
    ),
    "no image": ({"messages": turns("Hello", "A"), "images": []}, (), [("Hello",), ("A",)]),
    "a system turn": (
        {"messages": [SYSTEM, *turns("<image>Q", "A")], "images": ["a.png"]},
        ("a.png",),
        [("Be brief.",), (0, "Q"), ("A",)],
    ),
    "a system text": (
        {"messages": turns("<image>Q", " A "), "images": "a.png", "system": "Be brief."},
        ("a.png",),
        [("Be brief.",), (0, "Q"), ("A",)],
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_turns_and_images_of_every_kind_of_row_are_kept_in_order(tmp_path: Path, case: str) -> None:
    row, images, parts = ROWS[case]
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(GOOD | {'system': None})}\n{json.dumps(row)}\n", encoding="utf-8")
    (_, found), rejects = open_rows(path).read()
    assert not rejects and found.images == images
    roles = ["system"] * (len(parts) % 2) + ["user", "assistant"] * (len(parts) // 2)
    assert found.turns == tuple(Turn(role, given) for role, given in zip(roles, parts, strict=True))


def test_rows_of_other_kinds_are_rejects_for_what_reads_single_pairs(tmp_path: Path) -> None:
    rows = [row for row, *_ in ROWS.values()]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    found, rejects = read_rows(path)
    assert found == []
    assert [reject.reason for reject in rejects] == [
        "several exchanges",
        "several exchanges",
        "several images",
        "several images",
        "no image",
        "system turn",
        "system turn",
    ]


def test_several_exchanges_and_images_in_llavas_layout_are_rows_too(tmp_path: Path) -> None:
    said = [("human", "<image>\nQ\n<image>"), ("gpt", "A"), ("human", "B"), ("gpt", "C ")]
    row = {
        "id": 7,
        "image": ["a.png", "b.png"],
        "conversations": [{"from": role, "value": text} for role, text in said],
    }
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    ((found,), rejects) = open_rows(tmp_path / "rows.json").read()
    assert not rejects and found.id == "7" and found.images == ("a.png", "b.png")
    assert [turn.parts for turn in found.turns] == [(0, "Q", 1), ("A",), ("B",), ("C",)]


UNUSABLE: dict[str, tuple[dict[str, Any], str, RejectKind]] = {
    "a URL": ({"messages": turns(part(url="https://x.org/a.png"), "A")}, "image is a URL", RejectKind.UNUSABLE_FILE),
    "a path that climbs": (GOOD | {"images": ["../a.png"]}, "image outside the image root", RejectKind.UNUSABLE_FILE),
    "an absolute path": (GOOD | {"images": ["/etc/passwd"]}, "image outside the image root", RejectKind.UNUSABLE_FILE),
    "an absolute path as a URL": (
        GOOD | {"images": ["file:///etc/passwd"]},
        "image outside the image root",
        RejectKind.UNUSABLE_FILE,
    ),
    "an image that is a number": (GOOD | {"images": [3]}, "image not a path", RejectKind.UNUSABLE_FILE),
    "more places than images": (GOOD | {"images": []}, "more <image> than images", RejectKind.IMAGE_COUNT),
    "fewer places than images": (
        GOOD | {"images": ["a.png", "b.png"]},
        "fewer <image> than images",
        RejectKind.IMAGE_COUNT,
    ),
    "a part with two images": (
        {"messages": turns(part(path="a.png", url="b.png"), "A")},
        "image part not clear",
        RejectKind.UNUSABLE_FILE,
    ),
    "a video": ({"messages": turns([{"type": "video"}], "A")}, "part not supported", RejectKind.LAYOUT),
    "a tool": ({"messages": [{"role": "tool", "content": "x"}]}, "role not supported", RejectKind.LAYOUT),
    "no answer": ({"messages": turns("Q")}, "no assistant turn", RejectKind.LAYOUT),
    "a question at the end": ({"messages": turns("Q", "A", "B")}, "turns out of order", RejectKind.SEVERAL_EXCHANGES),
    "an answer without text": (
        {"messages": turns("<image>", " "), "images": ["a.png"]},
        "caption blank",
        RejectKind.NO_CAPTION,
    ),
    "an answer that is null": (
        {"messages": turns("<image>", None), "images": ["a.png"]},
        "caption null",
        RejectKind.NO_CAPTION,
    ),
    "an image in an answer": (
        {"messages": turns("Q", part(path="a.png"))},
        "image token in caption",
        RejectKind.IMAGE_IN_CAPTION,
    ),
    "messages that are text": ({"messages": "hello"}, "no messages", RejectKind.LAYOUT),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_row_of_any_layout_is_rejected_with_its_own_reason(tmp_path: Path, case: str) -> None:
    row, reason, kind = UNUSABLE[case]
    reject = one(tmp_path, row)
    assert isinstance(reject, Reject) and (reject.reason, reject.kind) == (reason, kind)
    assert reject.detail and "\n" not in reject.detail and len(reject.detail) < 250


def test_images_named_twice_are_not_chosen_from(tmp_path: Path) -> None:
    reject = one(tmp_path, GOOD | {"image": "b.png"})
    assert isinstance(reject, Reject) and reject.reason == "images named twice"


def test_an_absolute_path_below_the_image_root_is_that_image(tmp_path: Path) -> None:
    row = one(tmp_path, GOOD | {"images": [str(tmp_path / "x" / "a.png")]}, image_root=tmp_path)
    assert isinstance(row, Row) and row.image == "x/a.png"


def text_file(name: str, content: str | bytes) -> Any:
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def several(*writers: Any) -> Any:
    def write(folder: Path) -> Path:
        for writer in writers:
            writer(folder)
        return folder

    return write


FILES: dict[str, tuple[Any, str]] = {
    "unknown columns": (
        text_file("a.csv", "picture,title\nx.jpg,a cat\n"),
        r"no layout fits: the keys found are picture, title, not understood: picture, title; considered llava .*"
        r"captions \(.*such as captions,image=picture,caption=title$",
    ),
    "one unknown column": (text_file("a.csv", "image,title\nx.jpg,a\n"), r"not understood: title; .*caption=title$"),
    "two captions": (
        text_file("a.csv", "image,caption,text\nx.jpg,a,b\n"),
        r"layout captions: 2 keys may be the caption: caption, text .*name one .* captions,caption=caption$",
    ),
    "two conversations": (
        text_file("a.jsonl", json.dumps({"messages": turns("a", "b"), "conversations": [{"from": "human"}]})),
        r"2 layouts fit: .*messages.*--layout",
    ),
    "a table without header": (text_file("a.csv", "x.jpg,a red cat\n"), "the first line names no columns"),
    "a header only": (text_file("a.csv", "image,caption\n"), "no rows after the first line"),
    "the same column twice": (text_file("a.csv", "image,caption,image\na,b,c\n"), "columns with the same name"),
    "an empty table": (text_file("a.csv", ""), "the file is empty"),
    "a table in Latin-1": (text_file("a.csv", "image,caption\na.jpg,gr\xfcn\n".encode("latin-1")), "not UTF-8; save"),
    "an open quote": (text_file("a.csv", 'image,caption\na.jpg,"b\n'), "not a readable CSV file"),
    "a broken Parquet file": (text_file("a.parquet", b"PAR1" + b"x" * 99), "not a readable Parquet file"),
    "a broken Arrow file": (text_file("a.arrow", b"\xff\xff\xff\xff" + b"x" * 99), "not a readable Arrow file"),
    "a broken archive": (text_file("a.tar", b"x" * 2000), "cannot read the archive"),
    "an archive of nothing": (text_file("a.tar", b"\0" * 10240), "no members of a WebDataset"),
    "an archive packed with bzip2": (text_file("a.tar", b"BZh9" + b"x" * 999), "bzip2 or xz are not read"),
    "an empty folder": (several(), "is a folder without a data set"),
    "two data files": (
        several(text_file("a.csv", "image,caption\na,b\n"), text_file("b.jsonl", "{}")),
        "is a folder with 2 data sets: a.csv, b.jsonl; name one file",
    ),
    "two splits": (
        several(
            lambda folder: parquet_shards(folder, PAIRS * 5),
            lambda folder: (folder / "data/train-00000-of-00002.parquet").rename(folder / "data/test-00000.parquet"),
        ),
        r"has files of 2 splits: test, train; name one, such as .*data/test\*\.parquet",
    ),
    "splits saved to disk": (
        several(text_file("dataset_dict.json", '{"splits": ["train", "test"]}')),
        r"has the splits \['train', 'test'\]; name one of them",
    ),
    "a state that climbs": (
        several(text_file("state.json", '{"_data_files": [{"filename": "../a.arrow"}]}')),
        "expected the names of files",
    ),
    "a pattern without files": (lambda folder: folder / "*.parquet", "matches 0 files"),
}


@pytest.mark.parametrize("case", FILES)
def test_data_that_is_not_understood_is_one_line_with_what_to_do(tmp_path: Path, case: str) -> None:
    write, message = FILES[case]
    path = write(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        count_rows(path)
    assert "\n" not in str(caught.value) and caught.value.fix


@pytest.mark.parametrize("choice", ["captoins", "caption", "kaption=a", "captions,llava", "caption="])
def test_a_layout_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path, choice: str) -> None:
    path = text_file("a.csv", "image,caption\na,b\n")(tmp_path)
    with pytest.raises(InputError, match=r"expected auto, one of llava, .*, or pairs such as caption=title"):
        read_rows(path, layout=choice)


def test_a_named_key_that_no_row_has_is_refused(tmp_path: Path) -> None:
    path = text_file("a.csv", "image,caption\na,b\n")(tmp_path)
    with pytest.raises(InputError, match=r"no row has the key of caption=title; the rows have image, caption"):
        read_rows(path, layout="caption=title")
    with pytest.raises(InputError, match=r"no layout fits: .*considered messages"):
        read_rows(path, layout="messages")


def test_named_keys_are_read(tmp_path: Path) -> None:
    path = text_file("a.tsv", "picture\ttitle\ttext\nx.jpg\ta cat\tb\n")(tmp_path)
    (row,), rejects = read_rows(path, layout="captions,image=picture,caption=title")
    assert not rejects and (row.image, row.caption, row.human) == ("x.jpg", "a cat", "<image>")


def test_a_text_with_a_comma_outside_quotes_rejects_its_row_alone(tmp_path: Path) -> None:
    path = text_file("a.csv", "image,caption\na.jpg,a cat, asleep\nb.jpg,a dog\nc.jpg,\n")(tmp_path)
    rows, rejects = read_rows(path)
    assert [row.row for row in rows] == [1]
    assert [reject.reason for reject in rejects] == ["wrong number of columns", "caption null"]


def test_images_without_a_text_are_rejects_and_keep_their_place(tmp_path: Path) -> None:
    CAPTIONS_ONLY["side files"](tmp_path, PAIRS)
    (tmp_path / "nested" / "0001.txt").unlink()
    (tmp_path / "nested" / "0002.txt").write_bytes(b"gr\xfcn")
    (tmp_path / "nested" / "0003.caption").write_text("another")
    rows, rejects = read_rows(tmp_path)
    assert [row.row for row in rows] == [0]
    assert [reject.reason for reject in rejects] == ["image without text", "row not UTF-8", "several texts"]


def add(tar: tarfile.TarFile, name: str, data: bytes = b"a cat", **changes: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def test_archive_members_that_are_links_or_too_large_are_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "MAX_BYTES", 3000)
    monkeypatch.setattr(tars, "_MAX_TEXT", 50)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "../../0.jpg", PAIRS[0].data)
        add(tar, "../../0.txt")
        add(tar, "1.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "1.txt")
        add(tar, "2.jpg", b"x" * 4000)
        add(tar, "2.txt")
        add(tar, "3.jpg")
        add(tar, "3.txt", b"x" * 60)
        add(tar, "4.jpg")
        add(tar, "4.json", b"[1]")
        add(tar, "5.jpg")
        add(tar, "6.txt")
    rows, rejects = read_rows(tmp_path / "a.tar", image_root=tmp_path)
    assert [row.row for row in rows] == [0] and load_image(rows[0].path, SPEC, 10**6).shape == (3, 24, 24)
    assert [reject.reason for reject in rejects] == [
        "member not a file",
        "image too large",
        "text too large",
        "row not an object",
        "caption null",
        "no image",
    ]


def rejected(row: Row, max_pixels: int = 10**6) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(row.path, SPEC, max_pixels)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_images_inside_files_are_checked_as_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [PAIRS[0].data, b"", None, b"no image", PAIRS[0].data[:500]]
    images = pa.array([{"bytes": cell, "path": "a.png"} for cell in cells], IMAGE)
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"image": images, "caption": list("abcde")}), path)
    rows, _ = read_rows(path, image_root=tmp_path)
    assert [rejected(row) for row in rows[1:]] == ["image empty", "image unreadable", "not an image", "image truncated"]
    assert rejected(rows[0], max_pixels=9) == "image too large"
    monkeypatch.setattr(stored, "MAX_BYTES", 100)
    assert rejected(rows[0]) == "image unreadable"
    path.unlink()
    assert rejected(rows[0]) == "image missing"


def test_a_file_that_changes_after_its_rows_were_read_is_an_unreadable_image(tmp_path: Path) -> None:
    for path in (tar_captions(tmp_path, PAIRS), tar_gz(tmp_path, PAIRS), openai_base64(tmp_path, PAIRS)):
        rows, _ = read_rows(path, image_root=tmp_path)
        load_image(rows[3].path, SPEC, 10**6)
        path.write_bytes(path.read_bytes()[:400])
        assert rejected(rows[3]) in ("image unreadable", "image damaged", "image truncated")


def test_text_that_is_not_base64_rejects_its_image(tmp_path: Path) -> None:
    row = one(tmp_path, {"messages": turns(part(base64="@@ no base64 @@"), "A")}, image_root=tmp_path)
    assert isinstance(row, Row) and rejected(row) == "image unreadable"


def test_base64_text_of_the_right_row_is_read_among_equal_beginnings(tmp_path: Path) -> None:
    images = [base64.b64encode(pair.data).decode() for pair in PAIRS]
    rows = [{"messages": turns(part(base64=image), "A")} for image in images]
    (tmp_path / "rows.json").write_text(f" [ \n{' , '.join(json.dumps(row) for row in rows)} ]", encoding="utf-8")
    found, _ = read_rows(tmp_path / "rows.json")
    assert [stored.image_bytes(row.path) for row in found] == [pair.data for pair in PAIRS]
    assert [stored.image_size(row.path) for row in found] == pytest.approx([len(p.data) for p in PAIRS], abs=2)


def test_a_data_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b" " * 10**6))
    monkeypatch.setenv(bounds.DATA_GB_VARIABLE, "0.0001")
    with pytest.raises(ValueError, match="unpacks to more than 100,000 bytes"):
        count_rows(tmp_path / "a.json.gz")


def test_the_bytes_of_images_are_not_held_in_memory(tmp_path: Path) -> None:
    pairs = make_pairs(4, side=200)
    size = sum(len(pair.data) for pair in pairs)
    tracked = open_rows(parquet(tmp_path, pairs), image_root=tmp_path)
    held = sum(table._table.nbytes for table in tracked.records._tables)  # type: ignore[attr-defined]
    assert size > 400_000 and held < 5_000


def test_a_row_group_that_states_too_many_bytes_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = read_rows(parquet(tmp_path, PAIRS), image_root=tmp_path)
    monkeypatch.setattr(stored, "MAX_GROUP_BYTES", 1000)
    stored._row_group.cache_clear()
    assert rejected(rows[0]) == "image unreadable"


def test_tables_of_every_shape_give_their_images(tmp_path: Path) -> None:
    write_images(tmp_path, PAIRS)
    images = [pair.data for pair in PAIRS[:2]]
    bare = pa.struct([("bytes", pa.large_binary())])
    shapes = {
        "a list of bytes": pa.array([images, images[:1]], pa.list_(pa.binary())),
        "a list of structs without a path": pa.array([[{"bytes": i} for i in images]] * 2, pa.large_list(bare)),
        "structs of which only the path is given": pa.array(
            [[{"bytes": None, "path": pair.name} for pair in PAIRS[:2]]] * 2, pa.list_(IMAGE)
        ),
        "paths": pa.array([[pair.name for pair in PAIRS[:2]]] * 2, pa.list_(pa.string())),
    }
    for column in shapes.values():
        captions = pa.array(["a", "b"]).dictionary_encode()
        table = pa.table({"a.b/c": column, "caption": captions, "in.id": pa.array([[b"x"]] * 2)})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        for name in ("a.parquet", "a.arrow"):
            opened = open_rows(tmp_path / name, "captions,image=a.b/c", tmp_path)
            rows, rejects = opened.read()
            assert not rejects and [row.caption for row in rows] == ["a", "b"]
            assert [stored.image_bytes(tmp_path / image) for image in rows[0].images] == images


DAMAGED = {"Parquet": parquet, "Arrow": arrow, "tar": tar_captions, "gzipped tar": tar_gz, "CSV": csv_captions}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_gives_rows_rejects_or_one_line(tmp_path: Path, kind: str) -> None:
    path = DAMAGED[kind](tmp_path, PAIRS)
    data = path.read_bytes()
    for seed in range(30):
        draw = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.randrange(len(damaged)) if seed % 3 == 0 else None])
        try:
            opened = open_rows(path, image_root=tmp_path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            continue
        rows, rejects = opened.read()
        assert len(rows) + len(rejects) == len(opened)
        for row in rows:
            with contextlib.suppress(ImageError):
                load_image(row.path, SPEC, 10**6)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["<image>", "a.png", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "image", "role", "content", "path"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(["messages", "images", "id", "system", "history"]), VALUES)))
def test_whatever_a_row_holds_it_is_a_row_or_a_reject(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD, *rows]), encoding="utf-8")
    found, rejects = open_rows(path, "messages").read()
    assert sorted(item.row for item in [*found, *rejects]) == list(range(len(rows) + 1))


def test_a_path_with_the_mark_of_addresses_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a::b"
    folder.mkdir()
    with pytest.raises(InputError, match="must not contain '::'; rename it"):
        read_rows(parquet(folder, PAIRS))


def test_a_link_in_the_image_root_is_followed_as_for_all_layouts(tmp_path: Path) -> None:
    write_images(tmp_path / "real", PAIRS)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path = text_file("a.csv", f"image,question,answer\nlink/{PAIRS[0].name},{QUESTION},a\n")(tmp_path)
    (row,), _ = read_rows(path, image_root=tmp_path)
    assert load_image(row.path, SPEC, 10**6).shape == (3, 24, 24)
