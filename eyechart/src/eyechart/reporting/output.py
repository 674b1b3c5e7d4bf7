"""Assembles the parts of a run into results, and writes results to files and the terminal."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyechart.files import write_atomic
from eyechart.manifest import new_id
from eyechart.printing import err, out, out_json, results_are_in_files
from eyechart.reporting.environment import environment
from eyechart.reporting.parquet import SampleRows, write_samples
from eyechart.reporting.results_folder import (
    PAGE,
    RESULT_FILES,
    RESULTS_FILE,
    RUNBOOK,
    SAMPLES,
    SHEET,
    read_folder,
)
from eyechart.reporting.runbook import render_runbook
from eyechart.reporting.terminal import absent_images, print_results
from eyechart.results import (
    Ablation,
    Coverage,
    Finding,
    Results,
    ScoredSample,
    Training,
    WrittenCaption,
    to_json,
)
from eyechart.run_folder import RESULTS, writing
from eyechart.verdict.conclusions import conclude
from eyechart.verdict.overall import overall


@dataclass(frozen=True)
class Parts:
    """The parts of the results that a run measured; any part may be missing."""

    training: Training | None = None
    ablation: Ablation | None = None
    coverage: Coverage | None = None
    samples: Sequence[WrittenCaption] = ()
    diagnosis: Sequence[Finding] = ()
    scored: Sequence[ScoredSample] = ()


def assemble(config: Mapping[str, Any], checkpoint: str | Path | None, parts: Parts) -> Results:
    """Combine the parts of a run into results; the overall verdict follows from checks and findings.

    Args:
        config: what was scored and how, as recorded by the code that scored it.
        checkpoint: name of the scored model or checkpoint.
        parts: the measured parts.
    """
    return Results(
        verdict=overall(parts.ablation, parts.coverage, parts.diagnosis),
        conclusions=conclude(parts.ablation, parts.coverage, parts.diagnosis),
        checkpoint=str(checkpoint) if checkpoint else None,
        command=command_line(),
        measurement=new_id(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        training=parts.training,
        ablation=parts.ablation,
        coverage=parts.coverage,
        diagnosis=list(parts.diagnosis),
        samples=list(parts.samples),
        scored=list(parts.scored),
        environment=environment(),
        config=dict(config),
    )


def command_line() -> str:
    """Return the command line of this process, so that it can be run again; empty in a notebook, which has none."""
    script, *arguments = sys.argv or [""]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is not None:
        start = ["python", "-m", module.name.removesuffix(".__main__")]
    elif script in ("", "-c"):
        return ""
    elif script.endswith(".py"):
        start = ["python", script]
    else:
        start = [Path(script).name]  # an installed command: its folder is specific to the machine and is left out
    return shlex.join([*start, *arguments])


def show(results: Results, as_json: bool = False) -> None:
    """Print the tables to standard output; with `as_json`, print the JSON there and the tables to standard error."""
    if as_json:
        out_json(to_json(results))
    print_results(results, sys.stderr if as_json else sys.stdout)


def write_results(
    results: Results,
    folder: str | Path,
    as_json: bool = False,
    samples: SampleRows | None = None,
    sheet: Callable[[Path], None] | None = None,
) -> None:
    """Write the output files of a run to `folder`, then print the results.

    results.json, runbook.md and report.html, samples.parquet (made from `samples`) and samples.png (drawn by `sheet`,
    which gets the path) appear together. They replace all files of earlier results in the folder, or none of them.

    Raises:
        ValueError: another process writes to the folder, or a file there is not of earlier results.
    """
    # Imported here because the page's plots take a second to load, and scoring alone needs no page.
    from eyechart.reporting.html import docs_link, render_html

    folder = Path(folder)
    with writing(folder, RESULT_FILES) as opened, opened.together(RESULTS) as draft:
        write_atomic(draft / RESULTS_FILE, to_json(results) + "\n")
        write_atomic(draft / RUNBOOK, render_runbook(results))
        write_atomic(draft / PAGE, render_html(results, docs=docs_link(folder)))
        written = [RESULTS_FILE, RUNBOOK, PAGE]
        if samples is not None:
            write_samples(samples, draft / SAMPLES, results.measurement)
            written.append(SAMPLES)
        if sheet is not None:
            sheet(draft / SHEET)
    results_are_in_files()
    show(results, as_json)
    if not as_json:
        out(f"written: {', '.join(str(folder / name) for name in written)}")
    if sheet is not None:
        err(f"pictures and captions: {folder / SHEET}")


def rewrite_page(folder: Path, output: Path | None = None, image_root: Path | None = None) -> None:
    """Write the page of a run again from its results.json, and report how many pictures are missing.

    Args:
        folder: folder that contains a results.json.
        output: the file to write; `report.html` in `folder` if None.
        image_root: folder of the samples' images; by default the one recorded in the results.

    Raises:
        ValueError: the folder of images does not exist, the results cannot be read, files of different measurements are
            mixed, another process writes to the folder, or its report.html is not a page of results.
    """
    from eyechart.reporting.html import docs_link, render_html

    if image_root is not None and not image_root.is_dir():
        raise ValueError(f"--image_root: expected the folder that the images are in, {image_root} is not a folder")
    page = output or folder / PAGE
    if output is None and folder.is_dir():
        with writing(folder, RESULT_FILES):
            results = read_folder(folder)
            write_atomic(page, render_html(results, image_root, docs_link(folder)))
    else:
        results = read_folder(folder)
        write_atomic(page, render_html(results, image_root, docs_link(page.parent)))
    results_are_in_files()
    out(f"written: {page}")
    if absent := absent_images(results, image_root):
        err(f"warning: {absent}")
