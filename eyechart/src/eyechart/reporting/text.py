"""Escaping of text from users and data files for our pages: captions, file names, reasons, command lines."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from eyechart.plain import one_line

_MARKDOWN = re.compile(r"([\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_]))")
_LINE_START = re.compile(r"^([#>|]|[+\-=](?=[\s+\-=]|$)|\d+(?=[.)](?:\s|$)))")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_ROOT = r"(?:file://)?(?:(?:~[\w.-]*)?/(?!/)|[A-Za-z]:(?:/|\\\\?))"
# A path that begins at the root, a home folder or a drive. A slash after a word (`zero/noise`) or after another ending
# of a folder's name (`run (2)/split.json`) does not begin a path, and neither do the slashes of a URL.
_QUOTED_PATH = re.compile(rf"(?<=['\"]){_ROOT}[^'\"]+(?=['\"])")
_PATH = re.compile(rf"(?<![\w.~/\\)\]}}+\-@%!#$&^]){_ROOT}[^\s'\"`,;:()<>]+")
_RTL = r"\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff"
# Words written from right to left, with the characters that join them. A list (`'x', 'y'`) is several such runs, so
# that its order is kept.
_RTL_RUN = re.compile(rf"[{_RTL}](?:[\w{_RTL}\u200c\u200d]|[ '\"\-](?=[{_RTL}]))*")


def isolated(text: str) -> Markup:
    """Return a sentence as HTML, with right-to-left words in <bdi>, so that they do not reorder the text after them."""
    parts, end = [], 0
    for run in _RTL_RUN.finditer(text):
        parts += [escape(text[end : run.start()]), Markup("<bdi>{}</bdi>").format(run[0])]
        end = run.end()
    return Markup("").join([*parts, escape(text[end:])])


def shortened(text: str, most: int) -> str:
    """Shorten a text to at most `most` characters, with an ellipsis in place of the rest."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\u2026"


def without_folders(text: str) -> str:
    """Write absolute paths as `.../<last part>`, because a shared page must not reveal folder names."""
    for pattern in (_QUOTED_PATH, _PATH):
        text = pattern.sub(_last_part, text)
    return text


def _last_part(match: re.Match[str]) -> str:
    return ".../" + re.split(r"[/\\]+", match[0].rstrip("/\\"))[-1]


def markdown(text: str) -> str:
    """Return one line that Markdown renders as `text`, without markup, HTML, links, lists or headings."""
    escaped = _MARKDOWN.sub(r"\\\1", one_line(text))
    escaped = _TAG.sub("&lt;", _ENTITY.sub("&amp;", escaped))
    # GitHub also makes links from bare addresses.
    escaped = escaped.replace("://", r"\://").replace("www.", r"www\.").replace("@", r"\@")
    return _LINE_START.sub(lambda m: f"{m[1]}\\" if m[1].isdigit() else f"\\{m[1]}", escaped)


def code(text: str) -> str:
    """Return one line as a Markdown code span, even if it contains backticks."""
    line = one_line(text)
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def code_block(lines: list[str], language: str = "") -> str:
    """Return lines as a fenced block, with a fence that none of the lines can close."""
    shown = [one_line(line) for line in lines]
    fence = "`" * max(3, max((_longest_run(line) for line in shown), default=0) + 1)
    return "\n".join([fence + language, *shown, fence])


def _longest_run(line: str) -> int:
    return max((len(run) for run in re.findall("`+", line)), default=0)
