"""From parts of a run to results, and from results to files and the terminal."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from qwen3_vlm.api.parquet import SampleRows, write_samples
from qwen3_vlm.config import Config
from qwen3_vlm.report.environment import environment
from qwen3_vlm.report.html import docs_link, render_html
from qwen3_vlm.report.runbook import render_runbook
from qwen3_vlm.report.terminal import print_results
from qwen3_vlm.results import (
    Ablation,
    Coverage,
    Finding,
    Results,
    ScoredSample,
    Training,
    WrittenCaption,
    to_json,
    worst,
    write_atomic,
)


def assemble(
    config: Config,
    checkpoint: Path | None = None,
    training: Training | None = None,
    ablation: Ablation | None = None,
    coverage: Coverage | None = None,
    samples: Sequence[WrittenCaption] = (),
    diagnosis: Sequence[Finding] = (),
    scored: Sequence[ScoredSample] = (),
) -> Results:
    """Put the parts of a run together; the overall verdict is the worst of the checks'."""
    checks = [check for check in (ablation, coverage) if check is not None]
    return Results(
        verdict=worst([check.verdict for check in checks]),
        reasons=[reason for check in checks for reason in check.reasons],
        checkpoint=str(checkpoint) if checkpoint else None,
        command=command_line(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        training=training,
        ablation=ablation,
        coverage=coverage,
        diagnosis=list(diagnosis),
        samples=list(samples),
        scored=list(scored),
        environment=environment(),
        config=config.model_dump(mode="json"),
    )


def command_line() -> str:
    """What was typed to start this process, so that it can be typed again; empty where nothing was (a notebook)."""
    script, *arguments = sys.argv or [""]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None:
        start = ["python", "-m", module.name.removesuffix(".__main__")]
    elif script in ("", "-c"):
        return ""
    elif script.endswith(".py"):
        start = ["python", script]
    else:
        start = [Path(script).name]  # an installed command: the folder it was found in belongs to the machine
    return shlex.join([*start, *arguments])


def show(results: Results, as_json: bool = False) -> None:
    """Print the tables to standard output; or the JSON there and the tables to standard error."""
    if as_json:
        sys.stdout.write(to_json(results) + "\n")
    print_results(results, sys.stderr if as_json else sys.stdout)


def write_results(results: Results, folder: Path, as_json: bool = False, samples: SampleRows | None = None) -> None:
    """Write what a run leaves behind to `folder`, then print the results.

    results.json first; then, all made from it, runbook.md and report.html; and samples.parquet from `samples`.
    """
    write_atomic(folder / "results.json", to_json(results) + "\n")
    write_atomic(folder / "runbook.md", render_runbook(results))
    write_atomic(folder / "report.html", render_html(results, docs=docs_link(folder)))
    written = ["results.json", "runbook.md", "report.html"]
    if samples is not None:
        write_samples(samples, folder / "samples.parquet")
        written.append("samples.parquet")
    show(results, as_json)
    if not as_json:
        sys.stdout.write(f"written: {', '.join(str(folder / name) for name in written)}\n")
