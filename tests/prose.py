"""Finds code that parses a sentence: for `test_prose.py`.

Sentences are for readers. What code has to know is passed next to them, as a field, a type or an enumeration; code that
parses a message breaks when its wording improves. It finds, in one module,

- text methods and regular expressions that look for words, or for `; ` or `: `, in anything;
- text methods, `in` and `==` on a message: `str(error)`, `reject.reason`, a name that was made of an error;
- tables that are looked up by a message.

Values of the results' enumerations, such as `ruled out`, are codes and not sentences.

It does not report `"; ".join`, `.split()` without arguments, which normalises white space, or a test of the last
character.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from eyechart import results

METHODS = {
    *("partition", "rpartition", "split", "rsplit", "startswith", "endswith", "removeprefix", "removesuffix"),
    *("find", "rfind", "index", "rindex"),
}
PATTERNS = {"match", "search", "fullmatch", "compile", "findall", "finditer", "split", "sub"}
"""Functions of `re` whose first argument is a pattern."""
SENTENCES = {"message", "reason", "sentence", "detail", "fix", "source", "said"}
"""Names and attributes that hold sentences."""
ENUMERATIONS = {
    value
    for name, kind in vars(results).items()
    if get_origin(kind) is Literal and not name.startswith("_")
    for value in get_args(kind)
} | {"training", "audit", "score"}
"""Values of the results' enumerations, of which some are two words; the last are those of `Coverage.source`."""
_UNCHANGED = {"lower", "upper", "casefold", "strip", "lstrip", "rstrip"}
_WORDS = re.compile(r"\w\S* \S*\w|[;:,.] ")


@dataclass(frozen=True)
class Finding:
    """A place that reads a sentence."""

    line: int
    code: str
    """The expression as `ast.unparse` writes it."""


def constants(tree: ast.Module) -> dict[str, list[str]]:
    """Module-level names with the strings in their values: `WARNING = "warning: "`."""
    found: dict[str, list[str]] = {}
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if value is not None and isinstance(value, ast.Constant | ast.Tuple | ast.List | ast.Set):
            found |= {target.id: _strings(value, {}) for target in targets if isinstance(target, ast.Name)}
    return found


def find_parsing(tree: ast.Module, known: Mapping[str, list[str]]) -> Iterator[Finding]:
    """Places of a module that read a sentence.

    Args:
        tree: the module.
        known: `constants` of all modules, which this one may import.
    """
    errors = {h.name for h in ast.walk(tree) if isinstance(h, ast.ExceptHandler) and h.name} | {"error"}
    reader = _Reader(errors, SENTENCES | _made_of(tree, errors), {**known, **constants(tree)})
    for node in ast.walk(tree):
        if (
            (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and reader.calls(node, node.func))
            or (isinstance(node, ast.Subscript) and reader.looks_up(node.value, node.slice))
            or (isinstance(node, ast.Compare) and reader.compares(node))
        ):
            yield Finding(node.lineno, ast.unparse(node))


@dataclass(frozen=True)
class _Reader:
    """What is a sentence in one module."""

    errors: set[str]
    """Names of caught exceptions."""
    names: set[str]
    """Names of sentences."""
    known: Mapping[str, list[str]]
    """Strings of named constants."""

    def calls(self, node: ast.Call, method: ast.Attribute) -> bool:
        """A text method, a function of `re`, or `get` of a table."""
        owner, arguments = method.value, node.args
        if isinstance(owner, ast.Name) and owner.id == "re":
            searched = any(map(self.is_sentence, arguments[1:]))
            return method.attr in PATTERNS and (searched or self.has_words(*arguments[:1]))
        if method.attr == "get":
            return bool(arguments) and self.looks_up(owner, arguments[0])
        if method.attr not in METHODS or not arguments or (method.attr == "endswith" and self.ends(arguments[0])):
            return False
        return self.has_words(*arguments) or self.is_sentence(owner)

    def compares(self, node: ast.Compare) -> bool:
        """`in`, `not in`, `==` or `!=` with words, or of a sentence with a constant."""
        for left, operator, right in zip((node.left, *node.comparators), node.ops, node.comparators, strict=False):
            if isinstance(operator, ast.In | ast.NotIn | ast.Eq | ast.NotEq):
                within = isinstance(operator, ast.In | ast.NotIn)
                if (
                    self.has_words(left, right)
                    or (self.is_sentence(left) and any(self.strings(right)))
                    or (self.is_sentence(right) and (within or any(self.strings(left))))
                ):
                    return True
        return False

    def looks_up(self, table: ast.expr, key: ast.expr) -> bool:
        """A constant of the module, indexed by a sentence."""
        return isinstance(table, ast.Name) and table.id.isupper() and self.is_sentence(key)

    def is_sentence(self, node: ast.expr) -> bool:
        node = _bare(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str":
            return any(isinstance(arg, ast.Name) and arg.id in self.errors for arg in node.args)
        if isinstance(node, ast.JoinedStr):
            return _tells(node, self.errors)
        return (isinstance(node, ast.Name) and node.id in self.names) or (
            isinstance(node, ast.Attribute) and node.attr in SENTENCES
        )

    def has_words(self, *nodes: ast.expr) -> bool:
        return any(_WORDS.search(text) for node in nodes for text in self.strings(node))

    def ends(self, node: ast.expr) -> bool:
        """Single signs, such as a full stop: they concern punctuation, not the content."""
        texts = self.strings(node)
        return bool(texts) and all(len(text) == 1 and not text.isalnum() for text in texts)

    def strings(self, node: ast.expr) -> list[str]:
        return _strings(node, self.known)


def _made_of(tree: ast.Module, errors: set[str]) -> set[str]:
    """Names that are given a text made of an error: `first = first_line(error)`."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _tells(node.value, errors)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _tells(node: ast.expr, errors: set[str]) -> bool:
    """Whether an error is formatted in it, or passed to a function that may do so."""
    inside = [part.value for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
    inside += [arg for part in ast.walk(node) if isinstance(part, ast.Call) for arg in part.args]
    return any(isinstance(part, ast.Name) and part.id in errors for part in inside)


def _bare(node: ast.expr) -> ast.expr:
    """Without methods that do not change the words of a text."""
    while (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _UNCHANGED
    ) or isinstance(node, ast.Subscript):
        node = node.value if isinstance(node, ast.Subscript) else node.func.value  # type: ignore[attr-defined]
    return node


def _strings(node: ast.expr, known: Mapping[str, list[str]]) -> list[str]:
    """The strings in an expression, also those of constants named in it."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) and node.value not in ENUMERATIONS else []
    if isinstance(node, ast.Name):
        return known.get(node.id, [])
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return [text for part in node.elts for text in _strings(part, known)]
    if isinstance(node, ast.JoinedStr):
        return [text for part in node.values for text in _strings(part, known)]
    return []
