"""WebDataset archives as records: members with the same key are one row, such as `0000.jpg` and `0000.txt`.

The key of a member is its path up to the first dot of the file name. Images are not read here; a row contains the byte
range of each. Names of members are never used as paths.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec

from eyechart.data.records import Record, StoredImage, UnusableError, from_root, no_base64
from eyechart.exits import InputError
from eyechart.outside.json_text import RepeatedKeyError, decode_row
from eyechart.outside.patience import Patience
from eyechart.outside.regular import open_regular
from eyechart.outside.shown import short
from eyechart.outside.unpacking import GZIP, PackedError, SmallReads, open_gzip
from eyechart.rows import RejectKind
from eyechart.stored import MAX_BYTES, byte_address

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "jp2")
_TEXT_SUFFIXES = ("txt", "caption", "text")
_MAX_TEXT = 2**24
"""Largest text or JSON member in bytes."""


class TarRecords:
    """The samples of WebDataset archives, in the order of the archives; `Records`."""

    kind = "WebDataset"

    def __init__(self, paths: Sequence[Path], root: str) -> None:
        """List the members of all archives and read the texts.

        Raises:
            ValueError: an archive is broken, or has no sample.
        """
        self.files = tuple(paths)
        self._records: list[Record | UnusableError] = []
        for path in paths:
            self._records += _samples(path, from_root(path, root))
        if not self._records:
            raise InputError(
                f"{paths[0]}: no members of a WebDataset", "expected members such as 0000.jpg and 0000.txt or 0000.json"
            )

    def __len__(self) -> int:
        """Number of samples, usable or not."""
        return len(self._records)

    def record(self, index: int) -> Record:
        """See `Records`."""
        found = self._records[index]
        if isinstance(found, UnusableError):
            raise found
        return found

    def locate(self, index: int, text: str) -> str:
        """See `Records`."""
        raise no_base64("an archive")


def _samples(path: Path, name: str) -> list[Record | UnusableError]:
    samples: dict[str, dict[str, object] | UnusableError] = {}
    try:
        opened = open_gzip(path) if _is_gzip(path) else open_regular(path)
        patience = Patience(f"reading {path}", "members")
        # SmallReads has the three methods that reading uses; the type of the argument is one for writing, too.
        with opened, tarfile.open(fileobj=SmallReads(opened, path), mode="r:") as tar:  # type: ignore[call-overload]
            for number, member in enumerate(tar):
                patience.tick(number)
                if member.isdir() or PurePosixPath(member.name).name.startswith("."):
                    continue
                key, suffix = _key(member.name)
                sample = samples.setdefault(key, {"__key__": key})
                if isinstance(sample, dict):
                    try:
                        _add(sample, suffix, tar, member, name)
                    except UnusableError as unusable:
                        samples[key] = unusable
    except (tarfile.TarError, EOFError, OSError, PackedError) as error:
        detail = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path}: cannot read the archive ({detail})", "copy or download it again") from error
    return [sample if isinstance(sample, UnusableError) else _record(sample) for sample in samples.values()]


def _is_gzip(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(2) == GZIP


def _key(member: str) -> tuple[str, str]:
    folder, slash, file = member.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _add(sample: dict[str, object], suffix: str, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
    last = suffix.rpartition(".")[2]
    if last not in (*IMAGE_SUFFIXES, *_TEXT_SUFFIXES, "json"):
        sample[suffix] = f"{member.size} bytes"  # not read, but listed as a key that was found
        return
    if not member.isreg() or member.issparse():
        detail = f"{short(member.name)} is a link or a special file"
        raise UnusableError("member not a file", detail, RejectKind.UNUSABLE_FILE)
    if last in IMAGE_SUFFIXES:
        if member.size > MAX_BYTES:
            detail = f"{short(member.name)} has {member.size:,} bytes, at most {MAX_BYTES:,} are read"
            raise UnusableError("image too large", detail, RejectKind.UNUSABLE_FILE)
        images = sample.setdefault("__images__", [])
        assert isinstance(images, list)
        images.append(StoredImage(byte_address(name, member.name, member.offset_data, member.size)))
        return
    if member.size > _MAX_TEXT:
        raise UnusableError("text too large", f"{short(member.name)} has {member.size:,} bytes", RejectKind.NO_CAPTION)
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    try:
        sample[suffix] = decode_row(file.read()) if last == "json" else file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableError("row not UTF-8", f"{short(member.name)}: save it as UTF-8") from error
    except RepeatedKeyError as error:
        raise UnusableError("key twice", f"{short(member.name)}: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnusableError("row not readable", f"{short(member.name)}: {error}") from error


def _record(sample: dict[str, object]) -> Record | UnusableError:
    """Merge the JSON member's keys, the text and the images into one record.

    Keys of images and captions in the JSON member refer to the members of the archive, which are used instead.
    """
    merged = sample.pop("json", {})
    if not isinstance(merged, dict):
        return UnusableError("row not an object", f"expected an object with keys in the JSON, got {short(merged)}")
    images = sample.pop("__images__", None)
    record: dict[str, object] = dict(merged)
    texts = [sample.pop(suffix) for suffix in list(sample) if suffix.rpartition(".")[2] in _TEXT_SUFFIXES]
    if len(texts) > 1:
        return UnusableError("several texts", f"expected one of {', '.join(_TEXT_SUFFIXES)} for each key")
    if texts:
        record = {key: value for key, value in record.items() if key not in ("caption", "text", "txt")}
        record["caption"] = texts[0]
    record |= sample
    if isinstance(images, list):
        record = {key: value for key, value in record.items() if key not in ("image", "images")}
        record["image"] = images[0] if len(images) == 1 else images
    return record
