"""The mutations of bytes and JSON trees that `fuzz.py` applies, and the valid files that it starts from."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, features

from tiny_rows import llava_row

Draw = random.Random
Rows = list[dict[str, Any]]

ODD_TEXTS = (
    "", " ", "\0", "\ufeff", "\u202e\u200f\u200b", "e" + "\u0301" * 3000, "\ud800", "\uffff", "👩‍👩‍👧" * 50,
    "x" * 200_000, "<image>", "<|image_pad|>", "<|endoftext|>", "../" * 40, "/etc/passwd", "a\r\nb\u2028c",
    "一" * 5000, "\x1b[31m",
)  # fmt: skip
ODD_VALUES = (
    None, True, 0, -1, 1.5, 10**400, -(2**63), 1e308, [], {}, [[]], [None], {"from": "gpt"}, ["images/00000.png"] * 3,
)  # fmt: skip


def base_rows() -> Rows:
    """Return the rows of a valid data file with eight rows."""
    return [llava_row(row) for row in range(8)]


def _damage(draw: Draw, rows: Rows, change: Callable[[Any, Any], None]) -> str:
    """Apply `change(container, key)` at one random position in the tree."""
    tree: Any = copy.deepcopy(rows)
    places = [(tree, i) for i in range(len(tree))]
    for row in tree:
        places += [(row, key) for key in row]
        places += [(row["conversations"], i) for i in range(2)]
        places += [(turn, key) for turn in row["conversations"] for key in turn]
    change(*draw.choice(places))
    return json.dumps(tree)


def _delete(draw: Draw, rows: Rows) -> str:
    return _damage(draw, rows, lambda node, key: node.__delitem__(key))


def _retype(draw: Draw, rows: Rows) -> str:
    return _damage(draw, rows, lambda node, key: node.__setitem__(key, draw.choice(ODD_VALUES)))


def _odd_text(draw: Draw, rows: Rows) -> str:
    text = _damage(draw, rows, lambda node, key: node.__setitem__(key, draw.choice(ODD_TEXTS)))
    return text if draw.random() < 0.5 else json.dumps(json.loads(text), ensure_ascii=False)


def _rename(draw: Draw, rows: Rows) -> str:
    def change(node: Any, key: Any) -> None:
        if isinstance(node, dict):
            node[draw.choice(("From", "", "from\0", "img", "id"))] = node.pop(key)

    return _damage(draw, rows, change)


def _duplicate_key(draw: Draw, rows: Rows) -> str:
    text = json.dumps(rows)
    key = draw.choice(('"id": ', '"image": ', '"conversations": ', '"from": ', '"value": '))
    return text.replace(key, f"{key}{json.dumps(draw.choice(ODD_VALUES[:8]))}, {key}", draw.choice((1, 3)))


def _nest(draw: Draw, rows: Rows) -> str:
    depth = draw.choice((10, 500, 1100, 100_000))
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}")))
    deep = opening * depth + draw.choice(("1", "")) + closing * draw.choice((depth, depth - 1))
    place = draw.choice(('"id": "', '"image": "', '"conversations": ', '{"id"'))
    return json.dumps(rows).replace(place, f"{place[:-1] if place.endswith(chr(34)) else place}{deep}, {place}", 1)


def _huge_number(draw: Draw, rows: Rows) -> str:
    number = draw.choice(("9" * 5000, "1e999999", "-" + "9" * 30, "1" * 20 + "." + "1" * 5000, "NaN", "Infinity"))
    return json.dumps(rows).replace(f'"{draw.randrange(8):09d}"', number)


def _whole(draw: Draw, rows: Rows) -> str:
    """Return text that is not one JSON list of rows."""
    row = json.dumps(rows[0])
    return draw.choice(("null", "{}", "[]", "[[]]", '"text"', "7", row, f"{row}{row}", f"[{row}]\n[{row}]", "[" * 5000))


TREE_MUTATIONS = (_delete, _retype, _odd_text, _rename, _duplicate_key, _nest, _huge_number, _whole)


def _flip(draw: Draw, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 32)) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _head(draw: Draw, data: bytes) -> bytes:
    """Mutate bytes near the beginning, where sizes, offsets and counts are."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 8)) if changed else 0):
        changed[draw.randrange(min(64, len(changed)))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(changed)


def _cut(draw: Draw, data: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _remove(draw: Draw, data: bytes) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.choice((1, 2, 4, 100)) :]


def _repeat(draw: Draw, data: bytes) -> bytes:
    start = draw.randrange(len(data) + 1)
    part = data[start : start + draw.choice((1, 4, 64, 1000))]
    return data[:start] + part * draw.choice((2, 50)) + data[start:]


def _insert(draw: Draw, data: bytes) -> bytes:
    start = draw.randrange(len(data) + 1)
    part = draw.choice((b"\0", b"\0" * 100, draw.randbytes(8), b"\xff\xfe", b"\xed\xa0\x80", b"\n", b"\x1f\x8b"))
    return data[:start] + part + data[start:]


def _encoding(draw: Draw, data: bytes) -> bytes:
    text = data.decode("latin-1")
    return draw.choice((b"", b"\xef\xbb\xbf")) + text.encode(draw.choice(("utf-16", "utf-16-le", "utf-32", "utf-8")))


BYTE_MUTATIONS = (_flip, _flip, _head, _cut, _remove, _repeat, _insert, _encoding)


def base_images() -> list[bytes]:
    """Return one small valid image for each format and mode that the decoding code handles separately."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    saved: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((rgb.convert(mode), "PNG", {}) for mode in ("RGB", "RGBA", "P", "L", "1")),
        (Image.fromarray(rng.integers(0, 65536, (24, 40), dtype=np.uint16)), "PNG", {}),
        *((rgb.convert(mode), "JPEG", {"progressive": mode == "L", "exif": exif}) for mode in ("RGB", "L", "CMYK")),
        *((rgb, "TIFF", {"compression": name}) for name in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
        (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "BMP", {}),
        (rgb, "PPM", {}),
        *((rgb, name, {}) for name, feature in (("WEBP", "webp"), ("AVIF", "avif"), ("JPEG2000", "jpg_2000"))
          if features.check(feature)),
    ]  # fmt: skip
    images = []
    for image, name, options in saved:
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        images.append(buffer.getvalue())
    return images
