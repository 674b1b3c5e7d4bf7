"""Every way a command can end has its own code and one line, and none reads as a verdict."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eyechart import exits
from eyechart.exits import InputError, NamedInputError, NonFiniteError, RankLostError, guarded
from qwen3_vlm.config import load_config


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_what_a_command_returns_is_the_exit_code(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: code) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (NonFiniteError("loss is not finite"), 1, "stopped: loss is not finite\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("saved it"), 130, "interrupted: saved it\n"),
        (RankLostError("rank 1 is gone"), 130, "stopped: rank 1 is gone\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/log.jsonl"),
            2,
            "error: a/log.jsonl: No space left on device; free some space and try again\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "error: out: Permission denied\n"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "out"), 2, "error: out: Not a directory\n"),
    ],
)
def test_each_error_has_its_code_and_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error)) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("cut; 9 bytes", "take another; or stop"), "cut; 9 bytes; take another; or stop"),
        (NamedInputError("leak", "cut; 9 bytes", "take another; or stop"), "cut; 9 bytes; take another; or stop"),
        (NonFiniteError("cut; 9 bytes", "take another; or stop"), "cut; 9 bytes; take another; or stop"),
        (
            NonFiniteError("cut; 9 bytes", "take another; or stop", spared="Nothing moved"),
            "cut; 9 bytes. Nothing moved; take another; or stop",
        ),
    ],
)
def test_an_error_says_one_line_and_keeps_what_is_wrong_and_what_to_do_apart(
    error: InputError | NonFiniteError, line: str
) -> None:
    assert (str(error), error.message, error.fix) == (line, "cut; 9 bytes", "take another; or stop")


def test_a_value_error_of_ours_is_bad_input_and_takes_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("trian:\n  lr: 1\n", encoding="utf-8")
    assert guarded(lambda: len(str(load_config(path))), "qwen3_vlm") == 2
    _, err = capsys.readouterr()
    assert err == f"error: {path}: unknown key `trian`; did you mean `train`?\n"


@pytest.mark.parametrize(
    "command",
    [
        lambda: len(json.loads("{")),
        lambda: Path("/no/such/file").stat().st_size,
        lambda: 1 // 0,
        raising(ValueError("two\nlines")),
    ],
    ids=["ValueError inside a library", "missing file", "ZeroDivisionError", "ValueError raised by a caller"],
)
def test_anything_else_is_a_bug_of_ours_with_its_traceback_in_a_file(
    command: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(command) == 4
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2 and lines[0].startswith("internal error: ") and "Traceback" not in err
    found = re.fullmatch(r"This is a bug in eyechart; the traceback is in (.+)", lines[1])
    assert found
    log = Path(found[1])
    assert "Traceback (most recent call last)" in log.read_text(encoding="utf-8")
    log.unlink()


def test_where_even_the_traceback_cannot_be_saved_it_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        exits.tempfile, "NamedTemporaryFile", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    assert guarded(lambda: 1 // 0) == 4
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_ranks_other_than_the_first_sign_their_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "2")
    assert guarded(raising(NonFiniteError("no"))) == 1
    assert capsys.readouterr().err == "[rank 2] stopped: no\n"


def test_a_reader_that_goes_away_is_no_verdict_and_no_traceback() -> None:
    program = (
        "import sys; from eyechart.exits import guarded\n"
        "def command():\n"
        "    for _ in range(100_000): print('x' * 100)\n"
        "    return 0\n"
        "sys.exit(guarded(command))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read().decode()
    assert (process.wait(), err) == (130, "interrupted: the output is no longer read\n")
