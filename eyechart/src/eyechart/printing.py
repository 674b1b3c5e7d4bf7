"""The only place that writes to the terminal: every command and every message of both packages goes through here.

Three things hold for everything that is printed. A text from outside cannot control the terminal (`eyechart.plain`). A
character that the encoding lacks is written as its escape. An output that cannot be written any more (`| head`, `>&-`,
a full disk) stops nothing: it is recorded, and `eyechart.exits` decides what it means for the exit code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from eyechart.plain import encodable, json_kept, lines_kept, one_line


class Output:
    """Standard output or standard error while a command runs. Anything else a library asks of it, the stream answers.

    Our own lines are made harmless before they get here; this class does the same for what libraries write. From them
    it keeps line breaks, and on a terminal colours and the movements of a progress bar.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Take over a stream; None if the process was started without it."""
        self.only_copy = True
        """Whether the output may have a result that is in no file; commands that write files deny it."""
        self.lost: OSError | None = None
        """Why something could not be written; None as long as all was."""
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - it lives as long as the process
            self.lost = OSError(errno.EPIPE, "closed when the command was started")
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; if that fails, record it."""
        shown = lines_kept(text, colours=self._stream.isatty())
        with self._recorded():
            self._stream.write(encodable(shown, self._stream.encoding))
        return len(text)

    def flush(self) -> None:
        """Hand what was written to the system; if that fails, record it."""
        with self._recorded():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream, such as `isatty` or `encoding`."""
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error
            # What is still in the buffer would fail again when the interpreter ends, and change the exit code.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - not a file of ours
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextlib.contextmanager
def outputs() -> Iterator[tuple[Output, Output]]:
    """Put an `Output` in the place of standard output and of standard error, and return both."""
    before = sys.stdout, sys.stderr
    ours = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = ours  # it has every attribute of the stream
    try:
        yield ours
    finally:
        for output in ours:
            output.flush()
        sys.stdout, sys.stderr = before


def results_are_in_files() -> None:
    """Record that the results of this command have been written to files, so that nothing depends on its output."""
    if isinstance(sys.stdout, Output):
        sys.stdout.only_copy = False


def out(*cells: str, stream: TextIO | None = None) -> None:
    """Print one line to standard output, or to `stream`; several cells with tabs between them."""
    stream = sys.stdout if stream is None else stream
    stream.write(encodable("\t".join(map(indented, cells)), stream.encoding) + "\n")


def out_json(text: str) -> None:
    """Print a JSON document to standard output, for a program that reads it there, also if a file has it."""
    if isinstance(sys.stdout, Output):
        sys.stdout.only_copy = True
    sys.stdout.write(json_kept(text) + "\n")


def err(line: str) -> None:
    """Print one line to standard error."""
    out(line, stream=sys.stderr)


def indented(text: str) -> str:
    """Return a text as one harmless line that keeps the spaces at its beginning."""
    return " " * (len(text) - len(text.lstrip(" "))) + one_line(text)
