"""Scores a tiny checkpoint of every image-text-to-text type, compares with its own forward, writes docs/models.md.

    python benchmarks/models.py [--types llava qwen2_vl | --used | --page] [--again]

For each type: a checkpoint with random weights is made (`model_checkpoints`), scored by `eyechart score`, and run by a
script that does not import eyechart (`model_oracle`). The losses of `correct` and `shuffled` have to be those of the
model's own forward pass on its own processor's inputs, with the own picture and with the donor's.

Every step of every type runs in a process forked from one that has loaded transformers, with a limit on its CPU time.
Results are appended to a file as they come; a later run leaves out types that are in it for the same version of
transformers, unless `--again` is given. `--used` runs the types of `model_page.USED`, for older versions.

Exit code 0 if no type is silently wrong or ends in an internal error, otherwise 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import model_stub

torch.set_num_threads(1)
model_stub.declare_operators()

import transformers  # noqa: E402

import model_checkpoints  # noqa: E402 - torchvision has to be importable first
from model_page import USED, Outcome, page  # noqa: E402
from model_special import SPECIAL, Special  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SECONDS = {"make": 60, "score": 120, "oracle": 90}
"""Limit of each step, in seconds of CPU time; waiting may take four times as long."""
ROWS = 6
EXPERTS = 5e-4
"""Allowed difference of a token's loss, in nats, of a mixture of experts."""


def main() -> int:
    """Run the types that have no result yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", metavar="TYPE", help="types to run (all)")
    parser.add_argument("--used", action="store_true", help="run the most used types")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from the results")
    parser.add_argument("--again", action="store_true", help="also run types that have a result")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "models.jsonl", help="file of results")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "models.md")
    parser.add_argument("--work", type=Path, help="folder for checkpoints, kept; by default a temporary one")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    known = {entry.kind for entry in _read(options.results) if entry.transformers == transformers.__version__}
    registered = model_checkpoints.types()
    wanted = options.types or ([kind for kind in USED if kind in registered] if options.used else registered)
    wanted = [] if options.page else wanted
    with tempfile.TemporaryDirectory() as temporary:
        for kind in wanted:
            if kind in known and not options.again:
                continue
            found = _run(kind, (options.work or Path(temporary)) / kind)
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(found)) + "\n")
            print(f"{found.kind}: {found.outcome} {found.line} ({found.seconds:.0f} s)", flush=True)
    found_all = _read(options.results)
    options.output.write_text(page(found_all), encoding="utf-8")
    return int(any(found.outcome in ("wrong", "exit 4") for found in found_all))


def _read(file: Path) -> list[Outcome]:
    """Return the latest result of each type on each version of transformers."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return list({(entry["transformers"], entry["kind"]): Outcome(**entry) for entry in map(json.loads, lines)}.values())


def _run(kind: str, folder: Path) -> Outcome:
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outcome, line, difference = _judged(kind, folder)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    line = line.replace(str(folder / "checkpoint"), "CHECKPOINT")
    return Outcome(kind, outcome, transformers.__version__, line, difference, round(time.monotonic() - began, 1))


def _judged(kind: str, folder: Path) -> tuple[str, str, float | None]:
    checkpoint, rows = folder / "checkpoint", _write_rows(folder)
    made = _forked("make", folder, lambda: model_checkpoints.make_checkpoint(kind, checkpoint))
    if made.code:
        return "no checkpoint", made.line, None
    scored = _forked("score", folder, lambda: _score(checkpoint, folder))
    eager = scored.code == 2 and "set --attention to eager" in scored.line
    if eager:  # the fix that the line names
        scored = _forked("score", folder, lambda: _score(checkpoint, folder, "--attention", "eager"))
    size, donors = _scored(folder) if scored.code in (0, 1, 3) else ("64x64", {})
    asked = [{**row, "donors": [rows[d]["image"] for d in donors.get(row["row"], [])[:1]]} for row in rows]
    (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    own = _forked("oracle", folder, lambda: _oracle(checkpoint, folder, size))
    if own.code:
        return "no own forward", f"{own.line} [eyechart: {scored.line or 'scored'}]", None
    if scored.code == 2:
        return "refused", scored.line, None
    if scored.code not in (0, 1, 3):
        return "exit 4" if scored.code == 4 else "time", scored.line, None
    outcome, line, difference = _compared(kind, folder)
    return outcome, f"{'--attention eager ' if eager else ''}{line}".strip(), difference


def _compared(kind: str, folder: Path) -> tuple[str, str, float | None]:
    """Compare the losses with those of the oracle."""
    import pyarrow.parquet as pq

    own = json.loads((folder / "own.json").read_text(encoding="utf-8"))
    by_picture = {(entry["row"], entry["picture"]): entry for entry in own}
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    scored = {row["row"]: row for row in pq.read_table(folder / "out" / "samples.parquet").to_pylist()}
    if len(scored) != ROWS:
        return "wrong", f"{len(scored)} of {ROWS} rows scored", None
    largest = 0.0
    for row in asked:
        got = scored[row["row"]]
        pictures = [("nll_correct", row["image"]), *(("nll_shuffled", donor) for donor in row["donors"])]
        for column, picture in pictures:
            want = by_picture[row["row"], picture]
            # A template that writes no end of turn leaves the last scored token, EOS, to eyechart alone.
            count = min(len(got["token_ids"]), len(want["ids"]))
            if count < len(got["token_ids"]) - 1 or got["token_ids"][: count - 1] != want["ids"][: count - 1]:
                return "wrong", f"its answer is tokenised to {want['ids']}, not to {got['token_ids']}", None
            count -= got["token_ids"][count - 1] != want["ids"][count - 1]
            difference = np.abs(np.subtract(got[column][:count], want["nll"][:count])).max()
            largest = float(np.fmax(largest, difference)) if np.isfinite(difference) else float("inf")
    allowed = _allowed(kind, folder)
    return ("right" if largest <= allowed else "wrong"), f"{largest:.1e}" if largest > allowed else "", largest


def _allowed(kind: str, folder: Path) -> float:
    config = (folder / "checkpoint" / "config.json").read_text(encoding="utf-8")
    return EXPERTS if "experts" in config else SPECIAL.get(kind, Special()).tolerance


@dataclass(frozen=True)
class _Ended:
    code: int
    line: str


def _forked(step: str, folder: Path, job: Callable[[], int | None]) -> _Ended:
    """Run a job in a process of its own, and return its exit code and its last line on standard error."""
    log = folder / f"{step}.log"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        with log.open("w", encoding="utf-8") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            signal.alarm(4 * SECONDS[step])
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS[step], SECONDS[step]))
            try:
                code = job() or 0
            except BaseException as error:  # noqa: BLE001 - any error of a type is its result
                traceback.print_exc()
                sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
                code = 70
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return _Ended(137, f"{step}: stopped after {SECONDS[step]} s (signal {os.WTERMSIG(status)})")
    lines = [text for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    said = [text for text in lines if text.startswith(("error:", "internal error:"))] or lines[-1:]
    code = os.WEXITSTATUS(status)
    return _Ended(code, said[-1][:500] if code not in (0, 1, 3) and said else "")


def _score(checkpoint: Path, folder: Path, *more: str) -> int:
    from eyechart.cli import main as eyechart

    arguments = ["score", str(checkpoint), "--data", str(folder / "rows.json"), "--output", str(folder / "out")]
    arguments += ["--conditions", "runbook", "--threads", "1", "--device", "cpu", "--batch_size", "4"]
    return eyechart([*arguments, *more, "--set", "ablation.derangements", "1", "--set", "ablation.gallery", "0"])


def _oracle(checkpoint: Path, folder: Path, size: str) -> None:
    import model_oracle

    model_oracle.main(str(checkpoint), str(folder / "asked.json"), size, str(folder / "own.json"))


def _scored(folder: Path) -> tuple[str, dict[int, list[int]]]:
    """Return the size of pictures as `WIDTHxHEIGHT`, and the donors of each row."""
    import pyarrow.parquet as pq

    results = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    size = next(r["figures"] for r in results["ablation"]["remarks"] if r["about"] == "images")
    rows = pq.read_table(folder / "out" / "samples.parquet").to_pylist()
    return f"{size['width']}x{size['height']}", {row["row"]: row["donors"] for row in rows}


def _write_rows(folder: Path) -> list[dict[str, Any]]:
    """Write a data file and its pictures; return the rows for the oracle."""
    question, found, listed = "What is this?", [], []
    for row in range(ROWS):
        noise_HWC = np.random.default_rng(row).integers(0, 256, (60, 72, 3), dtype=np.uint8)
        Image.fromarray(noise_HWC).save(folder / f"{row}.png")
        caption = model_checkpoints.CAPTIONS[row % len(model_checkpoints.CAPTIONS)]
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": caption}]
        listed.append({"id": str(row), "image": f"{row}.png", "conversations": turns})
        found.append({"row": row, "image": str(folder / f"{row}.png"), "question": question, "caption": caption})
    (folder / "rows.json").write_text(json.dumps(listed), encoding="utf-8")
    return found


if __name__ == "__main__":
    sys.exit(main())
