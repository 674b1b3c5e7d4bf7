"""docs/commands.md from the commands themselves: `python tests/command_docs.py > docs/commands.md`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any, get_args

from qwen3_vlm import cli

HEAD = """# Commands

<!-- Written by `python tests/command_docs.py > docs/commands.md`; edit the commands in src/qwen3_vlm instead. -->

`qwen3-vlm COMMAND --help` prints the same text. Every command except `export` also takes any config field, such as
`--train.lr 1e-3` ([config.md](config.md)). Exit codes: 0 pass, 1 fail (or stopped by a named fault), 2 bad input, 3
inconclusive, 4 an internal error, 130 interrupted.
"""


def commands() -> dict[str, type]:
    """Command classes by the name a user types."""
    return {kind.__name__.lower(): kind for kind, *_ in map(get_args, get_args(cli.commands()))}


def field_docs(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, bool):
        return "off"
    return f"`{field.default.as_posix() if isinstance(field.default, Path) else field.default}`"


def page() -> str:
    parts = [HEAD]
    for name, kind in commands().items():
        summary, *rest = [" ".join(block.split()) for block in (inspect.getdoc(kind) or "").split("\n\n")]
        example = next(block.removeprefix("Example: ") for block in rest if block.startswith("Example: "))
        parts.append(f"\n## {name}\n\n{summary}\n\n```bash\n{example}\n```\n\n")
        parts.append("| argument | default | what it does |\n|---|---|---|\n")
        docs = field_docs(kind)
        for field in dataclasses.fields(kind):
            shown = field.name.upper() + "..." if field.name == "images" else f"--{field.name}"
            parts.append(f"| `{shown}` | {default(field)} | {docs[field.name].replace('|', '&#124;')} |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
