"""YAML that means what it says: the scalars of YAML 1.2, every key once, and bounded in bytes, values and depth.

PyYAML implements YAML 1.1, in which `yes` is true, `1:30` is 90, `010` is 8, `2024-01-01` is a date and `1e-3` is a
text, and it keeps the last of two equal keys. Here, a plain word is a number only if every reader sees a number:

    3  -1  1_000  0x1F  0o17          integers; a number with a leading zero is a text
    0.5  1e-3  1.  .5  .inf  .nan     numbers
    true  false                       booleans, also True and TRUE
    null  ~                           nothing, also Null, NULL and an empty value

Everything else is a text, also `yes`, `on`, `1:30` and `010`. Anchors, aliases and merges (`<<: *base`) are read; an
alias counts as often as it is used. Tags are refused.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from eyechart.outside import bounds

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")
_MERGE = "<<"


class YamlError(ValueError):
    """Text that is not YAML, or that means more than one thing; the message names the line."""


def parse_yaml(text: str) -> Any:
    """Parse one YAML document into dicts, lists, texts, numbers, booleans and None.

    Raises:
        YamlError: it is not valid YAML, has a key twice, has more than `bounds` allow, or uses tags.
    """
    if len(text) > bounds.CONFIG_BYTES:
        raise YamlError(f"{len(text):,} characters, at most {bounds.CONFIG_BYTES:,} are read")
    try:
        return _Reader(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())[:300]) from error


def parse_value(text: str) -> Any:
    """Parse the value of a setting on a command line: YAML if it begins with a bracket or a quote, else one scalar.

    So `run #1` and `a: b` are texts here, although they are more in a file.

    Raises:
        YamlError: as for `parse_yaml`.
    """
    if text.lstrip()[:1] in ("[", "{", '"', "'"):
        return parse_yaml(text)
    value = scalar(text.strip())
    if not isinstance(value, str):
        return value
    _require_unicode(text, "the value")
    return text


def scalar(text: str) -> str | int | float | bool | None:
    """Return what a plain scalar means.

    Raises:
        YamlError: it is a number of too many digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) or _BASED.fullmatch(text):
        if len(text) > bounds.DIGITS:
            raise YamlError(f"{text[:20]}... is a number of {len(text):,} digits, at most {bounds.DIGITS} are read")
        return int(text.replace("_", ""), 0)
    if _NUMBER.fullmatch(text) and not _LEADING_ZERO.match(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


@dataclass
class _Anchored:
    """A value with a name, for its aliases."""

    value: Any
    size: int
    height: int


@dataclass
class _Reader:
    """Builds the value of a document from PyYAML's events, one value at a time."""

    events: Any
    anchors: dict[str, _Anchored] = field(default_factory=dict)
    size: int = 0
    """Number of values so far."""

    def document(self) -> Any:
        next(self.events)  # the stream starts
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value, _ = self._value(next(self.events), 1)
        next(self.events)  # the document ends
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise YamlError(f"line {_line(event)}: a second document begins; put everything into one")
        return value

    def _value(self, event: Any, depth: int) -> tuple[Any, int]:
        """Return the value that begins with an event, and the number of levels in it."""
        self._count(1, depth, event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        before = self.size
        if event.tag not in _TEXT_TAGS or (event.tag is not None and not isinstance(event, yaml.ScalarEvent)):
            raise YamlError(f"line {_line(event)}: the tag {event.tag[:60]!r} is not supported; delete it")
        if isinstance(event, yaml.ScalarEvent):
            value, height = self._scalar(event), 1
        elif isinstance(event, yaml.SequenceStartEvent):
            value, height = self._list(depth)
        else:
            value, height = self._mapping(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchored(value, self.size - before + 1, height)
        return value, height

    def _count(self, more: int, depth: int, event: Any) -> None:
        self.size += more
        if self.size > bounds.YAML_NODES:
            raise YamlError(
                f"line {_line(event)}: more than {bounds.YAML_NODES:,} values, with every alias counted as what it "
                "repeats; write fewer"
            )
        if depth > bounds.YAML_DEPTH:
            raise YamlError(f"line {_line(event)}: more than {bounds.YAML_DEPTH} levels of nesting; write fewer")

    def _alias(self, event: Any, depth: int) -> tuple[Any, int]:
        found = self.anchors.get(event.anchor)
        if found is None:
            raise YamlError(f"line {_line(event)}: the alias *{event.anchor[:60]} names no complete value above")
        self._count(found.size - 1, depth + found.height - 1, event)
        return copy.deepcopy(found.value), found.height

    def _scalar(self, event: Any) -> Any:
        if event.style is None and event.tag is None:
            try:
                return scalar(event.value)
            except YamlError as error:
                raise YamlError(f"line {_line(event)}: {error}") from error
        _require_unicode(event.value, f"line {_line(event)}: the text")
        return event.value

    def _list(self, depth: int) -> tuple[list[Any], int]:
        items, height = [], 0
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            value, inner = self._value(event, depth + 1)
            items.append(value)
            height = max(height, inner)
        return items, height + 1

    def _mapping(self, depth: int) -> tuple[dict[Any, Any], int]:
        own: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        merged: list[dict[Any, Any]] = []
        height = 0
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            key, _ = self._value(event, depth + 1)
            value, inner = self._value(next(self.events), depth + 1)
            height = max(height, inner)
            if isinstance(key, (dict, list)):
                raise YamlError(f"line {line}: expected a word as the key, got a list or a mapping")
            if key in lines:
                raise YamlError(
                    f"lines {lines[key]} and {line}: the key `{str(key)[:60]}` occurs twice; delete one of them"
                )
            lines[key] = line
            if key == _MERGE and isinstance(event, yaml.ScalarEvent) and event.style is None:
                merged += _merged(value, line)
            else:
                own[key] = value
        base: dict[Any, Any] = {}
        for other in reversed(merged):
            base |= other
        return base | own, height + 1


def _merged(value: Any, line: int) -> list[dict[Any, Any]]:
    """Return the mappings that `<<` names, the first of which wins."""
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(item, dict) for item in found):
        raise YamlError(f"line {line}: `<<` expects an alias of a mapping, or a list of such aliases")
    return found


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _require_unicode(text: str, what: str) -> None:
    """Refuse half of a character, which could not be written to any file."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise YamlError(f"{what} is not valid Unicode at character {error.start + 1}; write it as UTF-8") from error


class _Dumper(yaml.SafeDumper):
    """Quotes every text that any reader of YAML, 1.1 or 1.2, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values twice and not as an alias."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Write a text in double quotes if it has characters that the other styles do not keep, such as U+0085."""
    plain = all(character.isprintable() or character == "\n" for character in text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)
for _pattern in (_INTEGER, _BASED, _NUMBER, _SPECIAL):
    _Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_pattern.pattern})$"), None)


def write_yaml(tree: Any) -> str:
    """Return plain values as YAML that `parse_yaml` reads back as equal values, and so does any other reader."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
