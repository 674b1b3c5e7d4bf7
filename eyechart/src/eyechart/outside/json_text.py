"""JSON that says one thing: no key twice in an object, and bounded in bytes, values and depth."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from eyechart.outside import bounds
from eyechart.outside.regular import read_regular

_ANY = msgspec.json.Decoder()
_KEY = re.compile(rb'"\s*:')
"""The end of a key, and a quote and a colon inside a text, which are rarer."""


class RepeatedKeyError(ValueError):
    """An object has a key twice; parsers would silently keep one of the two values."""

    def __init__(self, key: str) -> None:
        """Store the key."""
        super().__init__(f"the key {key[:60]!r} occurs twice in one object; delete one of them")
        self.key = key


def decode_row(data: bytes) -> object:
    """Decode the JSON of one row, quickly.

    Raises:
        RepeatedKeyError: a key occurs twice in one object.
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is not JSON, not UTF-8, or nested too deeply.
    """
    value = _ANY.decode(data)
    refuse_repeated(data, _keys(value))
    return value


def refuse_repeated(data: bytes, keys: int) -> None:
    """Check that valid JSON has no key twice in one object.

    Every key has a colon, and every other colon is inside a text. So if there are as many colons as different keys,
    no key is repeated; only other rows, those with a colon in a text, are looked at more closely.

    Args:
        data: the JSON.
        keys: number of keys after decoding, over all objects.

    Raises:
        RepeatedKeyError: a key occurs twice in one object.
    """
    if data.count(b":") == keys or len(_KEY.findall(data)) == keys:
        return
    json.loads(data, object_pairs_hook=_object)


def _keys(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_keys(item) for item in value.values())
    if isinstance(value, list):
        return sum(_keys(item) for item in value)
    return 0


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise RepeatedKeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return found


def parse_json(text: bytes, values: int = bounds.JSON_VALUES) -> Any:
    """Parse JSON that is not data, such as a file that describes a model or a log.

    Args:
        text: UTF-8, with or without a byte order mark.
        values: largest number of values.

    Raises:
        ValueError: it is not UTF-8 or not JSON, is nested too deeply, has a key twice in one object, or has too many
            values. The message is one short line without the name of the file.
    """
    require_few_values(text, values)
    try:
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def require_few_values(text: bytes, values: int) -> None:
    """Check that JSON has at most about this many values, before a parser makes an object of each.

    Raises:
        ValueError: it has more.
    """
    count = text.count(b",") + text.count(b"[") + text.count(b"{")
    if count > values:
        raise ValueError(f"it has about {count:,} values, at most {values:,} are read")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number in JSON")


def read_json(path: str | Path, limit: int = bounds.JSON_BYTES) -> Any:
    """Read and parse a JSON file that is not data.

    Raises:
        OSError: it is missing, is not a regular file, or has more than `limit` bytes.
        ValueError: as for `parse_json`.
    """
    return parse_json(read_regular(path, limit))
