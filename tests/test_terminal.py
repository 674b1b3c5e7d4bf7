"""No text from outside controls the terminal: not in a message, not in a table, not through a library."""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import bad_inputs
from bad_inputs import CHECKPOINT, ROW, Case, Outcome, Place, make_template
from eyechart.cli import main as eyechart
from eyechart.exits import InputError, guarded
from eyechart.plain import encodable, json_kept, lines_kept, one_line
from eyechart.printing import Output, err, out, outputs
from eyechart.progress import progress_bar, say
from qwen3_vlm.commands.loaded import Loaded

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x1b[31m\x1b]52;c;aGk=\x1b\\ a\rb \x08\x00\x7f\x9b31m\x9d0;x\x9c \u202egnp.\u2066x\u061c "
    "\u2028 \x1bP1$r\x1b\\"
)
"""Title, screen, colour, clipboard, return, C0, DEL, C1, reading direction, line separator, device control."""
NAME = HOSTILE.replace("\x00", "").replace("/", "")
"""The same as the name of a file."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ROOT = Path(__file__).parents[1]


def harmless(*texts: str) -> None:
    for text in texts:
        assert not (found := CONTROL.search(text)), (found, text[:300])


# The layer


def test_a_line_shows_every_character_that_it_does_not_print() -> None:
    shown = one_line(HOSTILE)
    harmless(shown)
    assert "\n" not in shown and "<U+001B>]0;owned<U+0007>" in shown and "<U+202E>gnp." in shown
    assert "<U+009B>31m" in shown and "<U+0000>" in shown and one_line("a\n b") == "a b"


@pytest.mark.parametrize("write", [err, out, say], ids=lambda write: write.__name__)
def test_each_way_to_print_a_line_prints_one_harmless_line(
    write: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write(f"  {HOSTILE}\nsecond")
    printed = "".join(capsys.readouterr())
    harmless(printed)
    assert printed.startswith("  <U+001B>") and printed.endswith(" second\n") and printed.count("\n") == 1


def test_an_error_is_one_harmless_line_whoever_raised_it(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (
        InputError(HOSTILE, HOSTILE),
        KeyboardInterrupt(HOSTILE),
        OSError(13, HOSTILE, NAME),
        KeyError(HOSTILE),
    ):
        guarded(lambda error=error: (_ for _ in ()).throw(error))  # type: ignore[misc]
    printed = capsys.readouterr().err
    harmless(printed)
    assert len(printed.splitlines()) == 6, "the first and the last are bugs, with a second line"


def test_a_progress_bar_has_a_harmless_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress_bar(3, NAME, "image").close()
    printed = capsys.readouterr().err.replace("\r", "").replace("\x1b[A", "")
    assert "<U+001B>" in printed
    harmless(printed)


class Terminal(io.StringIO):
    encoding = "ascii"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_what_libraries_print_keeps_colours_on_a_terminal_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, log = Terminal(), io.StringIO()
    Output(terminal).write(f"\x1b[31mred\x1b[0m \x1b[A{HOSTILE}\xe9\u6f22\n")
    Output(log).write(f"\x1b[31mred\n\t{HOSTILE}\n")
    assert terminal.getvalue().startswith("\x1b[31mred\x1b[0m \x1b[A<U+001B>]0;owned<U+0007><U+001B>[2J\x1b[31m")
    assert terminal.getvalue().endswith("\\xe9\\u6f22\n"), "the encoding lacks both"
    harmless(re.sub(r"\x1b\[[0-9;]*[mA]|\r", "", terminal.getvalue()), log.getvalue().replace("\r", ""))
    assert log.getvalue().startswith("<U+001B>[31mred\n\t")


def test_a_warning_of_a_library_goes_through_the_same_layer(capsys: pytest.CaptureFixture[str]) -> None:
    with outputs(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit(HOSTILE, UserWarning, NAME, 1)
    harmless(capsys.readouterr().err.replace("\r", ""))


def test_json_says_the_same_without_a_control_character() -> None:
    document = json.dumps({"caption": HOSTILE}, ensure_ascii=False, indent=1)
    harmless(json_kept(document))
    assert json.loads(json_kept(document)) == {"caption": HOSTILE} and json_kept(document).count("\n") == 2


def test_plain_text_is_not_changed() -> None:
    text = "Ünïcode, кот, 猫 and 🐈‍⬛ אבג\tx\n"
    assert lines_kept(text, False) == text and encodable(text, None) == text
    assert encodable("\udcff", "utf-8") == "\\udcff"


WRITERS = {
    "eyechart/printing.py": "it is the layer",
    "eyechart/process.py": "flushes at the end of the process",
    "eyechart/progress.py": "bars, with lines that the layer made",
    "eyechart/reporting/terminal.py": "tables, of text that the layer made",
    "qwen3_vlm/preflight/show.py": "colours, of text that the layer made",
    "qwen3_vlm/commands/config_docs.py": "writes a page of ours, not of a user",
    "qwen3_vlm/models/tiny.py": "a line of ours",
}


def test_nothing_else_writes_to_the_terminal() -> None:
    found = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "eyechart/src").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if text in ("print", "tqdm.write", "Console") or re.fullmatch(
                r"(sys\.(stdout|stderr)|stream)\.write(lines)?", text
            ):
                found.add("/".join(path.parts[path.parts.index("src") + 1 :]))
    assert found <= WRITERS.keys(), found - WRITERS.keys()


# Through the commands


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("hostile") / "template")


def hostile_row(**changes: Any) -> Callable[[Place], None]:
    return lambda place: place.change_row(changes)


def hostile_config(place: Place) -> None:
    tree = yaml.safe_load(place.path("run.yaml").read_text(encoding="utf-8"))
    tree[HOSTILE] = {HOSTILE: HOSTILE}
    place.path("run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


def hostile_names(place: Place) -> None:
    (place.root / NAME).write_bytes(place.image.read_bytes())
    place.patch(Loaded, "caption", lambda self, images, *_: [HOSTILE for _ in images])


def hostile_results(place: Place) -> None:
    place.path(NAME).mkdir()
    (place.path(NAME) / "results.json").write_text(json.dumps({"schema": 2, HOSTILE: HOSTILE}), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "make", "code"),
    [
        (["audit", "--data.max_rejected", "0"], hostile_row(image=f"{NAME}.png"), 2),
        (["audit"], hostile_row(caption=HOSTILE), None),
        (["audit"], hostile_row(id=HOSTILE), 0),
        (["audit", "--data.max_rejected", "0"], lambda place: place.change_row([HOSTILE]), 2),
        (["diagnose", "--config", "run.yaml", "--rows", "4"], hostile_row(caption=HOSTILE), None),
        (["audit"], hostile_config, 2),
        (["audit", f"--{HOSTILE.replace('-', '')}", HOSTILE], lambda place: None, 2),
        (["audit", "--train.tracker", NAME], lambda place: None, 2),
        (["audit", "--config", NAME], lambda place: None, 2),
        (["audit", "--data.json_file", NAME], lambda place: None, 2),
        (["ablate", "--checkpoint", f"{NAME}/checkpoint_1.pt"], lambda place: None, 2),
        (["caption", "--checkpoint", CHECKPOINT, NAME], hostile_names, 0),
        (["caption", "--checkpoint", CHECKPOINT, f"{NAME}-gone"], lambda place: None, 2),
        (["report", NAME], hostile_results, 2),
        (["trial", f"--num_samples={NAME}"], lambda place: None, 2),
        ([NAME], lambda place: None, 2),
    ],
    ids=lambda value: (
        " ".join(value)[:30].encode("ascii", "backslashreplace").decode() if isinstance(value, list) else ""
    ),
)
def test_no_command_prints_what_a_file_a_name_or_a_model_says_as_it_is(
    arguments: list[str], make: Callable[[Place], None], code: int | None, template: Path, tmp_path: Path
) -> None:
    class Typed(Case):
        @property
        def arguments(self) -> list[str]:
            return [
                *arguments,
                *(["--config", "run.yaml"] if arguments[0] == "audit" and "--config" not in arguments else []),
            ]

    outcome: Outcome = bad_inputs.run(Typed(f"row {ROW}", "stops", "", (), make), template, tmp_path / "here")
    assert outcome.code == code if code is not None else outcome.code in (0, 1), outcome.err
    harmless(outcome.out.replace("\t", " "), outcome.err)
    if code == 2:
        assert len(outcome.err.splitlines()) == 1, outcome.err


def test_rows_of_a_hostile_data_set_are_shown_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"{NAME}.json"
    row = {"image": f"{NAME}.png", HOSTILE: HOSTILE, "id": HOSTILE}
    turns = [{"from": "human", "value": f"<image>\n{HOSTILE}"}, {"from": "gpt", "value": HOSTILE}]
    file.write_text(json.dumps([row | {"conversations": turns}]), encoding="utf-8")
    for options in ([], ["--json"], ["--layout", NAME], ["--image_root", NAME]):
        eyechart(["rows", str(file), *options])
        printed = capsys.readouterr()
        harmless(printed.out, printed.err)
        assert printed.out + printed.err
