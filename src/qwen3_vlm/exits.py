"""How a command ends: exit codes, and one clear line instead of a traceback.

The codes:

0 pass    1 judged and failed, or stopped on a non-finite value    2 bad input or usage    3 inconclusive
4 a bug of ours (short message, traceback in a file)               130 interrupted
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; raised before the optimizer touches it."""


def guarded(command: Callable[[], int]) -> int:
    """Run a command and turn what it raises into an exit code.

    A ValueError raised in this package is about what the user gave: one line, exit 2. A ValueError from inside a
    library is not: it counts as a bug of ours, so that no crash reads as a usage error, and none as a verdict.
    """
    try:
        return command()
    except KeyboardInterrupt as error:
        sys.stderr.write(f"interrupted{': ' if str(error) else ''}{error}\n")
        return 130
    except NonFiniteError as error:
        sys.stderr.write(f"stopped: {error}\n")
        return 1
    except ValueError as error:
        if _raised_here(error):
            sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
            return 2
        return _bug(error)
    except Exception as error:  # noqa: BLE001 - the last resort of a command line
        return _bug(error)


def _raised_here(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)


def _bug(error: BaseException) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="qwen3-vlm-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    summary = " ".join(str(error).split())[:300]
    sys.stderr.write(
        f"internal error: {type(error).__name__}: {summary}\n"
        f"This is a bug in qwen3-vlm; the traceback is in {file.name}\n"
    )
    return 4
