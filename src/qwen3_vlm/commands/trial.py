"""`qwen3-vlm trial`: train, check 1 and 2, written captions, verdict."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eyechart.results import EXIT_CODES, Results
from eyechart.settings import require_count
from qwen3_vlm.config import Config, load_config

_SHEET_IMAGES = 24


@dataclass(frozen=True)
class Trial:
    """Run the whole trial: data, check 2, training, check 1, written captions, verdict.

    Example: qwen3-vlm trial --config configs/stage1_align_digits.yaml

    Any config field can also be set, such as --train.epochs 1 (docs/config.md lists all).
    """

    config: Path = Path("configs/stage1_align_tiny.yaml")
    """The run's config; the default needs no download and no GPU."""
    num_samples: int | None = None
    """Held-out samples to score; by default the config's ablation.num_samples."""
    conditions: str = "standard"
    """As in `qwen3-vlm ablate`."""
    resume: bool = False
    """Continue from the newest checkpoint in output_dir."""
    overwrite: bool = False
    """Delete the files of an earlier run in output_dir."""
    force: bool = False
    """Train even if a fault was found; this is recorded in the results."""
    no_canary: bool = False
    """As in `qwen3-vlm train`."""
    json: bool = False
    """Print results.json to standard output, and the rest to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Run the whole trial, and return the exit code of the verdict; in a job, 0 on all processes but the first."""
        from eyechart.scoring.ranks import exit_code
        from qwen3_vlm.commands.scoring import job_of

        require_count("--num_samples", self.num_samples)
        config = load_config(self.config, [*overrides, *(["--train.canary", "false"] if self.no_canary else [])])
        results = trial(config, self.num_samples, self.conditions, self.resume, self.overwrite, self.json, self.force)
        return exit_code(job_of(config.model.device), EXIT_CODES[results.verdict])


def trial(
    config: Config,
    num_samples: int | None = None,
    conditions: str = "standard",
    resume: bool = False,
    overwrite: bool = False,
    as_json: bool = False,
    force: bool = False,
) -> Results:
    """Train as `config` says, judge the last checkpoint, and write captions of held-out images.

    Writes checkpoints, log.jsonl, split.json, config.yaml, results.json, runbook.md, samples.parquet and samples.png
    to `output_dir`.

    In a job of several processes, all of them return the same results, and the first one writes them.

    Raises:
        ValueError: the input is bad, or another process writes to `output_dir`; the message is one line.
        FaultsFoundError: the preflight or the training found a fault, and `force` is not set.
        NonFiniteError: training stopped on a non-finite value.
    """
    from eyechart.reporting.contact_sheet import contact_sheet
    from eyechart.reporting.output import write_results
    from eyechart.run_folder import writing
    from eyechart.scoring.conditions import parse_conditions
    from eyechart.scoring.ranks import held_by_first
    from qwen3_vlm.commands.loaded import trained
    from qwen3_vlm.commands.measuring import measure_run
    from qwen3_vlm.commands.scoring import job_of
    from qwen3_vlm.train.run_files import RUN_FILES
    from qwen3_vlm.train.stage1 import train_run

    names, folder = parse_conditions(conditions), Path(config.output_dir)
    ranks = job_of(config.model.device)
    # The folder is held from the first update to the last file, so that no other command writes in between.
    with held_by_first(ranks, lambda: writing(folder, RUN_FILES)):
        # With --json, standard output contains only the JSON.
        with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
            run = train_run(config, resume, overwrite, force)
        checkpoint, prepared, loaded = run.checkpoint, run.prepared, trained(run)
        del run  # frees the optimizer and the cached features
        measured = measure_run(loaded, prepared, checkpoint, names, num_samples, _SHEET_IMAGES)
        results, root = measured.results, Path(config.data.image_root)
        if ranks.index == 0:
            pictures = [(root / w.image, w) for w in results.samples]
            title = f"{checkpoint}: {results.verdict}"
            write_results(
                results,
                folder,
                as_json,
                measured.samples,
                lambda path: contact_sheet(pictures, path, title, results.measurement),
            )
    return results
