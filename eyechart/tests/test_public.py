"""The public face: importing it costs little and changes nothing, and stored results need no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eyechart
from eyechart.cli import main
from eyechart.results import Results, to_json

SOURCE = Path(eyechart.__file__).parent
ROOMS = ("verdict", "data", "processors", "reporting")
ALONE = ("results", "cli", "settings", "seam", "rows", "exits", "files", "progress", "hub")
NO_TORCH = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is not available here")
sys.meta_path.insert(0, Blocker())
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("room", [*ROOMS, "alone"])
def test_no_module_of_these_rooms_imports_torch(room: str) -> None:
    files = [] if room == "alone" else sorted((SOURCE / room).glob("*.py"))
    modules = [f"eyechart.{room}.{file.stem}" for file in files if file.stem != "__init__"]
    modules = modules or [f"eyechart.{name}" for name in ALONE]
    imports = "".join(f"import {module}\n" for module in modules)
    python(f"import sys\n{imports}assert 'torch' not in sys.modules")


def test_importing_is_quick_and_changes_nothing() -> None:
    code = """
import logging, os, sys, threading, time
before = dict(os.environ), threading.active_count(), list(logging.root.handlers), logging.root.level
began = time.process_time()
import eyechart
seconds = time.process_time() - began
after = dict(os.environ), threading.active_count(), list(logging.root.handlers), logging.root.level
assert before == after
assert "torch" not in sys.modules and "numpy" not in sys.modules
print(seconds)
"""
    assert min(float(python(code)) for _ in range(2)) < 0.3


def test_every_public_name_is_there_and_others_are_not() -> None:
    for name in eyechart.__all__:
        assert getattr(eyechart, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+.*|unknown", eyechart.__version__)
    assert dir(eyechart) == sorted(eyechart.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ablate'"):
        _ = eyechart.ablate  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["eyechart.cli", "qwen3_vlm.cli"])
def test_a_page_is_made_again_without_torch(command: str, tmp_path: Path) -> None:
    results = Results(verdict="INCONCLUSIVE")
    (tmp_path / "results.json").write_text(to_json(results), encoding="utf-8")
    code = f"{NO_TORCH}\nfrom {command} import main\nsys.exit(main(['report', sys.argv[1]]))"
    assert "report.html" in python(code, str(tmp_path))
    assert "INCONCLUSIVE" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"eyechart {eyechart.__version__}\n"


@pytest.mark.parametrize("command", ["score", "report"])
def test_every_command_and_flag_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and f"eyechart {command} " in said.partition("Example:")[2]
    from eyechart.cli import _parser

    (commands,) = (action for action in _parser()._actions if action.choices)
    for action in commands.choices[command]._actions:  # type: ignore[index, call-overload]
        assert action.help, action.dest


def test_a_command_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in ([], ["scores"], ["report"]):
        assert main(typed) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ") and "\n" not in said and "--help" in said


@pytest.mark.parametrize("start", [["qwen3_vlm.cli", "ablate"], ["qwen3_vlm.eval_ablation"]])
@pytest.mark.parametrize("form", [["--model", "m"], ["--model=m"]])
def test_the_old_form_says_where_it_went_in_one_line(start: list[str], form: list[str]) -> None:
    module, *rest = start
    done = subprocess.run(
        [sys.executable, "-m", module, *rest, *form, "--data", "d"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "eyechart score MODEL --data ROWS" in done.stderr


def test_the_data_file_of_the_help_text_can_be_read(tmp_path: Path) -> None:
    from eyechart.cli import _SCORE

    row = " ".join(re.search(r"Every row is (\{.*?\}\]\})", _SCORE, flags=re.DOTALL)[1].split())  # type: ignore[index]
    (tmp_path / "rows.json").write_text(json.dumps([json.loads(row.replace('"id": ...', '"id": "1"'))]))
    (only,), rejects = eyechart.read_rows(tmp_path / "rows.json")
    assert (only.caption, rejects) == ("a cat", [])


def test_the_first_use_of_a_name_draws_no_random_number_of_the_process() -> None:
    code = "import random; random.seed(1); import eyechart; before = random.getstate(); eyechart.score; eyechart.attach"
    code += "; assert random.getstate() == before"
    subprocess.run([sys.executable, "-c", code], check=True)
