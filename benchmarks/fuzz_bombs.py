"""Files that are made to hang a reader or to fill the memory, one per case, and the readers that open them.

Each is small, sparse or written in parts, so that making it is quick. Reading it has to end in one line.
"""

from __future__ import annotations

import gzip
import io
import os
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from eyechart import results
from eyechart.data.images import ImageError, ImageSpec, load_image
from eyechart.data.reader import content_digest, read_rows
from qwen3_vlm.config import load_config
from qwen3_vlm.data.splits import DataFile, load_split
from qwen3_vlm.train.checkpoint import load_checkpoint
from qwen3_vlm.train.looks import read_looks

Read = Callable[[Path], object]
Write = Callable[[Path], object]

MB = 2**20
_SPEC = ImageSpec(16, 16, (0.5,) * 3, (0.5,) * 3, 2, 1 / 255)
_LONGEST = 600
"""Most characters of a message, without the path."""


def _rows(path: Path) -> object:
    found, rejects = read_rows(path)
    assert not found, "rows were found in a bomb"
    return rejects


def _image(path: Path) -> object:
    try:
        return load_image(path, _SPEC, 178_956_970)
    except ImageError as error:
        raise ValueError(f"{path}: {error}") from error


READERS: dict[str, tuple[str, Read]] = {
    "config": ("run.yaml", load_config),
    "results": ("results.json", results.read),
    "data": ("data.json", _rows),
    "the digest of data": ("data.json", content_digest),
    "split": ("split.json", lambda path: load_split(path, DataFile("a", 1, ""))),
    "log": ("looks.jsonl", lambda path: read_looks(path.parent)),
    "checkpoint": ("checkpoint_1.pt", load_checkpoint),
    "image": ("a.png", _image),
}
"""File name and reader of every kind."""


def bytes_of(data: bytes) -> Write:
    """Write these bytes."""
    return lambda path: path.write_bytes(data)


def repeated(part: bytes, size: int, begin: bytes = b"", end: bytes = b"") -> Write:
    """Write a part again and again, up to about `size` bytes."""

    def write(path: Path) -> None:
        block = part * (MB // len(part) + 1)
        with path.open("wb") as file:
            file.write(begin)
            for _ in range(size // len(block)):
                file.write(block)
            file.write(end)

    return write


def sparse(size: int) -> Write:
    """Make a file of zero bytes that takes no space."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return write


def zipped(part: bytes, size: int, begin: bytes = b"") -> Write:
    """Write a gzip file that unpacks to `begin`, and then to this part again and again, as members of 16 MiB."""

    def write(path: Path) -> None:
        member = gzip.compress(part * (16 * MB // len(part)), 6)
        path.write_bytes((gzip.compress(begin) if begin else b"") + member * (size // (16 * MB)))

    return write


def _aliases(first: str, join: Callable[[str], str]) -> bytes:
    """YAML of nine levels, each of which names the one before nine times."""
    lines = [f"a: &a {first}"]
    lines += [f"{name}: &{name} {join(before)}" for before, name in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines).encode()


def _list_of(name: str) -> str:
    return f"[{', '.join([f'*{name}'] * 9)}]"


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 characters
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(before)


def _tar(name: str, size: int, kind: bytes) -> bytes:
    """Return the header of a member that states `size` bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def _large_header(path: Path) -> None:
    path.write_bytes(_tar("a.jpg", 4 * 2**30, tarfile.XHDTYPE))
    os.truncate(path, 4 * 2**30 + 1024)


def _shared_value(path: Path) -> None:
    """A table of 100,000 rows that share one text of 1 MB, stored once."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * MB]))
    table = pa.table({"caption": texts, "image": texts})
    pq.write_table(table, path, store_schema=False, compression="zstd", write_statistics=False)


def _packed_batches(path: Path) -> None:
    """An Arrow file whose batches unpack to 64 MB each, together to more than a table may have."""
    batch = pa.record_batch({"caption": ["x" * 64 * MB]})
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
    ):
        for _ in range(15):
            writer.write_batch(batch)


def _packed_checkpoint(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for number in range(2):
            file.writestr(f"archive/data/{number}", bytes(128 * MB))


def _expanded_checkpoint(path: Path) -> None:
    part = {"latents": torch.zeros(1).expand(10**6, 10**6)}
    torch.save({"resampler": part, "projector": {}}, path)


def _large_image(path: Path) -> None:
    Image.new("1", (16_000, 16_000)).save(path)


def _expanding_text(path: Path) -> None:
    """A PNG with a compressed comment of 128 MB."""
    made = io.BytesIO()
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "x" * 128 * MB, zip=True)
    Image.new("RGB", (8, 8)).save(made, "PNG", pnginfo=info)
    path.write_bytes(made.getvalue())


def everywhere() -> Iterator[tuple[str, str, Write]]:
    """What no reader may open: name, kind of reader and how to make it."""
    for kind in READERS:
        yield f"a named pipe as {kind}", kind, lambda path: os.mkfifo(path)
        yield f"a socket as {kind}", kind, _socket
        yield f"a folder as {kind}", kind, lambda path: path.mkdir()
        yield f"/dev/zero as {kind}", kind, lambda path: path.symlink_to("/dev/zero")
        yield f"a link to itself as {kind}", kind, lambda path: path.symlink_to(path.name)
        if kind not in ("the digest of data",):
            yield f"9 GB of zeros as {kind}", kind, sparse(9 * 2**30)


SPECIAL: list[tuple[str, str, Write]] = [
    ("YAML of 3e8 aliases", "config", bytes_of(_aliases("[x, x, x, x, x, x, x, x, x]", _list_of))),
    ("YAML of 3e8 merges", "config", bytes_of(_aliases("{x: 1}", lambda name: f"{{<<: {_list_of(name)}}}"))),
    ("YAML of 50,000 brackets", "config", bytes_of(b"a: " + b"[" * 50_000)),
    ("YAML of 25,000 levels", "config", bytes_of(b"- " * 25_000)),
    ("YAML with a long number", "config", bytes_of(b"seed: " + b"9" * 50_000)),
    ("YAML of many keys", "config", bytes_of(b"".join(b"k%d: 1\n" % n for n in range(6_000)))),
    ("YAML with a long text", "config", bytes_of(b"seed: " + b"x" * 50_000)),
    ("1 GB of JSON as results", "results", repeated(b'{"a": 1},', 1024 * MB, b"[", b"1]")),
    ("60 MB of empty lists as results", "results", repeated(b"[],", 60 * MB, b'{"schema": 2, "x": [', b"1]}")),
    ("JSON of 1,000,000 brackets as results", "results", bytes_of(b'{"schema": ' + b"[" * 1_000_000)),
    ("a long number in results", "results", bytes_of(b'{"schema": ' + b"9" * 1_000_000 + b"}")),
    ("a long text in results", "results", bytes_of(b'{"schema": 2, "verdict": "' + b"x" * 10**7 + b'"}')),
    ("2 GB of spaces, gzipped", "data", zipped(b" ", 2048 * MB)),
    ("2 GB of empty rows, gzipped", "data", zipped(b"{},", 2048 * MB, b"[")),
    ("2 GB of one row, gzipped", "data", zipped(b'{"image": "a.png", "caption": "a cat"},', 2048 * MB, b"[")),
    ("200 MB of numbers", "data", repeated(b"1,", 200 * MB, b"[", b"1]")),
    ("200 MB of empty rows", "data", repeated(b"{},", 200 * MB, b"[", b"{}]")),
    ("200 MB of empty lines of rows", "data", repeated(b"{}\n", 200 * MB)),
    ("200 MB of brackets", "data", repeated(b"[", 200 * MB)),
    ("200 MB of brackets after a row", "data", repeated(b"[", 200 * MB, b'[{"image": "a"},')),
    ("a row with a text of 200 MB", "data", repeated(b"x", 200 * MB, b'[{"image": "', b'", "caption": 1}]')),
    ("rows with long numbers", "data", bytes_of(b"[" + b'{"id": ' + b"9" * 10**6 + b"}]")),
    ("a row of 100,000 brackets", "data", bytes_of(b'[{"caption": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]")),
]
NAMED: list[tuple[str, str, Write]] = [
    ("zeros", "rows.csv", sparse(4 * 2**30)),
    ("200 MB of lines", "rows.csv", repeated(b"a\n", 200 * MB, b"image,caption\n")),
    ("a quote that is not closed", "rows.csv", repeated(b"x,", 200 * MB, b'image,caption\na.png,"')),
    ("a header of 4 GB", "rows.tar", _large_header),
    ("2 GB of spaces, gzipped", "rows.tar.gz", zipped(b" ", 2048 * MB)),
    ("a member of 8 GB, gzipped", "rows.tar.gz", zipped(b"\0", 2048 * MB, _tar("a.png", 8 * 2**30, tarfile.REGTYPE))),
    ("a value that 100,000 rows share", "rows.parquet", _shared_value),
    ("batches that unpack", "rows.arrow", _packed_batches),
]
"""Bombs whose name decides how they are read."""
OTHERS: list[tuple[str, str, Write]] = [
    ("a checkpoint that unpacks", "checkpoint", _packed_checkpoint),
    ("a checkpoint with a tensor of 4 TB", "checkpoint", _expanded_checkpoint),
    ("an image of 256 million pixels", "image", _large_image),
    ("an image with a text of 128 MB", "image", _expanding_text),
]


def bombs() -> dict[str, Callable[[Any, Path], str]]:
    """Return every case by name; it makes the file in a folder, reads it, and returns the outcome."""
    cases: dict[str, Callable[[Any, Path], str]] = {}
    for name, kind, write in (*everywhere(), *SPECIAL, *OTHERS):
        file, read = READERS[kind]
        cases[name] = _case(file, write, read)
    for name, file, write in NAMED:
        cases[f"{file}: {name}"] = _case(file, write, _rows)
    return cases


def _case(file: str, write: Write, read: Read) -> Callable[[Any, Path], str]:
    def case(draw: Any, folder: Path) -> str:
        path = folder / file
        write(path)
        return told(path, read)

    return case


def told(path: Path, read: Read) -> str:
    """Read a file as the commands do, and return the outcome.

    Raises:
        AssertionError: the message is not one short line that names the file.
    """
    try:
        read(path)
    except (ValueError, OSError) as error:
        message = str(error)
        assert isinstance(error, ValueError), f"{type(error).__name__}: {message[:300]}"
        assert "\n" not in message and str(path.name) in message, f"an unclear message: {message[:300]!r}"
        assert len(message.replace(str(path), "")) < _LONGEST, f"a long message: {message[:300]!r}"
        return "clear error"
    return "result"
