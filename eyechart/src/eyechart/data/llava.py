r"""Reading a file in LLaVA-Pretrain layout: every row becomes a Row or a typed Reject, and none is dropped.

    [{"id": "004539375", "image": "00453/004539375.jpg",
      "conversations": [{"from": "human", "value": "What is this?\n<image>"}, {"from": "gpt", "value": "a cat"}]}, ...]

The file is a JSON list or JSON Lines, optionally gzipped, with or without a byte order mark, with LF or CRLF.
There are two kinds of errors: a file that is not a data file raises ValueError; a row that cannot be used is
returned as a Reject with a countable reason, and the other rows keep their indices. The preflight of Stage 1 reads the
file a second time with independent code (`qwen3_vlm/preflight/rows.py`), so that a fault of this reader is detected.
"""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from eyechart.seam import Reject, RejectKind, Row

PLACEHOLDER = "<image>"
"""Marks the position of the image in a human turn."""
IMAGE_STRINGS = (PLACEHOLDER, "<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Strings that represent image positions; inside a caption they would refer to an image that does not exist."""

_LOG = logging.getLogger(__name__)
_IMAGE_STRING = re.compile("|".join(re.escape(text) for text in IMAGE_STRINGS))
_BOM = b"\xef\xbb\xbf"
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)
_ANY = msgspec.json.Decoder()
_LAYOUT = "expected a JSON list of rows, or one JSON row per line"


class _UnusableError(Exception):
    """A row that cannot be used."""

    def __init__(self, reason: str, detail: str, kind: RejectKind = RejectKind.LAYOUT) -> None:
        """Store reason, detail and kind, which have the same meaning as in `Reject`."""
        super().__init__(reason, detail, kind)


def count_rows(path: Path) -> int:
    """Count the rows of a data file, usable or not.

    Raises:
        ValueError: the file is missing, broken or empty (see `read_rows`).
    """
    return len(_raw_rows(path))


def read_rows(
    path: str | Path, rows: Collection[int] | None = None, image_root: str | Path = ""
) -> tuple[list[Row], list[Reject]]:
    """Read the rows of a data file.

    Missing and duplicate ids are accepted and reported in one log line: rows are identified by their index.

    Args:
        path: JSON list or JSON Lines, optionally gzipped.
        rows: row indices to read, in any order; None reads all.
        image_root: folder that the rows' image paths are relative to.

    Returns:
        Rows and rejects, both in file order. Every requested row is in exactly one of the two lists.

    Raises:
        ValueError: the file is missing, empty, broken or not a list of rows, or a row index is out of range.
    """
    path, root = Path(path), str(image_root)
    raw_rows = _raw_rows(path)
    wanted = range(len(raw_rows)) if rows is None else sorted(set(rows))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < len(raw_rows):
        raise ValueError(
            f"{path}: rows {wanted[0]} to {wanted[-1]} were requested, but the file has rows 0 to {len(raw_rows) - 1}; "
            "is it the file that the split was drawn from?"
        )
    records: list[Row] = []
    rejects: list[Reject] = []
    missing_ids = 0
    shared: dict[str, str] = {}
    for row in wanted:
        try:
            record, has_id = _record(row, raw_rows[row], root, shared)
        except _UnusableError as unusable:
            rejects.append(Reject(row, *unusable.args))
        else:
            records.append(record)
            missing_ids += not has_id
    _report_ids(path, records, missing_ids)
    return records, rejects


def _report_ids(path: Path, records: Iterable[Row], missing: int) -> None:
    counts = Counter(record.id for record in records)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if missing:
        _LOG.warning("%s: %d rows without an id: their row number is used", path, missing)
    if repeated:
        _LOG.warning(
            "%s: %d ids are used by %d rows, such as %r: accepted, rows are identified by their row number",
            path,
            len(repeated),
            sum(counts[identity] for identity in repeated),
            repeated[0],
        )


class _Turn(msgspec.Struct):
    role: str = msgspec.field(name="from")
    value: str


class _Row(msgspec.Struct):
    conversations: list[_Turn]
    image: str | list[str] | None = None
    id: str | int | float | None = None


_ROW = msgspec.json.Decoder(_Row)


def _record(row: int, raw: msgspec.Raw, root: str, shared: dict[str, str]) -> tuple[Row, bool]:
    """Validate one row; `shared` keeps one copy of each distinct human turn (LLaVA-Pretrain has eleven)."""
    try:
        value = _ROW.decode(raw)
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error
    except msgspec.ValidationError as error:
        raise _wrong_layout(raw, error) from error
    human, caption = _turns(value.conversations)
    image = _image(value.image, human.count(PLACEHOLDER))
    if not caption:
        detail = "expected text in the gpt turn, got only white space"
        raise _UnusableError("caption blank", detail, RejectKind.NO_CAPTION)
    inside = _IMAGE_STRING.search(caption)
    if inside:
        detail = f"remove {inside[0]} from {_short(caption)}"
        raise _UnusableError("image token in caption", detail, RejectKind.IMAGE_IN_CAPTION)
    has_id = value.id is not None and value.id != ""
    text = str(value.id) if has_id else str(row)
    return Row(row, text, image, shared.setdefault(human, human), caption, root), has_id


def _turns(conversations: list[_Turn]) -> tuple[str, str]:
    """Return the human turn and the stripped answer; the conversation must consist of these two turns in this order."""
    roles = [turn.role for turn in conversations]
    for role in ("human", "gpt"):
        if role not in roles:
            raise _UnusableError(f"no {role} turn", f"expected the turns human and gpt, got {_short(roles)}")
    if roles != ["human", "gpt"]:
        # Taking the first two would silently drop the others.
        detail = f"not supported yet: expected human and gpt once, got {_short(roles)}"
        raise _UnusableError("several exchanges", detail, RejectKind.SEVERAL_EXCHANGES)
    return conversations[0].value, conversations[1].value.strip()


def _image(given: str | list[str] | None, placeholders: int) -> str:
    """Return the one image of a row; the human turn must refer to it once, and it must be inside the image root."""
    images = [] if given is None else [given] if isinstance(given, str) else given
    if len(images) > 1:
        detail = f"not supported yet: expected one image per row, got {len(images)}"
        raise _UnusableError("several images", detail, RejectKind.IMAGE_COUNT)
    if placeholders > len(images):
        detail = f"{placeholders} {PLACEHOLDER} in the human turn, but {len(images)} in `image`"
        raise _UnusableError("more <image> than images", detail, RejectKind.IMAGE_COUNT)
    if not images or not images[0].strip():
        detail = "expected the key `image` with a path relative to the image root"
        raise _UnusableError("no image", detail, RejectKind.IMAGE_COUNT)
    if placeholders == 0:
        detail = f"expected {PLACEHOLDER} once, got none"
        raise _UnusableError("no <image> in the human turn", detail, RejectKind.NO_PLACEHOLDER)
    return _inside_root(images[0])


def _not_utf8(error: UnicodeDecodeError) -> _UnusableError:
    return _UnusableError(
        "row not UTF-8", f"byte 0x{error.object[error.start]:02x} is not valid UTF-8; save the file as UTF-8"
    )


def _wrong_layout(raw: msgspec.Raw, error: msgspec.ValidationError) -> _UnusableError:
    """Return why a row does not have LLaVA-Pretrain's layout, as one of a few countable reasons."""
    try:
        value = _ANY.decode(raw)
    except UnicodeDecodeError as undecodable:  # it is in a key, or in a field that the layout does not have
        return _not_utf8(undecodable)
    except (msgspec.DecodeError, RecursionError) as undecodable:
        return _UnusableError("row not readable", str(undecodable))
    if not isinstance(value, dict):
        return _UnusableError("row not an object", f"expected {{id, image, conversations}}, got {_short(value)}")
    turns = value.get("conversations")
    if not isinstance(turns, list) or not turns:
        return _UnusableError("no conversations", f"expected a list of turns, got {_short(turns)}")
    for turn in turns:
        if not isinstance(turn, dict):
            return _UnusableError("turn not an object", f"expected {{from, value}}, got {_short(turn)}")
        if turn.get("from") == "gpt" and not isinstance(turn.get("value"), str):
            reason = "caption null" if turn.get("value") is None else "caption not text"
            detail = f"expected text in the gpt turn, got {_short(turn.get('value'))}"
            return _UnusableError(reason, detail, RejectKind.NO_CAPTION)
    wrong = {"id": "id not text or number", "image": "image not a path", "conversations": "turn not text"}
    for key, reason in wrong.items():
        if f"$.{key}" in str(error):  # msgspec reports the position of the error only in its message
            kind = RejectKind.UNUSABLE_FILE if key == "image" else RejectKind.LAYOUT
            return _UnusableError(reason, f"{error}; got {_short(value[key])}", kind)
    return _UnusableError("row not readable", str(error))


def _inside_root(image: str) -> str:
    parts = image.replace("\\", "/").split("/") if "\\" in image or ".." in image else ()
    if image[0] in "/\\" or image[1:2] == ":" or ".." in parts or "\0" in image:
        detail = f"expected a path below the image root, got {_short(image)}"
        raise _UnusableError("image outside the image root", detail, RejectKind.UNUSABLE_FILE)
    return image


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _raw_rows(path: Path) -> list[msgspec.Raw]:
    """Split a data file into rows without decoding them; the JSON syntax of every row is checked."""
    data = _read_bytes(path)
    start = 3 if data.startswith(_BOM) else 0
    text = memoryview(data)[start:] if start else data
    first = re.compile(rb"\S").search(data, start)
    if first is None:
        raise ValueError(f"{path}: the file is empty ({len(data)} bytes, nothing in it); {_LAYOUT}")
    rows = _lines(path, data, start) if first[0] == b"{" else _list(path, text, start)
    if not rows:
        raise ValueError(f"{path}: the list has zero rows; {_LAYOUT}")
    return rows


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give the path of the JSON file itself")
    try:
        data = path.read_bytes()
        # The content decides, not the name: an uncompressed file may be named .gz, and a compressed file .json.
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such data file (the working directory is {Path.cwd()})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: broken gzip file ({error}); copy or download it again") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot read the data file ({error.strerror})") from error


def _list(path: Path, text: bytes | memoryview, start: int) -> list[msgspec.Raw]:
    try:
        return _LIST.decode(text)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: not a list of rows ({error}); {_LAYOUT}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {_syntax(error, len(text))}{_shift(start)}; {_LAYOUT}") from error


def _lines(path: Path, data: bytes, start: int) -> list[msgspec.Raw]:
    rows: list[msgspec.Raw] = []
    position = start
    for number, line in enumerate(data[start:].split(b"\n"), 1):
        if line.strip():
            try:
                rows.append(_RAW.decode(line))
            except (msgspec.DecodeError, RecursionError) as error:
                if not rows:
                    _refuse_object(path, data[start:])
                raise ValueError(
                    f"{path}: line {number} (from byte {position}): {_syntax(error, len(line))}; {_LAYOUT}"
                ) from error
        position += len(line) + 1
    if len(rows) == 1:
        _refuse_object(path, bytes(rows[0]))
    return rows


def _refuse_object(path: Path, text: bytes) -> None:
    """Raise ValueError if the text is one JSON object without `conversations`, which is not a file of rows."""
    try:
        value = _ANY.decode(text)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict) and "conversations" not in value:
        raise ValueError(f"{path}: not a list of rows but one object with the keys {_short(sorted(value))}; {_LAYOUT}")


def _syntax(error: Exception, size: int) -> str:
    if "truncated" in str(error):  # msgspec has one class for all broken JSON; only the message says more
        return f"the JSON ends at byte {size}, in the middle of a value (is the file complete?)"
    return f"not valid JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _shift(start: int) -> str:
    return f", counted after the byte order mark of {start} bytes" if start else ""
