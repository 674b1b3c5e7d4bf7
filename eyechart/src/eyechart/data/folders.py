"""Finds the files of a data set: one file, a pattern such as `train-*.parquet`, or a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eyechart.data.records import Record, StoredImage, UnusableError
from eyechart.data.tars import IMAGE_SUFFIXES
from eyechart.exits import InputError
from eyechart.outside.json_text import RepeatedKeyError, decode_row, read_json
from eyechart.outside.regular import open_regular, read_regular, read_text
from eyechart.outside.shown import short
from eyechart.outside.unpacking import packed_with

_TEXT_SUFFIXES = (".txt", ".caption")
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
_DATA_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
_ABOUT = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
_MAX_TEXT = 2**24
_SHARD = re.compile(r"(?P<split>.*?)-?\d{3,}(-of-\d{3,})?$")


@dataclass(frozen=True)
class Found:
    """The files of a data set."""

    kind: str
    """`json`, `csv`, `parquet`, `arrow`, `tar`, or `side-files`."""
    files: tuple[Path, ...]
    """In the order of their rows; for side files, the images and texts."""
    folder: Path | None = None
    """The folder that image paths are relative to unless an image root is given; None for a single file."""


def find(path: Path) -> Found:
    """Find the files of a data set.

    Raises:
        InputError: there are none, or the folder contains several data sets, which the message names.
    """
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        return Found(_kind_of_file(path), (path,))
    if "*" in path.name and path.parent.is_dir():
        files = sorted(file for file in path.parent.glob(path.name) if file.is_file())
        kinds = sorted({_kind_of_file(file) for file in files})
        if len(kinds) == 1 and (len(files) == 1 or kinds[0] in ("parquet", "arrow", "tar")):
            return Found(kinds[0], tuple(files), path.parent)
        what = f"{len(files)} files" + (f" of the kinds {', '.join(kinds)}" if kinds else "")
        raise InputError(f"{path}: matches {what}", "match one file, or files that are all Parquet, Arrow or tar")
    raise ValueError(f"{path}: no such data file (the working directory is {Path.cwd()})")


def _kind_of_file(path: Path) -> str:
    """Return the kind of a file by its first bytes or its name; any other file is read as JSON."""
    try:
        with open_regular(path) as file:
            head = file.read(512)
    except OSError as error:
        raise ValueError(f"{path}: cannot read the data file ({error.strerror})") from error
    packed = packed_with(head)
    if packed is not None:
        what = f"{path}: packed with {packed}; files packed with zstd, zip, 7z, bzip2 or xz are not read"
        raise InputError(what, "unpack it, or pack it with gzip")
    name = path.name.lower()
    if head[:4] == b"PAR1" or name.endswith(".parquet"):
        return "parquet"
    if head[:6] == b"ARROW1" or name.endswith(".arrow"):
        return "arrow"
    if head[257:262] == b"ustar" or name.endswith(_TAR_ENDINGS):
        return "tar"
    return "csv" if name.removesuffix(".gz").endswith((".csv", ".tsv")) else "json"


def _in_folder(folder: Path) -> Found:
    saved = _saved_to_disk(folder)
    if saved:
        return saved
    top = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    metadata = [file for file in top if file.name in ("metadata.jsonl", "metadata.csv", "metadata.parquet")]
    if len(metadata) == 1:
        return Found(_kind_of_file(metadata[0]), tuple(metadata), folder)
    inside = sorted(file for file in folder.glob("data/*") if not file.name.startswith("."))
    groups: dict[str, list[Path]] = {
        "parquet": [file for file in top + inside if file.suffix == ".parquet"],
        "arrow": [file for file in top if file.suffix == ".arrow"],
        "tar": [file for file in top if file.name.lower().endswith(_TAR_ENDINGS)],
    }
    images = {file for file in folder.rglob("*") if file.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES}
    stems = {file.with_suffix("") for file in images}
    data = [f for f in top if f.name.lower().endswith(_DATA_ENDINGS) and f.name not in _ABOUT]
    for file in (file for file in data if file.with_suffix("") not in stems):
        groups[file.name] = [file]
    sides = [f for f in folder.rglob("*") if f.suffix in (*_TEXT_SUFFIXES, ".json") and f.with_suffix("") in stems]
    groups["side-files"] = sorted([*images, *sides]) if sides else []
    found = {name: files for name, files in groups.items() if files}
    if not found:
        splits = sorted({str(file.parent.name) for file in folder.glob("*/metadata.*")})
        more = f"; its folders {', '.join(splits)} have metadata: name one of them" if splits else ""
        raise InputError(
            f"{folder}: is a folder without a data set ({len(images)} images, no texts){more}",
            "expected a data file, metadata.jsonl, Parquet, Arrow or tar files, or a text a.txt for each image a.jpg",
        )
    if len(found) > 1:
        raise InputError(
            f"{folder}: is a folder with {len(found)} data sets: {', '.join(found)}",
            "name one file, or a pattern such as 'train-*.parquet'",
        )
    ((name, files),) = found.items()
    if name == "side-files":
        return Found("side-files", tuple(files), folder)
    _require_one_split(folder, files)
    return Found(_kind_of_file(files[0]), tuple(files), folder)


def _require_one_split(folder: Path, files: Sequence[Path]) -> None:
    """Reject shards of several splits, because their rows would be mixed."""
    names = {file.name.partition(".")[0] for file in files}
    splits = {found["split"] if (found := _SHARD.fullmatch(name)) else name for name in names}
    if len(splits) > 1:
        raise InputError(
            f"{folder}: has files of {len(splits)} splits: {', '.join(sorted(splits))}",
            f"name one, such as {files[0].parent / f'{sorted(splits)[0]}*{files[0].suffix}'}",
        )


def _saved_to_disk(folder: Path) -> Found | None:
    """Return the files of a folder that `datasets`' save_to_disk wrote."""
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = _json(splits).get("splits")
        if not isinstance(names, list) or len(names) != 1:
            raise InputError(
                f"{folder}: has the splits {short(names)}", "name one of them, which is a folder inside it"
            )
        return _saved_to_disk(folder / str(names[0]))
    state = folder / "state.json"
    if not state.is_file():
        return None
    listed = _json(state).get("_data_files")
    files = [entry.get("filename") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    if not files or not all(isinstance(name, str) and Path(name).name == name for name in files):
        raise InputError(f"{state}: expected the names of files in _data_files, got {short(listed)}", "save it again")
    return Found("arrow", tuple(folder / str(name) for name in files), folder)


def _json(path: Path) -> dict[str, object]:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})", "save the data set again") from error
    return value if isinstance(value, dict) else {}


class SideFileRecords:
    """Images with a text file of the same name, in the order of their paths; `Records`."""

    kind = "side files"

    def __init__(self, files: Sequence[Path], folder: Path, name: str) -> None:
        """Pair images and texts; a text is read when its row is requested.

        Args:
            files: the images and their texts.
            folder: the folder that they are in.
            name: path of this folder relative to the image root.
        """
        texts = [file for file in files if file.suffix.lower().removeprefix(".") not in IMAGE_SUFFIXES]
        self.files = tuple(texts)
        self._texts: dict[Path, list[Path]] = {}
        for text in texts:
            self._texts.setdefault(text.with_suffix(""), []).append(text)
        kept = set(texts)
        self._images = [file for file in files if file not in kept]
        self._folder, self._name = folder, name

    def __len__(self) -> int:
        """Number of images, with and without a text."""
        return len(self._images)

    def record(self, index: int) -> Record:
        """See `Records`."""
        image = self._images[index]
        texts = self._texts.get(image.with_suffix(""), [])
        if len(texts) != 1:
            detail = f"expected one text for {image.name}, got {', '.join(file.name for file in texts) or 'none'}"
            raise UnusableError("image without text" if not texts else "several texts", detail)
        path = image.relative_to(self._folder).as_posix()
        found: dict[str, object] = {"id": path.rpartition(".")[0]}
        found |= _side_text(texts[0])
        return found | {"image": StoredImage(f"{self._name}/{path}" if self._name else path)}

    def locate(self, index: int, text: str) -> str:
        """See `Records`."""
        raise UnusableError("image as base64 text", "the image is the file next to the text")


def _side_text(text: Path) -> dict[str, object]:
    try:
        if text.suffix == ".json":
            value = decode_row(read_regular(text, _MAX_TEXT))
            if not isinstance(value, dict):
                raise UnusableError("row not an object", f"expected an object with keys in {text.name}")
            return {key: found for key, found in value.items() if key not in ("image", "images")}
        return {"caption": read_text(text, _MAX_TEXT)}
    except OSError as error:
        raise UnusableError("text unreadable", f"{text.name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnusableError("row not UTF-8", f"{text.name}: save it as UTF-8") from error
    except RepeatedKeyError as error:
        raise UnusableError("key twice", f"{text.name}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UnusableError("row not readable", f"{text.name}: {error}") from error
