"""A command as a process: no signal, no output, no library and no limit of the machine decides its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENTRIES = {
    "qwen3_vlm.cli": ["audit", "--config", "none.yaml"],
    "qwen3_vlm.eval_ablation": ["--checkpoint", "none.pt"],
    "qwen3_vlm.train.stage1_align": ["--config", "none.yaml"],
    "qwen3_vlm.demo.tiny": ["--data", "none.json"],
    "eyechart": ["rows", "none.json"],
    "eyechart.cli": ["check", "none", "--data", "none.json"],
}
"""Every way to start a command, with arguments that it refuses once it has begun."""
SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]


def write(folder: Path, body: str) -> None:
    """Write command.py: a command whose body are these lines."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    (folder / "command.py").write_text(
        "import ctypes, os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from eyechart.exits import guarded\n"
        "from eyechart.files import atomic\n"
        "from eyechart.printing import err, out, out_json, results_are_in_files\n"
        "from eyechart.process import as_program\n"
        "from eyechart.signals import draft_folder\n"
        f"def command():\n{lines}\n"
        "as_program(lambda: guarded(command))\n",
        encoding="utf-8",
    )


def start(folder: Path, body: str, **options: object) -> subprocess.Popen[str]:
    """Start a command whose body are these lines, in `folder`."""
    write(folder, body)
    return subprocess.Popen(
        [sys.executable, "command.py"],
        cwd=folder,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[arg-type]
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out or "", err or ""


def ready(process: subprocess.Popen[str]) -> None:
    """Wait until the command has printed its first line."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def shell(folder: Path, body: str, redirection: str) -> tuple[int, str]:
    """Run a command with an output as a shell leaves it; return its code and what it says on standard error."""
    write(folder, body)
    line = f"{sys.executable} command.py {redirection}"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


# Signals


@pytest.mark.parametrize("name", SIGNALS)
def test_each_signal_stops_a_command_with_one_line_and_leaves_no_draft(tmp_path: Path, name: str) -> None:
    process = start(
        tmp_path,
        "folder = draft_folder(Path('.'), '.world-')\n"
        "(folder / 'half').write_text('x')\n"
        "with atomic(Path('results.json')) as file:\n"
        "    file.write(b'half')\n"
        "    os.write(1, b'ready\\n')\n"
        "    time.sleep(30)\n",
    )
    ready(process)
    process.send_signal(getattr(signal, name))
    said = "interrupted\n" if name == "SIGINT" else f"interrupted: {name}\n"
    assert end(process) == (130, "", said)
    assert [path.name for path in tmp_path.iterdir()] == ["command.py"]


def test_signals_without_a_pause_leave_no_draft_either(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "os.write(1, b'ready\\n')\n"
        "while True:\n"
        "    with atomic(Path('results.json')) as file:\n"
        "        file.write(b'whole')\n",
    )
    ready(process)
    for _ in range(20):
        process.send_signal(signal.SIGTERM)
    code, _, err = end(process)
    assert (code, err) == (130, "interrupted: SIGTERM\n")
    assert {path.name for path in tmp_path.iterdir()} <= {"command.py", "results.json"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_signals_are_handled_while_a_command_is_still_importing(entry: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('tyro', 'torch', 'transformers', 'msgspec', 'numpy', 'pydantic'):\n"
        "            print('ready', flush=True)\n"
        "            time.sleep(30)\n"
        "sys.meta_path.insert(0, Slow())\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", entry, *ENTRIES[entry]],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ready(process)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (130, "", "interrupted: SIGTERM\n")


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "os.write(1, b'ready\\n')\ntime.sleep(1)\nreturn 3",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    ready(process)
    process.send_signal(signal.SIGHUP)
    assert end(process)[0] == 3


def test_a_signal_after_the_verdict_does_not_replace_it(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "import atexit\n"
        "atexit.register(lambda: (os.write(1, b'ready\\n'), time.sleep(30)))\n"
        "results_are_in_files()\n"
        "return 3",
    )
    ready(process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 3
    assert time.monotonic() - began < 20


def test_a_reader_of_images_leaves_ctrl_c_to_its_parent_and_ends_with_term(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "child = os.fork()\n"
        "if not child:\n"
        "    time.sleep(30)\n"
        "for number, ended in ((signal.SIGINT, False), (signal.SIGHUP, False), (signal.SIGTERM, True)):\n"
        "    os.kill(child, number)\n"
        "    time.sleep(0.3)\n"
        "    if bool(os.waitpid(child, os.WNOHANG)[0]) != ended:\n"
        "        return 1\n"
        "return 3",
    )
    assert end(process) == (3, "", "")


# Outputs


@pytest.mark.parametrize("redirection", ["| true", ">&-", ">/dev/full"])
@pytest.mark.parametrize("code", [0, 1, 3])
def test_an_output_that_is_lost_leaves_a_verdict_that_is_in_files_its_code(
    redirection: str, code: int, tmp_path: Path
) -> None:
    body = f"out('x' * 200_000)\nresults_are_in_files()\nout('PASS')\nreturn {code}"
    ended, err = shell(tmp_path, body, f"{redirection}; exit ${{PIPESTATUS[0]}}")
    assert ended == code
    assert err.startswith("note: ") and "what was written to files is not" in err and err.count("\n") == 1


@pytest.mark.parametrize(("redirection", "code"), [("| true", 130), (">&-", 130), (">/dev/full", 2)])
@pytest.mark.parametrize("ready_code", [0, 1, 3])
def test_the_only_copy_of_a_result_that_is_lost_is_no_verdict(
    redirection: str, code: int, ready_code: int, tmp_path: Path
) -> None:
    body = f"results_are_in_files()\nout_json('x' * 200_000)\nreturn {ready_code}"
    ended, err = shell(tmp_path, body, f"{redirection}; exit ${{PIPESTATUS[0]}}")
    assert ended == code
    assert err.count("\n") == 1 and err.startswith("error: " if code == 2 else "interrupted: ")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&-", "2> >(true)"])
def test_messages_that_are_lost_change_nothing(redirection: str, tmp_path: Path) -> None:
    body = "for _ in range(3000):\n    err('note: ' + 'x' * 100)\nresults_are_in_files()\nreturn 3"
    assert shell(tmp_path, body, redirection)[0] == 3


def test_no_file_gets_the_number_of_a_standard_stream_that_is_closed(tmp_path: Path) -> None:
    body = (
        "with open('precious', 'wb') as file:\n"
        "    file.write(b'kept')\n"
        "    file.flush()\n"
        "    for number in (1, 2):\n"
        "        os.write(number, b'damage')\n"
        "results_are_in_files()\n"
        "return 3"
    )
    assert shell(tmp_path, body, "<&- >&- 2>&-")[0] == 3
    assert (tmp_path / "precious").read_bytes() == b"kept"


# Libraries and limits


def test_a_library_that_ends_the_process_gives_no_verdict(tmp_path: Path) -> None:
    code, _, err = end(start(tmp_path, "ctypes.CDLL(None).exit(1)"))
    assert code == 4 and err == "internal error: a library ended the process (code 1); its message is above\n"


@pytest.mark.parametrize(
    "late",
    [
        "import atexit\natexit.register(lambda: 1 // 0)",
        "import atexit\natexit.register(sys.exit, 1)",
        "global at\nat = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(lambda *_: os._exit(1))\n"
        "ctypes.CDLL(None).on_exit(at, None)",
        "class Late:\n    def __del__(self):\n        os._exit(1)\nsys.late = Late()",
    ],
    ids=["an exception in atexit", "an exit in atexit", "a C library at its end", "an object that is deleted last"],
)
def test_what_happens_after_the_verdict_does_not_replace_it(late: str, tmp_path: Path) -> None:
    assert end(start(tmp_path, f"{late}\nresults_are_in_files()\nreturn 3"))[0] == 3


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["99999999999", "abc", "-3", "1e3", "1,x"])
def test_a_number_in_the_environment_that_is_none_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from eyechart.exits import guarded

    monkeypatch.setenv(name, value)
    assert guarded(lambda: 0) == 2
    err = capsys.readouterr().err
    assert f"error: {name}: expected a number from " in err and repr(value) in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("raise MemoryError", "out of memory (MemoryError)"),
        ('raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")', "out of memory (DefaultCPU"),
        ("raise ImportError('libtorch_cpu.so: failed to map segment from shared object')", "out of memory (libtorch"),
        ("raise OSError(12, 'Cannot allocate memory')", "out of memory ("),
        ('raise RuntimeError("can\'t start new thread")', "no more threads can be started"),
        ("raise OSError(24, 'Too many open files', 'a.png')", "a.png: Too many open files"),
        ("raise OSError(40, 'Too many levels of symbolic links', 'out')", "out: Too many levels"),
        ("raise OSError(36, 'File name too long', 'out')", "out: File name too long"),
    ],
)
def test_a_limit_of_the_machine_is_no_bug_of_ours(raised: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from eyechart.exits import guarded

    def command() -> int:
        exec(raised)  # noqa: S102 - a line of this file
        return 0

    assert guarded(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_command_without_memory_ends_with_one_line(tmp_path: Path) -> None:
    line = f"ulimit -v 500000; exec {sys.executable} -m qwen3_vlm.cli audit --config configs/stage1_align_tiny.yaml"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: out of memory (") and done.stderr.count("\n") == 1
