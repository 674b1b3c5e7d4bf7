"""Bad input through the commands themselves: what each case says. `bad_cases.py` lists them.

python tests/bad_inputs.py > docs/errors.md
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import re
import shutil
import sys
import tempfile
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from eyechart import hub
from eyechart.data import dataset
from eyechart.reporting.reasons import reasons_of
from eyechart.results import Results
from qwen3_vlm import cli, eval_ablation
from qwen3_vlm.data.splits import draw_split
from qwen3_vlm.train import stage1_align
from tiny_rows import llava_row
from tiny_runs import ROWS, TinyWorld, save_backbones, save_rows

Kind = Literal["accepted", "rejected", "stops"]
CHECKPOINT = "run/checkpoint_10.pt"
ROW = draw_split(ROWS, None, 0.2, 42).train[3]
"""The row that cases damage: one of 18 that train."""
HELD_OUT = draw_split(ROWS, None, 0.2, 42).eval
MAINS: dict[str, Callable[[list[str]], int]] = {"train": stage1_align.main, "ablate": eval_ablation.main}
"""The runbook's own entries; all else goes through `qwen3-vlm`."""


@dataclass
class Place:
    """The working directory of one case: run.yaml, data/, models/, and a finished run in run/."""

    root: Path
    patches: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def path(self, name: str) -> Path:
        return self.root / name

    @property
    def data(self) -> Path:
        return self.path("data/data.json")

    @property
    def image(self) -> Path:
        """The image of ROW."""
        return self.path(f"data/images/{ROW:05d}.png")

    def rows(self) -> list[Any]:
        return list(json.loads(self.data.read_text(encoding="utf-8")))

    def write_rows(self, rows: list[Any]) -> None:
        self.data.write_text(json.dumps(rows), encoding="utf-8")

    def change_row(self, row: Any, index: int = ROW) -> None:
        """Put another row in the place of one; a dictionary of changes is as for `llava_row`."""
        rows = self.rows()
        rows[index] = llava_row(index, **row) if isinstance(row, dict) else row
        self.write_rows(rows)

    def change_checkpoint(self, change: Callable[[dict[str, Any]], Any]) -> None:
        payload = torch.load(self.path(CHECKPOINT), weights_only=True)
        change(payload)
        torch.save(payload, self.path(CHECKPOINT))

    def patch(self, target: Any, name: str, value: Any) -> None:
        """Changes of the environment, such as a missing GPU, during the case."""
        self.patches.enter_context(unittest.mock.patch.object(target, name, value))


@dataclass(frozen=True)
class Case:
    """One bad input, one command line, and the expected message."""

    name: str
    kind: Kind
    command: str
    """As typed; `audit`, `train`, ... with --config run.yaml or --checkpoint, unless they are given."""
    says: tuple[str, ...]
    """Parts of the message (of the coverage report, where it is accepted)."""
    make: Callable[[Place], object] = lambda place: None
    code: int = 2

    @property
    def arguments(self) -> list[str]:
        name, *rest = self.command.split()
        if name in ("ablate", "caption") and "--checkpoint" not in rest:
            rest = ["--checkpoint", CHECKPOINT, *rest]
        elif name in ("train", "audit") and "--config" not in rest:
            rest = ["--config", "run.yaml", *rest]
        return [name, *rest]


@dataclass(frozen=True)
class Outcome:
    """Output of a command."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The last line on standard error, which explains why a command stopped."""
        return next(reversed(self.err.strip().splitlines()), "")


def make_template(root: Path) -> Path:
    """What every case starts from; made once, copied for each."""
    world = TinyWorld(root)
    save_backbones(root / "models")
    save_rows(root / "data")
    tree = world.tree("run", model__vision="models/vision", model__llm="models/llm")
    tree["output_dir"] = "run"
    tree["data"] |= {"json_file": "data/data.json", "image_root": "data"}
    (root / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    with contextlib.chdir(root), contextlib.redirect_stdout(io.StringIO()):
        assert stage1_align.main(["--config", "run.yaml"]) == 0
    return root


def run(case: Case, template: Path, root: Path) -> Outcome:
    """Make the case in `root` and run its command there."""
    shutil.copytree(template, root)
    place = Place(root)
    with place.patches, contextlib.chdir(root):
        # No test asks a network; the cases that are about one have no other hub than this.
        place.patch(hub, "_answers", lambda *_: False)
        place.patch(hub.constants, "HF_HUB_CACHE", str(root / "no_cache"))
        case.make(place)
        return call(case.arguments, root)


def call(arguments: list[str], root: Path) -> Outcome:
    """Run a command line in this process; paths in what it says are relative to `root`."""
    out, err = io.StringIO(), io.StringIO()
    dataset._say_once.cache_clear()
    name, *rest = arguments
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), log_to(err):
        try:
            code = MAINS[name](rest) if name in MAINS else cli.main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
    texts = [s.getvalue().replace(f"{root}/", "").replace(str(root), "THIS FOLDER") for s in (out, err)]
    return Outcome(code, *texts)


@contextlib.contextmanager
def log_to(stream: io.StringIO) -> Iterator[None]:
    """The package's log lines, as Python prints them if logging is not configured."""
    logger, handler = logging.getLogger("eyechart"), logging.StreamHandler(stream)
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


HEADINGS: dict[Kind, str] = {
    "accepted": "Accepted and converted\n\nCounted where it changes data. The message is a note of the data reader, or "
    "check 2's reason.",
    "rejected": "Row rejected\n\nThe row is left out and counted by its reason; no other row takes its place, and the "
    "split stays.\nUp to `data.max_rejected` (1%) a warning says so, with three examples; above it the run stops. One "
    "row alone\nstops it only where none is allowed, as here.",
    "stops": "Stops before any work\n\nExit code 2, unless the table says otherwise.",
}


def render(results: list[tuple[Case, Outcome]]) -> str:
    """docs/errors.md."""
    lines = [
        "# How bad input is handled",
        "",
        "Written by the tests from what the commands print (`python tests/bad_inputs.py > docs/errors.md`); a test",
        f"compares. The data set has {ROWS} rows, of which 18 train and {len(HELD_OUT)} are held out.",
    ]
    for kind, heading in HEADINGS.items():
        lines += ["", f"## {heading}", "", "| case | command | exit | message |", "|---|---|---|---|"]
        for case, outcome in results:
            if case.kind == kind:
                cells = (case.name, f"`{case.command}`", str(outcome.code), shown(case, outcome))
                lines.append("| " + " | ".join(escaped(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def shown(case: Case, outcome: Outcome) -> str:
    """What the table shows of an outcome."""
    if case.kind != "accepted":
        return outcome.message
    # Notes come first, then the verdict and the tables that `--json` moves to standard error.
    notes = itertools.takewhile(lambda line: not line.startswith("VERDICT"), outcome.err.splitlines())
    verdict = ["INCONCLUSIVE"] if outcome.code == 3 else []
    return "; ".join([*verdict, *notes, *reasons(outcome)])


def reasons(outcome: Outcome) -> list[str]:
    """The reasons in a results.json on standard output."""
    if not outcome.out.startswith("{"):
        return []
    results = Results.model_validate_json(outcome.out)
    checks = [check for check in (results.ablation, results.coverage) if check is not None]
    return [sentence for check in checks for _, sentence in reasons_of(check)]


def escaped(text: str) -> str:
    """Safe inside a table, outside a code span; without what differs from one machine or version to the next."""
    if text.startswith("`"):
        return text.replace("|", "\\|")
    text = re.sub(r"\b[0-9a-f]{12,32}\b|[+-]?\d+\.\d{4}|\d{5,}(?= bytes)", "...", text)
    return re.sub(r"([|*_<>`\[\]])", r"\\\1", text)


def main() -> int:
    """Print docs/errors.md."""
    from bad_cases import CASES

    with tempfile.TemporaryDirectory() as folder:
        template = make_template(Path(folder) / "template")
        results = [(case, run(case, template, Path(folder) / str(i))) for i, case in enumerate(CASES)]
    sys.stdout.write(render(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
