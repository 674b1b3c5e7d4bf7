"""Generates docs/config.md from the field docstrings of the config.

python -m qwen3_vlm.commands.config_docs > docs/config.md
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from eyechart.reporting import text
from qwen3_vlm.config import Config

_HEADER = """\
# Config

<!-- Written by `python -m qwen3_vlm.commands.config_docs > docs/config.md`; edit src/qwen3_vlm/config.py instead. -->

A run is a YAML file with these sections; `configs/` has examples. A field that the file does not set has its default.
Any field can be set on the command line with `--section.field value`; the value is written as in YAML:

```bash
qwen3-vlm train --config configs/stage1_align_tiny.yaml --train.lr 1e-3 --output_dir outputs/other
```

Paths are relative to the working directory. An unknown key or a value out of range ends the run with a one-line error
and exit code 2.
"""
_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def config_docs() -> str:
    """Return the whole of docs/config.md as Markdown."""
    return "\n".join([_HEADER, *_section(Config, "")])


def _section(section: type[BaseModel], prefix: str) -> Iterator[str]:
    yield f"## {prefix.rstrip('.') or 'Top level'}\n"
    yield f"{section.__doc__}\n"
    yield "| field | value | default | what it does |"
    yield "|---|---|---|---|"
    deeper = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            deeper.append((field.annotation, f"{prefix}{name}."))
            continue
        assert field.description, f"{prefix}{name} has no docstring in config.py"
        default = text.code(json.dumps(field.get_default(), ensure_ascii=False))
        cells = (f"`{prefix}{name}`", _value(field), default, " ".join(field.description.split()))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    for inner, inner_prefix in deeper:
        yield from _section(inner, inner_prefix)


def _value(field: FieldInfo) -> str:
    bounds = [
        f"{words} {getattr(rule, sign):,}" for rule in field.metadata for sign, words in _BOUNDS.items()
        if hasattr(rule, sign)
    ]  # fmt: skip
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(text.code(str(value)) for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {len(arguments)}: {', '.join(_type(argument) for argument in arguments)}"
    return _TYPES[annotation]


if __name__ == "__main__":
    sys.stdout.write(config_docs())
