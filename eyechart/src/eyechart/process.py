"""A command as a process of its own: nothing but the command decides its exit code.

A library may end the process from C (OpenMP calls `exit(1)` where it cannot start a thread), and a library may crash
while the interpreter ends, after the verdict. Either would be read as a verdict, or replace one.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from eyechart import signals
from eyechart.exits import code_of

_INTERNAL = 4


class _Ending:
    """The exit code of this process, as far as it is decided."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.kept: list[Any] = []
        """What C holds a pointer to."""

    def trap(self) -> None:
        """Take notice of a library that ends this process with C's `exit`. Only glibc has what is needed."""
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "on_exit"):
            return
        called = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(self.ended_by_library)
        self.kept.append(called)
        libc.on_exit(called, None)
        # Called last of all, and it does not return: afterwards there is no interpreter that the trap could call.
        atexit.register(self.end)

    def ended_by_library(self, status: int, _: object) -> None:
        """Replace a code that a library has chosen."""
        signals.discard_drafts()
        with contextlib.suppress(OSError):
            os.write(2, b"internal error: a library ended the process (code %d); its message is above\n" % status)
        os._exit(_INTERNAL)

    def end(self) -> None:
        """End the process with the code of the command."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a stream that is gone, which was reported where it mattered
                stream.flush()
        with contextlib.suppress(Exception):
            ctypes.CDLL(None).fflush(None)
        os._exit(_INTERNAL if self.code is None else self.code)


def as_program(main: Callable[[], int], package: str = "eyechart") -> NoReturn:
    """Run a command as this process, and end it with the exit code of the command.

    Args:
        main: reads the command line, runs the command in `exits.guarded` and returns its exit code. It should itself
            import what the command needs, because signals are handled from here on.
        package: the package of the command, as for `exits.code_of`.
    """
    _open_missing_descriptors()
    ending = _Ending()
    ending.trap()
    with signals.on_signal(signals.stop):
        try:
            ending.code = main()
        except SystemExit as asked:  # `--help`
            ending.code = asked.code if isinstance(asked.code, int) else 0
        except BaseException as error:  # noqa: BLE001 - outside `exits.guarded`, such as a signal just before its end
            ending.code = code_of(error, package)
    signals.from_now_on(lambda _: ending.end())  # the work is done, so that a signal only ends the process earlier
    sys.exit(ending.code)


def _open_missing_descriptors() -> None:
    """Open the null device for standard streams that are closed: a file would get their number, and their messages."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
