"""The layouts of a row, and how they are recognised by the keys of the first rows.

A layout is recognised if, for each of its roles, exactly one known key has a value in the first rows. If no layout or
several fit, the file is rejected with the keys that were found. A specification names the layout, the keys, or both:

    captions        captions,image=picture,caption=title        image=picture
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eyechart.data.records import Record
from eyechart.exits import InputError

AUTO = "auto"
FIRST_ROWS = 200
"""Number of rows whose keys decide the layout."""

ROLES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "conversation": (("messages", "conversations"),),
    "prompt": (("prompt", "query", "question", "instruction"),),
    "completion": (("completion", "response", "answer", "output"),),
    "caption": (("caption", "text", "txt", "description"),),
    "image": (("image", "images", "file_name", "filename", "image_path", "img", "jpg", "jpeg", "png", "webp"),
              ("file", "path")),
    "id": (("id",), ("__key__", "key")),
    "system": (("system",),),
    "history": (("history",),),
}  # fmt: skip
"""Known keys of every role. Keys of a later group are only used if a row has none of the earlier ones."""


@dataclass(frozen=True)
class Layout:
    """The form of a row."""

    name: str
    roles: tuple[str, ...]
    """Roles that must have a key. Images and ids are read if they have one."""
    form: str
    """The keys, for messages."""
    images_first: bool = True
    """Whether images that no text refers to are placed before the first question; otherwise such a row is rejected."""


LLAVA = Layout("llava", ("conversation",), "conversations with from and value, image", images_first=False)
SHAREGPT = Layout("sharegpt", ("conversation", "image"), "conversations, images", images_first=False)
MESSAGES = Layout("messages", ("conversation",), "messages with role and content, images")
PAIR = Layout("prompt-completion", ("prompt", "completion"), "prompt/query/question and completion/response/answer")
CAPTIONS = Layout("captions", ("image", "caption"), "image/file_name/file and caption/text")
LAYOUTS = {layout.name: layout for layout in (LLAVA, SHAREGPT, MESSAGES, PAIR, CAPTIONS)}


@dataclass(frozen=True)
class Understood:
    """A layout and the keys that it is read from."""

    layout: Layout
    keys: Mapping[str, str]
    """Key by role."""
    unread: tuple[str, ...]
    """Keys that were found but are not read."""
    images: tuple[str, ...] = field(default=())
    """Keys of images: the one in `keys`, and `image` or `images` if rows have either."""
    places_optional: bool = False
    """Whether images may be absent from all texts in every layout, because the caller replaces the question."""

    @property
    def images_first(self) -> bool:
        """Whether images that no text refers to precede the first question; otherwise such a row is rejected."""
        return self.places_optional or self.layout.images_first


def layout_choice(text: str) -> tuple[Layout | None, dict[str, str]]:
    """Parse a specification: `auto`, the name of a layout, `role=key` pairs, or a name and pairs, with commas.

    Raises:
        InputError: an unknown layout or role.
    """
    layout: Layout | None = None
    keys: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        role, equals, key = (piece.strip() for piece in part.partition("="))
        if equals and role in ROLES and key:
            keys[role] = key
        elif not equals and role in LAYOUTS and layout is None:
            layout = LAYOUTS[role]
        elif part != AUTO:
            raise InputError(
                f"layout: expected {AUTO}, one of {', '.join(LAYOUTS)}, or pairs such as caption=title with the roles "
                f"{', '.join(ROLES)}, got {part!r}",
                "write for example captions,image=picture,caption=title",
            )
    return layout, keys


def understand(path: Path, records: Sequence[Record], choice: str = AUTO) -> Understood:
    """Recognise the layout of rows.

    Args:
        path: the data, for messages.
        records: the first rows.
        choice: a specification, see `layout_choice`.

    Raises:
        InputError: no layout fits, several fit, or several keys may have one role. The message lists the layouts that
            were considered, the keys that were found, and how to specify the layout.
    """
    named, given = layout_choice(choice)
    found = _keys_of(records)
    absent = [f"{role}={key}" for role, key in given.items() if key not in found]
    if absent:
        raise InputError(f"{path}: layout: no row has the key of {', '.join(absent)}", f"the rows have {_list(found)}")
    considered = [named] if named else list(LAYOUTS.values())
    fitting = [layout for layout in considered if _fits(layout, found, given, records)]
    if not named and any(layout is not CAPTIONS for layout in fitting) and "caption" not in given:
        fitting = [layout for layout in fitting if layout is not CAPTIONS]  # conversations may also have a caption
    if len(fitting) != 1:
        raise _not_clear(path, fitting, considered, records, given)
    layout = fitting[0]
    keys = {role: _key(path, role, found, given, layout) for role in ROLES}
    known = {role: key for role, key in keys.items() if key is not None and _is_read(layout, role)}
    pair = ("image", "images") if known.get("image") in ("image", "images") and "image" not in given else ()
    images = tuple(key for key in pair if key in found) or tuple(filter(None, [known.get("image")]))
    read = {*known.values(), *images}
    return Understood(layout, known, tuple(key for key in found if key not in read), images)


def fits_any(keys: Collection[str]) -> bool:
    """Return whether an object with these keys may be a row of any layout."""
    return any(_fits(layout, tuple(keys), {}, ()) for layout in LAYOUTS.values())


def _keys_of(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the keys that have a value in any record."""
    return tuple(dict.fromkeys(key for record in records for key, value in record.items() if value is not None))


def _is_read(layout: Layout, role: str) -> bool:
    if role in layout.roles or role in ("image", "id"):
        return True
    return role in ("system", "history") and layout is not CAPTIONS


def _candidates(role: str, found: Sequence[str], given: Mapping[str, str]) -> list[str]:
    if role in given:
        return [given[role]]
    taken = set(given.values())
    for group in ROLES[role]:
        keys = [key for key in group if key in found and key not in taken]
        if keys:
            return keys
    return []


def _fits(layout: Layout, found: Sequence[str], given: Mapping[str, str], records: Sequence[Record]) -> bool:
    if not all(_candidates(role, found, given) for role in layout.roles):
        return False
    if "conversation" not in layout.roles:
        return True
    keys = _candidates("conversation", found, given)
    if "conversation" in given or _has_roles(records, keys[-1]):
        return layout is MESSAGES
    if layout is MESSAGES:
        return "messages" in keys
    return "conversations" in keys and (layout is SHAREGPT) == ("images" in found)


def _has_roles(records: Sequence[Record], key: str) -> bool:
    """Return whether the turns have `role` and `content` and not `from` and `value`."""
    for record in records:
        turns = record.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return "role" in turns[0] and "from" not in turns[0]
    return False


def _key(path: Path, role: str, found: Sequence[str], given: Mapping[str, str], layout: Layout) -> str | None:
    keys = _candidates(role, found, given)
    if role == "image" and set(keys) == {"image", "images"}:
        return "image"
    if len(keys) > 1 and _is_read(layout, role) and role != "id":
        raise InputError(
            f"{path}: layout {layout.name}: {len(keys)} keys may be the {role}: {', '.join(keys)} (found "
            f"{_list(found)})",
            f"name one of them with --layout or data.layout: {layout.name},{role}={keys[0]}",
        )
    return keys[0] if keys else None


def _not_clear(
    path: Path,
    fitting: Sequence[Layout],
    considered: Sequence[Layout],
    records: Sequence[Record],
    given: Mapping[str, str],
) -> InputError:
    found = _keys_of(records)
    where = "name the layout and its keys with --layout or data.layout, such as"
    if fitting:
        names = "; ".join(f"{layout.name} ({layout.form})" for layout in fitting)
        return InputError(
            f"{path}: {len(fitting)} layouts fit: {names}; the keys found are {_list(found)}",
            f"{where} {fitting[0].name}",
        )
    known = {key for groups in ROLES.values() for group in groups for key in group} | set(given.values())
    strange = [key for key in found if key not in known]
    likely = considered[0] if len(considered) == 1 else CAPTIONS
    pairs = [f"{role}={_likely_key(role, records[0], strange, given)}" for role in likely.roles]
    return InputError(
        f"{path}: no layout fits: the keys found are {_list(found)}, not understood: {_list(strange)}; considered "
        f"{'; '.join(f'{layout.name} ({layout.form})' for layout in considered)}",
        f"{where} {likely.name},{','.join(pairs)}",
    )


def _likely_key(role: str, record: Record, strange: Sequence[str], given: Mapping[str, str]) -> str:
    """Return a key for the example in a message: a known one, or one whose value looks like the role."""
    keys = _candidates(role, tuple(record), given)
    if keys:
        return keys[0]
    texts = {key: value for key in strange if isinstance(value := record.get(key), str)}
    files = [
        key for key, value in texts.items() if re.search(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", value, re.IGNORECASE)
    ]
    others = sorted((key for key in texts if key not in files), key=lambda key: -len(texts[key]))
    return next(iter(files if role == "image" else others), "KEY")


def _list(keys: Sequence[str]) -> str:
    shown = [key if len(key) <= 40 else f"{key[:37]}..." for key in keys[:20]]
    return f"{', '.join(shown) or 'none'}{' and more' if len(keys) > 20 else ''}"
