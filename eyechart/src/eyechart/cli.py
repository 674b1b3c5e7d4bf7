"""The command line: `eyechart rows | check | score | report`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from eyechart.exits import InputError, guarded
from eyechart.printing import out, out_json
from eyechart.process import as_program

if TYPE_CHECKING:
    from eyechart.settings import ScoreSettings

_ROWS = """\
Show what is understood of a data set: its layout, how many rows can be used and why the others cannot, three rows, and
what is wrong with captions, ids and pictures: repeated, blank or unreadable ones, answers in the request. With
--held_out, also pictures that both sets show, and held-out captions in another language or case.

Example:
  eyechart rows captions.csv

DATA is a JSON, JSON Lines, CSV, Parquet or Arrow file, a WebDataset archive, a pattern such as 'data/train-*.parquet',
or a folder with one of them or with images and texts of the same name. The layout is recognised by the keys of rows.

Exit code: 0 at least one row can be used, 2 bad input, 4 an internal error, 130 interrupted."""
_CHECK = """\
Check in seconds whether a model can see the images of a few rows: the batch that its processor makes, and the paths
from its images to the losses. Nothing is scored.

Example:
  eyechart check llava-hf/llava-1.5-7b-hf --data rows.json --image_root images

Exit code: 0 no error was found, 1 an error was found, 2 bad input, 4 an internal error, 130 interrupted."""
_SCORE = """\
Score rows with the right picture, a wrong picture and no picture, and report whether the model uses its images.

Example:
  eyechart score llava-hf/llava-1.5-7b-hf --data rows.json --image_root images --num_samples 128

Every row is {"id": ..., "image": "path.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
{"from": "gpt", "value": "a cat"}]}, in a JSON list or one row per line, or has another layout that `eyechart rows`
understands. The model must not have been trained on these rows.

Exit code: 0 PASS, 1 FAIL, 2 bad input, 3 INCONCLUSIVE, 4 an internal error, 130 interrupted."""
_REPORT = """\
Generate report.html again from the results.json of a run.

Example:
  eyechart report outputs/eyechart/llava-1.5-7b-hf"""
_FLAGS: tuple[tuple[str, str, type, Sequence[str] | None, str], ...] = (
    ("layout", "layout", str, None, "layout of the rows, or the keys of their parts, such as image=picture (auto)"),
    ("prompt", "prompt", str, None, "human turn, with one <image>, for every row; by default each row's own"),
    ("image_size", "image_size", int, None, "width and height of images in pixels, 8 to 4096 (the processor's own)"),
    ("max_seq_len", "max_seq_len", int, None, "tokens per sequence; longer sequences are truncated (4096)"),
    ("max_rejected", "max_rejected", float, None, "share of unusable rows above which scoring stops (0.01)"),
    ("batch_size", "ablation.batch_size", int, None, "samples per forward pass; results do not depend on it (16)"),
    ("seed", "seed", int, None, "seed for drawing rows, donors and noise (42)"),
    ("threads", "threads", int, None, "CPU threads of PyTorch; by default PyTorch decides"),
    ("device", "model.device", str, ("auto", "cpu", "cuda"), "device; auto uses a GPU if there is one (auto)"),
    ("precision", "model.precision", str, ("fp32", "bf16", "fp16"), "precision of weights and computation (fp32)"),
    ("attention", "model.attention", str, ("sdpa", "eager", "flash_attention_2"), "attention implementation (sdpa)"),
    ("device-map", "model.device_map", str, None, "spread the weights over devices, such as auto; needs accelerate"),
)
"""Flags that set a field of `ScoreSettings`: flag name, field, type, choices, and help text with the default."""


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, as all commands do."""

    def error(self, message: str) -> NoReturn:
        """Raise a ValueError with the message."""
        raise ValueError(f"{message}; `{self.prog} --help` lists the options")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command `eyechart`."""

    def run() -> int:
        options = _parser().parse_args(arguments)
        return int(options.run(options))

    return guarded(run)


def program() -> NoReturn:
    """Run the command `eyechart` as this process."""
    as_program(main)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="eyechart", description="Does this vision-language model use its images, and if not, why?", add_help=True
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_rows(commands)
    _add_check(commands)
    _add_score(commands)
    _add_report(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from eyechart import __version__

        out(f"eyechart {__version__}")
        parser.exit()


def _add_rows(commands: argparse._SubParsersAction[_Parser]) -> None:
    rows = commands.add_parser(
        "rows",
        help="show what is understood of a data set",
        description=_ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rows.set_defaults(run=_rows)
    rows.add_argument("data", metavar="DATA", help="a file, a folder, or a pattern of files")
    rows.add_argument(
        "--layout",
        default="auto",
        help="auto, llava, sharegpt, messages, prompt-completion, captions, or the keys of the parts, such as "
        "captions,image=picture,caption=title (auto)",
    )
    rows.add_argument("--image_root", "--image-root", type=Path, help="folder of the images (the folder of DATA)")
    rows.add_argument(
        "--held_out", "--held-out", help="file or folder of held-out rows, compared with the rows of DATA"
    )
    rows.add_argument("--json", action="store_true", help="print JSON instead of text")


def _add_check(commands: argparse._SubParsersAction[_Parser]) -> None:
    check = commands.add_parser(
        "check", help="check a model", description=_CHECK, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    check.set_defaults(run=_check, train_data=None)
    _add_model(check, "file or folder of rows")
    check.add_argument("--num_samples", type=int, default=4, help="rows to check, drawn by --seed (4)")
    check.add_argument("--page", type=Path, help="also write a page with one row as the model sees it to this file")


def _add_score(commands: argparse._SubParsersAction[_Parser]) -> None:
    score = commands.add_parser(
        "score", help="score a model", description=_SCORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    score.set_defaults(run=_score)
    _add_model(score, "file or folder of rows that the model was not trained on")
    score.add_argument("--train_data", help="data file of other rows, whose images are averaged for mean-token")
    score.add_argument("--num_samples", type=int, help="rows to score, drawn by --seed (128)")
    score.add_argument(
        "--conditions", default="standard", help="runbook, standard, full, or names separated by commas (standard)"
    )
    score.add_argument("--output", type=Path, help="folder for results.json and the page (outputs/eyechart/<name>)")
    score.add_argument("--json", action="store_true", help="print results.json, and the table to standard error")


def _add_model(command: argparse.ArgumentParser, data: str) -> None:
    """Add the arguments that say which model is loaded, how, and on which rows."""
    command.add_argument(
        "model", metavar="MODEL", help="image-text-to-text model of transformers: a folder or a hub id"
    )
    command.add_argument("--data", required=True, help=data)
    command.add_argument(
        "--image_root", type=Path, help="folder that image paths are relative to (the folder of --data)"
    )
    for name, field, kind, choices, text in _FLAGS:
        command.add_argument(
            f"--{name}", type=kind, choices=choices, help=text, dest=field, metavar=None if choices else name.upper()
        )
    command.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("FIELD", "VALUE"),
        help="any other setting, such as ablation.derangements 1; may be given more than once",
    )
    command.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        help="variables of the chat template, such as '{\"enable_thinking\": false}'",
    )
    command.add_argument(
        "--trust-remote-code", action="store_true", help="let Python code that the model's folder brings run"
    )


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    report = commands.add_parser(
        "report",
        help="generate a page again",
        description=_REPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.set_defaults(run=_report)
    report.add_argument("folder", type=Path, metavar="FOLDER", help="folder with a results.json")
    report.add_argument("--output", type=Path, help="the page to write; by default report.html in that folder")
    report.add_argument("--image_root", type=Path, help="folder that the samples' images are in")


def _rows(options: argparse.Namespace) -> int:
    from eyechart.api.check_rows import check_rows
    from eyechart.data.summary import require_usable
    from eyechart.reporting.rows import print_rows

    report, findings = check_rows(options.data, options.layout, options.image_root, options.held_out)
    if options.json:
        found = [finding.model_dump(mode="json") for finding in findings]
        out_json(json.dumps(dataclasses.asdict(report) | {"findings": found}, indent=2))
    else:
        print_rows(report, findings, sys.stdout)
    require_usable(report)
    return 0


def _settings(options: argparse.Namespace) -> ScoreSettings:
    """Return the settings that the flags of a command give.

    Raises:
        ValueError: an unknown setting or an invalid value; one line.
    """
    from eyechart.settings import settings_of

    given = {field: getattr(options, field) for _, field, *_ in _FLAGS} | {"train_data": options.train_data}
    given |= {"chat_template_kwargs": _template_variables(options.chat_template_kwargs)}
    given |= {"model.trust_remote_code": options.trust_remote_code or None}
    given = {field: value for field, value in given.items() if value is not None}
    flags = {field: f"--{name}" for name, field, *_ in _FLAGS}
    given |= {"distributed": int(os.environ.get("WORLD_SIZE", "1")) > 1}
    return settings_of(given | {field: _value(text) for field, text in options.set}, flags)


def _check(options: argparse.Namespace) -> int:
    settings = _settings(options)
    # Imported here because PyTorch takes seconds to load, and `--help` should be fast.
    from eyechart.api.check_named import check_named

    checked = check_named(options.model, options.data, options.num_samples, options.image_root, settings)
    for line in str(checked).splitlines():
        out(line)
    if options.page is not None:
        checked.save(options.page)
        out(f"written: {options.page}")
    return int(bool(checked.errors))


def _score(options: argparse.Namespace) -> int:
    settings = _settings(options)
    # Imported here because PyTorch takes seconds to load, and `--help` should be fast.
    from eyechart.api.score import measure
    from eyechart.reporting.output import write_results
    from eyechart.reporting.results_folder import RESULT_FILES
    from eyechart.results import EXIT_CODES
    from eyechart.run_folder import writing
    from eyechart.scoring.ranks import exit_code, held_by_first, nothing, on_first, ranks_of_job

    ranks, folder = ranks_of_job(), options.output or Path("outputs") / "eyechart" / Path(options.model).name
    with held_by_first(ranks, lambda: writing(folder, RESULT_FILES)) as opened:
        on_first(ranks, opened.require_ours if opened else nothing)
        measured = measure(
            options.model, options.data, options.conditions, options.num_samples, options.image_root, settings
        )
        if ranks.index == 0:  # all processes of a job have the same results
            write_results(measured.results, folder, options.json, measured.samples)
    return exit_code(ranks, EXIT_CODES[measured.results.verdict])


def _report(options: argparse.Namespace) -> int:
    from eyechart.reporting.output import rewrite_page

    rewrite_page(options.folder, options.output, options.image_root)
    return 0


def _template_variables(text: str | None) -> dict[str, object] | None:
    """Parse the variables of the chat template.

    Raises:
        InputError: the text is not a JSON object.
    """
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"--chat-template-kwargs: expected a JSON object, got {text[:80]!r}",
            "write it like '{\"enable_thinking\": false}'",
        )
    return found


def _value(text: str) -> object:
    """Parse the value of a setting: as JSON if possible, otherwise as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    program()
