"""How a command ends: exit codes, and a one-line error instead of a traceback.

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
from collections.abc import Callable, Sequence
from pathlib import Path

# Problems of the machine, not of this package: no space, no permission, a folder where a file should be.
_ENVIRONMENT = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "EEXIST")
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; raised before the optimizer touches it."""

    def __init__(self, message: str, fix: str = "", spared: str = "") -> None:
        """Keep the parts of the line.

        Args:
            message: what is not finite, and where.
            fix: what to do.
            spared: a sentence, without a full stop, about what was not affected; it is placed between message and fix.
        """
        said = f"{message}. {spared}" if spared else message
        super().__init__(f"{said}; {fix}" if fix else said)
        self.message, self.fix = message, fix


class FaultsFoundError(RuntimeError):
    """A run was stopped because of faults with a name: the preflight's errors, or one that showed while training."""

    def __init__(self, message: str, findings: Sequence[object]) -> None:
        """Keep the `findings` (results.Finding, most likely first) in addition to the message."""
        super().__init__(message)
        self.findings = list(findings)


class InputError(ValueError):
    """Bad input: `message; fix` is the error line of a command; a finding made from it uses the two parts."""

    def __init__(self, message: str, fix: str) -> None:
        """Keep what is wrong (`message`) and what to do about it (`fix`) apart."""
        super().__init__(f"{message}; {fix}")
        self.message, self.fix = message, fix


class NamedInputError(InputError):
    """Bad input that is a fault of `faults.table.FAULTS`: an error line for a command, a finding for `diagnose`."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        """Keep the fault's `code` in addition to message and fix."""
        super().__init__(message, fix)
        self.code = code


class RankLostError(RuntimeError):
    """Another process of a job with several is gone, so this one cannot continue."""


def guarded(command: Callable[[], int], package: str = "eyechart") -> int:
    """Run a command of `package` and turn what it raises into an exit code.

    A ValueError raised in that package or in this one is caused by user input: one line, exit 2. A ValueError from
    inside a library is not: it counts as an internal error, so that a crash is never reported as a usage error or a
    verdict. A full disk or a folder without permission is exit 2 wherever it occurs.
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
        # The reader of our output (`| head`) is gone. The rest of the run is unknown, so this is not a verdict.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say("interrupted: the output is no longer read", 130)
    except ValueError as error:
        return _say(f"error: {error}", 2) if _raised_here(error, package) else _bug(error, package)
    except OSError as error:
        return _say(f"error: {_explain(error)}", 2) if error.errno in _ENVIRONMENT else _bug(error, package)
    except Exception as error:  # noqa: BLE001 - the last resort of a command line
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


def _raised_here(error: BaseException, package: str) -> bool:
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
