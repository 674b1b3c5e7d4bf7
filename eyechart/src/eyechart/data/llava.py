r"""Rows in LLaVA-Pretrain layout: one image, one question, one answer. This reader is fast enough for 500,000 rows.

    {"id": "004539375", "image": "00453/004539375.jpg",
     "conversations": [{"from": "human", "value": "What is this?\n<image>"}, {"from": "gpt", "value": "a cat"}]}

Rows with several exchanges or images are read by `turns`, like those of other layouts. The preflight of
Stage 1 reads the file a second time with independent code (`qwen3_vlm/preflight/rows.py`), so that a fault of this
reader is detected.
"""

from __future__ import annotations

import msgspec

from eyechart.data.json_rows import decoded_row, not_utf8
from eyechart.data.records import UnusableError, inside_root
from eyechart.data.turns import IMAGE_STRING
from eyechart.outside.shown import short
from eyechart.rows import PLACEHOLDER, RejectKind, Row


class NotSimpleError(Exception):
    """A row with several exchanges or images, an image that is no path below the image root, or no place for it."""


class _Turn(msgspec.Struct):
    role: str = msgspec.field(name="from")
    value: str


class _Row(msgspec.Struct):
    conversations: list[_Turn]
    image: str | list[str] | None = None
    id: str | int | float | None = None


_ROW = msgspec.json.Decoder(_Row)


def llava_row(
    row: int, raw: msgspec.Raw, root: str, shared: dict[str, str], places_optional: bool = False
) -> tuple[Row, bool]:
    """Validate one row.

    Args:
        row: its index in the file.
        raw: its JSON.
        root: the image root.
        shared: keeps one copy of each distinct human turn (LLaVA-Pretrain has eleven).
        places_optional: whether a human turn without `<image>` is left to `turns.row_of` instead of being an error.

    Returns:
        The row, and whether it has an id.

    Raises:
        NotSimpleError: the row is not of this simple form; `turns.row_of` decides whether it can be used.
        UnusableError: the row cannot be used.
    """
    written = b"".join((raw,))  # the quickest copy
    try:
        value = _ROW.decode(written)
    except UnicodeDecodeError as error:
        raise not_utf8(error) from error
    except msgspec.ValidationError as error:
        raise _wrong_layout(written, error) from error
    keys = 3 + 2 * len(value.conversations)
    if value.id is None or value.image is None or written.count(b":") != keys:
        decoded_row(written)  # another key, a colon in a text, or a key twice, which is an error
    human, caption = _turns(value.conversations)
    if places_optional and PLACEHOLDER not in human:
        raise NotSimpleError
    image = _image(value.image, human.count(PLACEHOLDER), root)
    if not caption:
        detail = "expected text in the gpt turn, got only white space"
        raise UnusableError("caption blank", detail, RejectKind.NO_CAPTION)
    inside = IMAGE_STRING.search(caption) if "<" in caption else None  # the search alone is ten times slower
    if inside:
        detail = f"remove {inside[0]} from {short(caption)}"
        raise UnusableError("image token in caption", detail, RejectKind.IMAGE_IN_CAPTION)
    has_id = value.id is not None and value.id != ""
    text = str(value.id) if has_id else str(row)
    return Row(row, text, image, shared.setdefault(human, human), caption, root), has_id


def _turns(conversations: list[_Turn]) -> tuple[str, str]:
    """Return the human turn and the stripped answer, if the conversation consists of these two turns."""
    roles = [turn.role for turn in conversations]
    if roles == ["human", "gpt"]:
        return conversations[0].value, conversations[1].value.strip()
    for role in ("human", "gpt"):
        if role not in roles:
            raise UnusableError(f"no {role} turn", f"expected the turns human and gpt, got {short(roles)}")
    raise NotSimpleError


def _image(given: str | list[str] | None, placeholders: int, root: str) -> str:
    """Return the one image of a row; the human turn must refer to it once, and it must be inside the image root."""
    images = [] if given is None else [given] if isinstance(given, str) else given
    if len(images) > 1 or (images and images[0].startswith(("data:", "http:", "https:"))):
        raise NotSimpleError
    if placeholders > len(images):
        detail = f"{placeholders} {PLACEHOLDER} in the human turn, but {len(images)} in `image`"
        raise UnusableError("more <image> than images", detail, RejectKind.IMAGE_COUNT)
    if not images:
        return ""
    if not images[0].strip():
        detail = "expected the key `image` with a path relative to the image root"
        raise UnusableError("no image", detail, RejectKind.IMAGE_COUNT)
    if placeholders == 0:
        detail = f"expected {PLACEHOLDER} once, got none"
        raise UnusableError("no <image> in the human turn", detail, RejectKind.NO_PLACEHOLDER)
    return inside_root(images[0], root)


def _wrong_layout(raw: bytes, error: msgspec.ValidationError) -> UnusableError:
    """Return why a row does not have LLaVA-Pretrain's layout, as one of a few countable reasons."""
    try:
        value = decoded_row(raw)
    except UnusableError as unusable:  # such as a byte that is not UTF-8 in a key that the layout does not have
        return unusable
    if not isinstance(value, dict):
        return UnusableError("row not an object", f"expected {{id, image, conversations}}, got {short(value)}")
    turns = value.get("conversations")
    if not isinstance(turns, list) or not turns:
        return UnusableError("no conversations", f"expected a list of turns, got {short(turns)}")
    for turn in turns:
        if not isinstance(turn, dict):
            return UnusableError("turn not an object", f"expected {{from, value}}, got {short(turn)}")
        if turn.get("from") == "gpt" and not isinstance(turn.get("value"), str):
            reason = "caption null" if turn.get("value") is None else "caption not text"
            detail = f"expected text in the gpt turn, got {short(turn.get('value'))}"
            return UnusableError(reason, detail, RejectKind.NO_CAPTION)
    wrong = {"id": "id not text or number", "image": "image not a path", "conversations": "turn not text"}
    for key, reason in wrong.items():
        if f"$.{key}" in str(error):  # msgspec reports the position of the error only in its message
            kind = RejectKind.UNUSABLE_FILE if key == "image" else RejectKind.LAYOUT
            return UnusableError(reason, f"{error}; got {short(value[key])}", kind)
    return UnusableError("row not readable", str(error))
