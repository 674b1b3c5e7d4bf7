"""The command line: `eyechart score | report`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyechart.exits import guarded
from eyechart.results import EXIT_CODES

_SCORE = """\
Score rows with the right, a wrong and no picture, and judge whether the model uses its images.

Example: eyechart score llava-hf/llava-1.5-7b-hf --data rows.json --image_root images

Exit code: 0 PASS, 1 FAIL, 2 bad input, 3 INCONCLUSIVE, 4 a bug of ours, 130 interrupted."""
_REPORT = """\
Make report.html again from the results.json of a run.

Example: eyechart report outputs/eyechart/llava-1.5-7b-hf"""
_SETTINGS = (
    ("prompt", str, "prompt", "human turn with one <image> for every row; by default the row's own"),
    ("image_size", int, "image_size", "pixels of both sides of every image, 8 to 4096; by default the processor's own"),
    ("max_seq_len", int, "max_seq_len", "tokens per sequence"),
    ("max_rejected", float, "max_rejected", "share of unusable rows above which scoring stops"),
    ("batch_size", int, "ablation.batch_size", "samples per forward pass; results do not depend on it"),
    ("seed", int, "seed", "draws rows, donors and noise"),
    ("threads", int, "threads", "CPU threads of PyTorch"),
    ("device", str, "model.device", "auto, cpu or cuda"),
    ("precision", str, "model.precision", "fp32 or bf16"),
    ("attention", str, "model.attention", "sdpa, eager or flash_attention_2"),
)
"""Flags that are fields of `ScoreSettings`: name, type, place, help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `eyechart`."""
    options = _parser().parse_args(arguments)
    return guarded(lambda: int(options.run(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eyechart", description="Does this vision-language model use its images, and if not, why?"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_score(commands)
    _add_report(commands)
    return parser


def _add_score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    score = commands.add_parser(
        "score", help="score a model", description=_SCORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    score.set_defaults(run=_score)
    score.add_argument("model", metavar="MODEL", help="image-text-to-text model: a folder or a hub id")
    score.add_argument("--data", type=Path, required=True, help="rows that it has not been trained on")
    score.add_argument("--image_root", type=Path, help="folder that image paths are relative to; by default the rows'")
    score.add_argument("--train_data", type=Path, help="other rows, whose images are averaged for mean-token")
    score.add_argument("--num_samples", type=int, help="rows to score, drawn by --seed (128)")
    score.add_argument("--conditions", default="standard", help="runbook, standard, full, or names with commas")
    for name, kind, place, text in _SETTINGS:
        score.add_argument(f"--{name}", type=kind, help=text, dest=place)
    score.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help="any other setting"
    )
    score.add_argument("--output", type=Path, help="folder for results.json and the page (outputs/eyechart/<name>)")
    score.add_argument("--json", action="store_true", help="print results.json, and the table to standard error")


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report", help="make a page again", description=_REPORT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report.set_defaults(run=_report)
    report.add_argument("folder", type=Path, metavar="FOLDER", help="folder with a results.json")
    report.add_argument("--output", type=Path, help="the page to write; by default report.html in that folder")
    report.add_argument("--image_root", type=Path, help="folder that the samples' images are in")


def _score(options: argparse.Namespace) -> int:
    # Imported where they are used: PyTorch takes seconds to load, and `--help` should not.
    from eyechart.api.score import measure_model
    from eyechart.reporting.output import write_results
    from eyechart.settings import settings_of

    if options.num_samples is not None and options.num_samples < 1:
        raise ValueError(f"--num_samples: expected at least 1, got {options.num_samples}")
    given = {place: getattr(options, place) for _, _, place, _ in _SETTINGS if getattr(options, place) is not None}
    settings = settings_of(given | {field: _value(text) for field, text in options.set})
    measured = measure_model(
        options.model,
        options.data,
        options.image_root or options.data.parent,
        options.num_samples,
        options.conditions,
        options.train_data,
        settings,
    )
    if int(os.environ.get("RANK", "0")) == 0:  # all processes of a job hold the same results
        folder = options.output or Path("outputs") / "eyechart" / Path(options.model).name
        write_results(measured.results, folder, options.json, measured.samples)
    return EXIT_CODES[measured.results.verdict]


def _report(options: argparse.Namespace) -> int:
    from eyechart.reporting.output import rewrite_page

    rewrite_page(options.folder, options.output, options.image_root)
    return 0


def _value(text: str) -> Any:
    """A setting as typed: JSON where it is JSON, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    sys.exit(main())
