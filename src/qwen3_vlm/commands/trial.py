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
        """Run the whole trial, and return the exit code of the verdict."""
        require_count("--num_samples", self.num_samples)
        config = load_config(self.config, [*overrides, *(["--train.canary", "false"] if self.no_canary else [])])
        results = trial(config, self.num_samples, self.conditions, self.resume, self.overwrite, self.json, self.force)
        return EXIT_CODES[results.verdict]


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

    Raises:
        ValueError: the input is bad; the message is one line.
        FaultsFoundError: the preflight or the training found a fault, and `force` is not set.
        NonFiniteError: training stopped on a non-finite value.
    """
    from eyechart.printing import err
    from eyechart.reporting.contact_sheet import contact_sheet
    from eyechart.reporting.output import write_results
    from eyechart.scoring.conditions import parse_conditions
    from qwen3_vlm.commands.loaded import trained
    from qwen3_vlm.commands.measuring import measure_run
    from qwen3_vlm.train.stage1 import train_run

    names = parse_conditions(conditions)
    # With --json, standard output contains only the JSON.
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        run = train_run(config, resume, overwrite, force)
    checkpoint, prepared, loaded = run.checkpoint, run.prepared, trained(run)
    del run  # frees the optimizer and the cached features
    measured = measure_run(loaded, prepared, checkpoint, names, num_samples, _SHEET_IMAGES)
    results, folder, root = measured.results, checkpoint.parent, Path(config.data.image_root)
    pictures = [(root / w.image, w) for w in results.samples]
    contact_sheet(pictures, folder / "samples.png", f"{checkpoint}: {results.verdict}")
    write_results(results, folder, as_json, measured.samples)
    err(f"pictures and captions: {folder / 'samples.png'}")
    return results
