"""Finds expressions that a reader could misunderstand or find odd: for `test_plain_words.py`.

CONTRIBUTING.md has the word list. This file checks the worst entries in everything that can be read: docstrings,
comments and strings of Python files, and the text of other files. Code in Markdown (fenced, or in backticks), names and
paths are not checked.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Rule(NamedTuple):
    """One expression, and what to write instead."""

    pattern: re.Pattern[str]
    instead: str


class Hit(NamedTuple):
    """An expression that was found."""

    line: int
    words: str
    instead: str


_TABLE = {
    r"mend(?:s|ed|ing)?": "fix, repair, change",
    r"behind": "after (for order); through, with, adapted to (for interfaces)",
    r"len(?:ds?|t|ding)": "provides, shares, is used for",
    r"strangers?(?: to)?": "users, other projects; not trained on",
    r"cure[sd]?": "fix",
    r"in peace": "unchanged, without errors",
    r"what becomes of": "name the change or the result",
    r"nobody|somebody|everybody|anybody": "name who it is, or use the passive: `is not read`, `a user`",
    r"one clear line": "a one-line error",
    r"for people": "readable",
    r"would do|will do|would do as well": "is enough, works, is suitable",
    r"(?:has|have|had|does|do|is|are) it not": "normal word order: `it does not have`",
    r"has it not|have it not|had it not": "normal word order: `does not have it`",
    r"told and never judged|only said": "reported for context, does not affect the verdict; informational",
    r"go(?:es)? by (?:the|an?|id)\b": "uses, depends on, is in the order of",
    r"gives? away": "reveals",
    r"a bug of ours": "an internal error",
    r"(?:stands?|stood) (?:in for|beside|behind|there|before)": "replaces; is next to, is in, precedes",
    r"where (?:it|he|one) has not": "if it has none",
    r"an even choice": "an evenly spaced selection",
    r"to speak of": "give the threshold, or leave it out",
    r"not to be had|(?:can|cannot) be had|to be had": "available, not available",
    r"so many (?:steps|images|samples|gates|batches|pixels|looks|captions|label tokens)": "this many, the number of",
    r"told apart": "distinguished, identified",
    r"without a word|in silence": "silently, without a warning",
    r"by heart": "memorised",
    r"unremarked": "without a warning",
}
"""Expressions (between word boundaries and not inside hyphens, in any case) and what to write instead."""
RULES = [
    Rule(re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE), instead)
    for pattern, instead in _TABLE.items()
]


def hits(text: str) -> Iterator[Hit]:
    """Expressions in a text; a line break counts as a space."""
    flat = re.sub(r"\s", " ", text)
    for rule in RULES:
        for match in rule.pattern.finditer(flat):
            yield Hit(text.count("\n", 0, match.start()) + 1, match[0], rule.instead)


def hits_in_file(path: Path) -> list[Hit]:
    """Expressions in the prose of a file, by line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = [hit._replace(line=hit.line + start - 1) for start, text in _prose(source) for hit in hits(text)]
    else:
        found = list(hits(without_code(source) if path.suffix == ".md" else source))
    return sorted(found)


def without_code(text: str) -> str:
    """Markdown with fenced blocks, code spans and link targets blanked, line by line."""
    text = re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)[^`]*?\1|(?<=\])\([^)\n]*\)", lambda m: "`" + "\n" * m[0].count("\n"), text)


def _prose(source: str) -> Iterator[tuple[int, str]]:
    """First line and text of every comment block and every string with a space, implicitly joined ones as one."""
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ")
            if comments and comments[-1][0] + comments[-1][1].count("\n") + 1 == token.start[0]:
                comments[-1] = (comments[-1][0], f"{comments[-1][1]}\n{words}")
            else:
                comments.append((token.start[0], words))
    yield from comments
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"`[^`\n]*`", "`", node.value)
