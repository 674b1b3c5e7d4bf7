"""Exit codes of the commands, and one-line error messages instead of tracebacks.

The codes:

0 pass    1 FAIL, or stopped on a non-finite value or a named fault    2 bad input or usage, or a limit of the machine
3 inconclusive
4 an internal error (message, traceback in a file)
130 interrupted by INT, TERM or HUP; a process of the job was lost; the only copy of a result was not read

An output that cannot be written does not stop a command. If what it printed is also in files, or nothing but messages,
the code is its own; otherwise it is 130 where the reader has gone (`| head`, `>&-`), and 2 where a disk is full.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eyechart import signals
from eyechart.plain import encodable, one_line
from eyechart.printing import Output, err, outputs

INTERRUPTED = 130
"""The exit code of a command that a signal stopped."""
MOST_THREADS = 1024
"""Largest number of threads of PyTorch. Where the system refuses a thread, OpenMP ends the process with exit code 1."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
# Errors caused by the machine and not by this package: no space, no permission, a folder instead of a file.
_ENVIRONMENT = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY"),
        *("ELOOP", "ENAMETOOLONG", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EBUSY", "ETXTBSY", "EIO", "ENXIO"),
        *("ENODEV", "EXDEV", "EMLINK", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EOPNOTSUPP"),
    )
    if hasattr(errno, name)
}
_VERY_LONG = re.compile(r"\S{400,}")
"""A word of a message that is shown in part; paths are rarely longer."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "failed to map segment",
    "bad_alloc",
)
"""Parts of the messages of libraries that did not get memory and raise no MemoryError."""


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; raised before the optimizer uses it."""

    def __init__(self, message: str, fix: str = "", spared: str = "") -> None:
        """Store the parts of the error line.

        Args:
            message: which value is not finite, and where.
            fix: what the user should do.
            spared: a sentence, without a full stop, about what was not affected; it is placed between message and fix.
        """
        said = f"{message}. {spared}" if spared else message
        super().__init__(f"{said}; {fix}" if fix else said)
        self.message, self.fix = message, fix


class FaultsFoundError(RuntimeError):
    """A run was stopped because of named faults: errors of the preflight, or a fault detected during training."""

    def __init__(self, message: str, findings: Sequence[object]) -> None:
        """Store the `findings` (results.Finding, most likely first) in addition to the message."""
        super().__init__(message)
        self.findings = list(findings)


class InputError(ValueError):
    """Bad input. The error line of a command is `message; fix`; a finding made from it has the two parts as fields."""

    def __init__(self, message: str, fix: str) -> None:
        """Store what is wrong (`message`) and what to do about it (`fix`) as two parts."""
        super().__init__(f"{message}; {fix}")
        self.message, self.fix = message, fix


class NamedInputError(InputError):
    """Bad input that is one of `faults.table.FAULTS`: commands report it as an error, and `diagnose` as a finding."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        """Store the fault's `code` in addition to message and fix."""
        super().__init__(message, fix)
        self.code = code


class RankLostError(RuntimeError):
    """Another process of the same job has ended, so this process cannot continue."""


@contextmanager
def foreign_code(what: str, fix: str) -> Iterator[None]:
    """Turn every error that is raised inside a library, within the block, into bad input.

    It is for code that a model brings, which may raise anything. Errors that this package raises stay as they are.

    Args:
        what: what failed, as the beginning of a sentence; the error follows in brackets.
        fix: what to do.

    Raises:
        InputError: an error was raised inside a library.
    """
    try:
        yield
    except Exception as error:
        if raised_here(error):
            raise
        text = one_line(str(error))[:300]
        raise InputError(f"{what} ({type(error).__name__}: {text})", fix) from error


def guarded(command: Callable[[], int], package: str = "eyechart") -> int:
    """Run a command of `package` and turn its exceptions into exit codes.

    A ValueError raised in that package or in this one is caused by user input and gives one line and exit code 2. A
    ValueError from inside a library counts as an internal error, so that a crash is never reported as a usage error or
    as a verdict. A limit of the machine (disk, memory, permissions, threads) gives exit code 2 wherever it is met.
    """
    with outputs() as (printed, _), signals.on_signal(signals.stop):
        try:
            try:
                require_environment()
                code = command()
            except BaseException as error:
                # A second signal must not come between the exception and what is left to do.
                with signals.on_signal(signals.ignore):
                    signals.discard_drafts()
                    code = code_of(error, package)
        except KeyboardInterrupt as error:  # it came between the lines above
            code = code_of(error, package)
        printed.flush()
        return _unless_lost(code, printed)


def require_environment() -> None:
    """Check variables of the environment that libraries would take at their word, or ignore.

    Raises:
        InputError: a variable is not a number, or is out of range.
    """
    for name, low, high in (*((n, 1, MOST_THREADS) for n in _THREADS), *((n, 0, 2**31) for n in _RANKS)):
        for part in filter(None, os.environ.get(name, "").split(",")):
            if not part.strip().isascii() or not part.strip().isdigit() or not low <= int(part[:20]) <= high:
                value = os.environ[name]
                raise InputError(
                    f"{name}: expected a number from {low} to {high}, got {value[:40]!r}",
                    "unset this variable of the environment, or correct it",
                )


def code_of(error: BaseException, package: str) -> int:
    """Say why a command was stopped, and return its exit code."""
    if isinstance(error, SystemExit):  # `--help`
        raise error
    if isinstance(error, KeyboardInterrupt):
        return _say(f"interrupted{': ' if str(error) else ''}{error}", INTERRUPTED)
    if isinstance(error, RankLostError):
        return _say(f"stopped: {error}", INTERRUPTED)
    if isinstance(error, NonFiniteError | FaultsFoundError):
        return _say(f"stopped: {error}", 1)
    if short := _memory_is_short(error):
        return _say(f"error: {short}", 2)
    if isinstance(error, ValueError) and raised_here(error, package):
        return _say(f"error: {error}", 2)
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        return _say(f"error: {_explain(error)}", 2)
    return _bug(error, package)


def _unless_lost(code: int, printed: Output) -> int:
    """Return the code of a command, unless standard output was the only copy of its result and could not be written."""
    if printed.lost is None or code not in (0, 1, 3):
        return code
    gone = printed.lost.errno in (errno.EPIPE, errno.EBADF)
    why = "the output is no longer read" if gone else f"standard output: {printed.lost.strerror}"
    if not printed.only_copy:
        return _say(f"note: {why}; what was printed is incomplete, what was written to files is not", code)
    return _say(f"interrupted: {why}", INTERRUPTED) if gone else _say(f"error: {why}; the output is incomplete", 2)


def _memory_is_short(error: BaseException) -> str:
    """Return a sentence if an error means that memory or threads are used up; otherwise nothing."""
    text = str(error).lower()
    if isinstance(error, MemoryError | ImportError | RuntimeError | OSError):
        if isinstance(error, MemoryError) or any(part in text for part in _OUT_OF_MEMORY):
            said = one_line(str(error))[:160] or type(error).__name__
            return f"out of memory ({said}); take smaller batches, or raise the limit of this process"
        if isinstance(error, RuntimeError) and "can't start new thread" in text:
            return "no more threads can be started; raise the limit of processes (`ulimit -u`), or set fewer threads"
    return ""


def _say(line: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    shown = _VERY_LONG.sub(lambda word: f"{word[0][:200]}...{word[0][-100:]}", line)
    err(f"{'' if rank in ('', '0') else f'[rank {rank}] '}{shown}")
    return code


def _explain(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hint = "; free some space and try again" if error.errno in _FULL else ""
    return f"{where}{error.strerror}{hint}"


def raised_here(error: BaseException, package: str = "eyechart") -> bool:
    """Return whether an error was raised by this package or by `package`, and not inside a library."""
    frames = traceback.extract_tb(error.__traceback__)
    folders = [Path(str(sys.modules[name].__file__)).parent for name in ("eyechart", package)]
    return bool(frames) and any(Path(frames[-1].filename).is_relative_to(folder) for folder in folders)


def _bug(error: BaseException, package: str) -> int:
    tool = package.replace("_", "-")
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix=f"{tool}-", suffix=".log", delete=False, encoding="utf-8") as file:
            file.write(encodable(text, "utf-8"))
        where, printed = f"the traceback is in {file.name}", []
    except OSError:
        where, printed = "the traceback could not be saved, so it is printed here:", text.splitlines()
    err(f"internal error: {type(error).__name__}: {one_line(str(error))[:300]}")
    for line in (f"This is a bug in {tool}; {where}", *printed):
        err(line)
    return 4
