"""Converts a record of any layout to a Row: its turns with their parts (text or image), and its images in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from eyechart.data.layouts import CAPTIONS, PAIR, Understood
from eyechart.data.records import Record, StoredImage, UnusableError, inside_root
from eyechart.outside.shown import short
from eyechart.rows import PLACEHOLDER, RejectKind, Row, Turn, parts_of

IMAGE_STRINGS = (PLACEHOLDER, "<|image_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Strings that represent image positions; inside a caption they would refer to an image that does not exist."""
IMAGE_STRING = re.compile("|".join(re.escape(text) for text in IMAGE_STRINGS))

_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "bot": "assistant",
}  # fmt: skip
_URL = re.compile(r"(https?|s3|gs|ftp|hf)://", re.IGNORECASE)
_DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[^,;]*)*;base64,", re.IGNORECASE)
_IMAGE_TYPES = ("image", "image_url", "input_image")
_TEXT_TYPES = ("text", "input_text", "output_text")
_SOURCES = ("image", "image_url", "path", "url", "base64", "bytes")

Locate = Callable[[str], str]
"""A function that returns the address of base64 text in the row."""


@dataclass
class _Conversation:
    """The turns of a row while it is read: texts with `<image>`, and images that are given within the turns."""

    turns: list[tuple[str, str]] = field(default_factory=list)
    """Role and text."""
    named: list[object] = field(default_factory=list)
    """The image of every `<image>` in the texts; None stands for the next image of the row's list."""

    def add(self, role: str, content: object) -> None:
        """Add a turn whose content is text or a list of parts."""
        pieces: list[str] = []
        for text, image in _pieces(content, role):
            pieces.append(text if image is _NO_IMAGE else PLACEHOLDER)
            self.named += [None] * text.count(PLACEHOLDER) if image is _NO_IMAGE else [image]
        self.turns.append((role, "".join(pieces)))


_NO_IMAGE = object()


def row_of(index: int, record: Record, understood: Understood, root: str, locate: Locate) -> tuple[Row, bool]:
    """Return a record as a Row, and whether it has an id.

    Args:
        index: row index in the data.
        record: the values by key.
        understood: layout and keys.
        root: the image root, which becomes `Row.image_root`.
        locate: returns the address of base64 text of this row.

    Raises:
        UnusableError: the row cannot be used.
    """
    said = _conversation(record, understood)
    images = _images(record, understood, said)
    turns = _with_parts(said, images, understood)
    paths = tuple(_path(image, root, locate) for image in images)
    for turn in turns:
        if turn.role == "assistant":
            _require_answer(turn.text)
    identity = record.get(understood.keys.get("id", ""))
    if isinstance(identity, bool) or not isinstance(identity, str | int | float | None):
        raise UnusableError("id not text or number", f"got {short(identity)}")
    has_id = identity is not None and identity != ""
    answer = turns[-1].text.strip()
    turns = [Turn(t.role, (t.text.strip(),)) if t.role == "assistant" else t for t in turns]
    # The first question unchanged, because Stage 1 uses it with its white space.
    human = next(text for role, text in said.turns if role == "user")
    simple = [turn.role for turn in turns] == ["user", "assistant"] and len(paths) <= 1
    row = Row(
        row=index,
        id=str(identity) if has_id else str(index),
        image=paths[0] if paths else "",
        human=human,
        caption=answer,
        image_root=root,
        conversation=() if simple else tuple(turns),
        more_images=paths[1:],
    )
    return row, has_id


def _conversation(record: Record, understood: Understood) -> _Conversation:
    said, keys = _Conversation(), understood.keys
    if understood.layout is CAPTIONS:
        caption = record.get(keys["caption"])
        said.add("user", "")
        said.add("assistant", caption)
        return said
    if record.get(keys.get("system", "")) not in (None, ""):
        said.add("system", record[keys["system"]])
    for question, answer in _history(record.get(keys.get("history", ""))):
        said.add("user", question)
        said.add("assistant", answer)
    if understood.layout is PAIR:
        for role, key in (("user", keys["prompt"]), ("assistant", keys["completion"])):
            value = record.get(key)
            if isinstance(value, list) and value and isinstance(value[0], dict) and "type" not in value[0]:
                _add_turns(said, value)
            else:
                said.add(role, value)
    else:
        turns = record.get(keys["conversation"])
        if not isinstance(turns, list) or not turns:
            raise UnusableError(f"no {keys['conversation']}", f"expected a list of turns, got {short(turns)}")
        _add_turns(said, turns)
    _require_order([role for role, _ in said.turns])
    return said


def _add_turns(said: _Conversation, turns: list[object]) -> None:
    for turn in turns:
        if not isinstance(turn, dict):
            raise UnusableError("turn not an object", f"expected {{role, content}}, got {short(turn)}")
        name = turn.get("role", turn.get("from"))
        role = _ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise UnusableError("role not supported", f"expected system, user or assistant, got {short(name)}")
        said.add(role, turn.get("content", turn.get("value")))


def _history(value: object) -> list[tuple[object, object]]:
    if value in (None, [], ""):
        return []
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return [(pair[0], pair[1]) for pair in value]
    raise UnusableError("history not pairs", f"expected a list of [question, answer], got {short(value)}")


def _require_order(roles: list[str]) -> None:
    """Require an optional system turn, then alternating questions and answers, with an answer as the last turn."""
    rest = roles[1:] if roles[:1] == ["system"] else roles
    for role in ("user", "assistant"):
        if role not in rest:
            raise UnusableError(f"no {role} turn", f"expected questions and answers, got {short(roles)}")
    if rest != ["user", "assistant"] * (len(rest) // 2):
        raise UnusableError(
            "turns out of order",
            f"expected user and assistant in turn, ending with assistant, got {short(roles)}",
            RejectKind.SEVERAL_EXCHANGES,
        )


def _pieces(content: object, role: str) -> Iterator[tuple[str, object]]:
    """Yield text, or an image; the image is `_NO_IMAGE` for text."""
    if isinstance(content, str):
        yield content, _NO_IMAGE
    elif isinstance(content, list):
        for part in content:
            yield _part(part)
    elif role == "assistant":
        reason = "caption null" if content is None else "caption not text"
        raise UnusableError(reason, f"expected text in the answer, got {short(content)}", RejectKind.NO_CAPTION)
    else:
        raise UnusableError("turn not text", f"expected text or a list of parts, got {short(content)}")


def _part(part: object) -> tuple[str, object]:
    if isinstance(part, str):
        return part, _NO_IMAGE
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in (*_IMAGE_TYPES, *_TEXT_TYPES):
        raise UnusableError("part not supported", f"expected a part of type text or image, got {short(part)}")
    if kind in _TEXT_TYPES:
        text = part.get("text")
        if not isinstance(text, str):
            raise UnusableError("turn not text", f"expected text in a part of type text, got {short(text)}")
        return text, _NO_IMAGE
    sources = [part[key] for key in _SOURCES if part.get(key) not in (None, "")]
    if len(sources) > 1:
        detail = f"expected one of {', '.join(_SOURCES)}, got {short(sorted(key for key in _SOURCES if part.get(key)))}"
        raise UnusableError("image part not clear", detail, RejectKind.UNUSABLE_FILE)
    if sources and part.get("base64") is sources[0] and isinstance(sources[0], str):
        return "", {"base64": sources[0]}
    return "", sources[0] if sources else None


def _images(record: Record, understood: Understood, said: _Conversation) -> list[object]:
    """Return the images of a row in the order of their `<image>`."""
    listed = _listed(record, understood)
    if listed and not said.named:
        if not understood.images_first:
            detail = f"expected {PLACEHOLDER} once for each image, got none"
            raise UnusableError("no <image> in the human turn", detail, RejectKind.NO_PLACEHOLDER)
        first = next(place for place, (role, _) in enumerate(said.turns) if role == "user")
        said.turns[first] = ("user", PLACEHOLDER * len(listed) + said.turns[first][1])
        return listed
    rest = iter(listed)
    images = [next(rest, None) if image is None else image for image in said.named]
    if None in images:
        detail = f"{len(images)} {PLACEHOLDER} or image parts for {len(images) - images.count(None)}"
        raise UnusableError("more <image> than images", detail, RejectKind.IMAGE_COUNT)
    left = len(list(rest))
    if left:
        detail = f"{len(images)} {PLACEHOLDER} or image parts for {len(images) + left} images"
        raise UnusableError("fewer <image> than images", detail, RejectKind.IMAGE_COUNT)
    return images


def _listed(record: Record, understood: Understood) -> list[object]:
    values = [record[key] for key in understood.images if record.get(key) not in (None, "", [])]
    if len(values) > 1:
        detail = f"expected one of {' and '.join(understood.images)}, got both"
        raise UnusableError("images named twice", detail, RejectKind.IMAGE_COUNT)
    return (list(values[0]) if isinstance(values[0], list) else [values[0]]) if values else []


def _with_parts(said: _Conversation, images: list[object], understood: Understood) -> list[Turn]:
    turns, first = [], 0
    for role, text in said.turns:
        if role != "user" and PLACEHOLDER in text:
            detail = f"remove {PLACEHOLDER} from {short(text)}"
            raise UnusableError("image token in caption", detail, RejectKind.IMAGE_IN_CAPTION)
        turns.append(Turn(role, parts_of(text, first)))
        first += text.count(PLACEHOLDER)
    assert first == len(images), f"{first} places for {len(images)} images ({understood.layout.name})"
    return turns


def _path(image: object, root: str, locate: Locate) -> str:
    """Return the path or address of an image."""
    if isinstance(image, StoredImage):
        return image.address
    if isinstance(image, Mapping):
        values = [value for key in _SOURCES if (value := image.get(key)) not in (None, "")]
        if isinstance(image.get("base64"), str) and image["base64"]:
            return locate(str(image["base64"]))
        if len(values) == 1:
            return _path(values[0], root, locate)
    if not isinstance(image, str):
        raise UnusableError("image not a path", f"expected a path, got {short(image)}", RejectKind.UNUSABLE_FILE)
    encoded = _DATA_URI.match(image)
    if encoded:
        return locate(image[encoded.end() :])
    if _URL.match(image):
        detail = f"images are not downloaded: save it as a file and name its path, got {short(image)}"
        raise UnusableError("image is a URL", detail, RejectKind.UNUSABLE_FILE)
    if not image.strip():
        raise UnusableError("no image", "expected the path of an image, got white space", RejectKind.IMAGE_COUNT)
    return inside_root(image.removeprefix("file://"), root)


def _require_answer(text: str) -> None:
    if not text.strip():
        raise UnusableError("caption blank", "expected text in the answer, got only white space", RejectKind.NO_CAPTION)
    inside = IMAGE_STRING.search(text)
    if inside:
        detail = f"remove {inside[0]} from {short(text)}"
        raise UnusableError("image token in caption", detail, RejectKind.IMAGE_IN_CAPTION)
