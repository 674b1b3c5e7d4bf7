"""Text from outside (file names, captions, exceptions) in a form that changes nothing on a terminal or in a page.

No character is dropped: one that cannot be displayed is shown as its code point.
"""

from __future__ import annotations

import re

_HIDDEN = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters (C0, DEL, C1), line and paragraph separators, characters that change the reading direction of the
rest of the line, and halves of characters, which no encoding can write."""
_ANY_HIDDEN = re.compile(f"[{_HIDDEN}]")
_SEQUENCE = re.compile(r"\x1b\[[0-9;]*[mAK]|[\n\r\t]")
"""What a progress bar and coloured text consist of: colour, one line up, erase the line."""


def one_line(text: str) -> str:
    """Collapse white space to single spaces, and write control and direction characters as `<U+001B>`."""
    return _ANY_HIDDEN.sub(_code_point, " ".join(text.split()))


def lines_kept(text: str, colours: bool) -> str:
    """Write control and direction characters as `<U+001B>`, except line breaks and tabs.

    Args:
        text: what a library writes to a terminal or a file.
        colours: whether to keep the sequences for colours and progress bars, too.
    """
    if not _ANY_HIDDEN.search(text):
        return text
    kept = _SEQUENCE.pattern if colours else r"[\n\r\t]"
    return re.sub(f"({kept})|[{_HIDDEN}]", lambda found: found[1] or _code_point(found), text)


def json_kept(text: str) -> str:
    """Return the same JSON document with control and direction characters as JSON escapes."""
    return re.sub(f"(\n)|[{_HIDDEN}]", lambda found: found[1] or f"\\u{ord(found[0]):04x}", text)


def encodable(text: str, encoding: str | None) -> str:
    """Replace characters that an encoding lacks by their escapes in Python, with a backslash."""
    name = encoding or "utf-8"
    return text.encode(name, "backslashreplace").decode(name)


def _code_point(found: re.Match[str]) -> str:
    return f"<U+{ord(found[0]):04X}>"
