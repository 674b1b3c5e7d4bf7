"""Reads the arguments of a command with tyro, and reports an error in one line, as all commands do."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

_WIDE = "10000"
"""Columns in which tyro writes an error, so that none of its words is cut in two."""


def parsed(kind: Any, prog: str, arguments: Sequence[str], about: str | None = None) -> tuple[Any, list[str]]:
    """Return the command that the arguments describe, and the arguments that tyro does not know.

    Raises:
        ValueError: tyro refuses the arguments; one line instead of its box.
    """
    import tyro

    def parse() -> tuple[Any, list[str]]:
        found = tyro.cli(kind, prog=prog, description=about, args=arguments, return_unknown_args=True)
        return found[0], list(found[1])

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse()
    except SystemExit as ended:
        if ended.code != 2:
            raise
    with contextlib.redirect_stderr(io.StringIO()) as said, _columns(_WIDE), contextlib.suppress(SystemExit):
        parse()
    raise ValueError(f"{_message_of(said.getvalue())}; `{prog} --help` lists the options")


@contextlib.contextmanager
def _columns(width: str) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = width
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _message_of(box: str) -> str:
    """Return the sentence in a box that tyro draws: what is after its title, up to the next rule.

    Where the encoding has no lines to draw, rules consist of hyphens, and there is one below the title, too.
    """
    words: list[str] = []
    for line in (line.strip("\u2502| ") for line in box.splitlines()[1:]):
        if line.strip("\u2500-\u2570\u256f"):
            words.append(line)
        elif words:
            break
    return " ".join(words).rstrip(". ") or "the arguments are not understood"
