"""Exit codes of the commands, and one-line error messages instead of tracebacks.

The codes:

0 pass    1 FAIL, or stopped on a non-finite value or a named fault    2 bad input or usage
3 inconclusive
4 an internal error (message, traceback in a file)               130 interrupted, or a process of the job was lost
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Errors caused by the machine and not by this package: no space, no permission, a folder instead of a file.
_ENVIRONMENT = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "EEXIST")
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
        text = " ".join(str(error).split())[:300]
        raise InputError(f"{what} ({type(error).__name__}: {text})", fix) from error


def guarded(command: Callable[[], int], package: str = "eyechart") -> int:
    """Run a command of `package` and turn its exceptions into exit codes.

    A ValueError raised in that package or in this one is caused by user input and gives one line and exit code 2. A
    ValueError from inside a library counts as an internal error, so that a crash is never reported as a usage error or
    as a verdict. A full disk, or a folder without permission, gives exit code 2 wherever the error is raised.
    """
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        return _say(f"interrupted{': ' if str(error) else ''}{error}", 130)
    except RankLostError as error:
        return _say(f"stopped: {error}", 130)
    except (NonFiniteError, FaultsFoundError) as error:
        return _say(f"stopped: {error}", 1)
    except BrokenPipeError:
        # The process that reads our output (such as `| head`) has ended. The run is incomplete, so there is no verdict.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say("interrupted: the output is no longer read", 130)
    except ValueError as error:
        return _say(f"error: {error}", 2) if raised_here(error, package) else _bug(error, package)
    except OSError as error:
        return _say(f"error: {_explain(error)}", 2) if error.errno in _ENVIRONMENT else _bug(error, package)
    except Exception as error:  # noqa: BLE001 - the last error handler of a command
        return _bug(error, package)
    return code


def _say(line: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    sys.stderr.write(f"{'' if rank == '0' else f'[rank {rank}] '}{' '.join(line.split())}\n")
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
            file.write(text)
        where = f"the traceback is in {file.name}"
    except OSError:
        where = f"the traceback could not be saved, so it is printed here:\n{text}"
    sys.stderr.write(
        f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
        f"This is a bug in {tool}; {where}\n"
    )
    return 4
