"""`qwen3-vlm ablate`: check 1 on a checkpoint, using its held-out split and its training log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eyechart.results import EXIT_CODES, Results
from eyechart.settings import ScoreSettings, require_count
from qwen3_vlm.config import Config

if TYPE_CHECKING:
    from eyechart.api.score import Measured


@dataclass(frozen=True)
class Ablate:
    """Score held-out samples with the right picture, a wrong picture and no picture, and give a verdict.

    Example: qwen3-vlm ablate --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt --num_samples 128

    Any other model is scored by `eyechart score MODEL --data ROWS`.
    Any config field can also be set, such as --ablation.derangements 1 (docs/config.md lists all).
    """

    checkpoint: Path
    """A checkpoint_<step>.pt; the held-out split saved in its folder is scored."""
    config: Path | None = None
    """The run's config, with its settings for judging. By default the config stored in the checkpoint is used, with the
    default settings for judging (sections ablation and coverage): a checkpoint does not bring its own margins."""
    max_seq_len: int | None = None
    """Short for --data.max_seq_len: tokens per sequence."""
    batch_size: int | None = None
    """Short for --ablation.batch_size."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Short for --model.device."""
    precision: Literal["fp32", "bf16"] | None = None
    """Short for --model.precision."""
    num_samples: int | None = None
    """Held-out samples to score; by default the config's ablation.num_samples."""
    conditions: str = "standard"
    """runbook (correct, shuffled, zero, noise), standard (adds no-image, mean-token, noise-per-dim, slot-mix, grey,
    blurred, tiles-4), full (adds blind, tiles-2, tiles-8, matching, donors), or names separated by commas. blind also
    adds zero, no-image and mean-token: a trained prompt that is worse than the best of them is under-trained, and the
    gaps are then not split."""
    output: Path | None = None
    """Folder for results.json and the pages; by default the checkpoint's."""
    json: bool = False
    """Print results.json to standard output, and the table to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Score the checkpoint, write and print the results, and return the exit code of the verdict.

        In a job of several processes, all but the first return 0.
        """
        from eyechart.reporting.output import write_results
        from eyechart.reporting.results_folder import RESULT_FILES
        from eyechart.run_folder import writing
        from eyechart.scoring.ranks import exit_code, held_by_first, nothing, on_first
        from qwen3_vlm.commands.loaded import judge_of, run_config
        from qwen3_vlm.commands.scoring import job_of

        require_count("--num_samples", self.num_samples)
        overrides = [*overrides, *self._short_forms()]
        config, judge = run_config(self.config, self.checkpoint, overrides), judge_of(self.config, overrides)
        ranks, folder = job_of(config.model.device), self.output or self.checkpoint.parent
        with held_by_first(ranks, lambda: writing(folder, RESULT_FILES)) as opened:
            on_first(ranks, opened.require_ours if opened else nothing)
            measured = measure(self.checkpoint, config, self.num_samples, self.conditions, judge)
            if ranks.index == 0:  # all processes of a job have the same results
                write_results(measured.results, folder, self.json, measured.samples)
        return exit_code(ranks, EXIT_CODES[measured.results.verdict])

    def _short_forms(self) -> list[str]:
        """Return overrides for the config fields that can be set without their section."""
        fields = {
            "data.max_seq_len": self.max_seq_len,
            "ablation.batch_size": self.batch_size,
            "model.device": self.device,
            "model.precision": self.precision,
        }
        return [part for key, value in fields.items() if value is not None for part in (f"--{key}", str(value))]


def ablate(
    checkpoint: str | Path,
    config: Config | None = None,
    num_samples: int | None = None,
    conditions: str = "standard",
) -> Results:
    """Run check 1 on a checkpoint's held-out split, and check 2 on the training log in the same folder.

    Args:
        checkpoint: a `checkpoint_<step>.pt`.
        config: the run's config; by default the one stored in the checkpoint, with the default settings for judging.
        num_samples: number of held-out samples to score; the config's `ablation.num_samples` if None.
        conditions: `runbook`, `standard`, `full`, or names separated by commas.

    Returns:
        The results, with the verdict. Only the mean visual tokens and the blind prompt are written to files.

    Raises:
        ValueError: the input is bad; the message is one line.
    """
    return measure(checkpoint, config, num_samples, conditions).results


def measure(
    checkpoint: str | Path,
    config: Config | None = None,
    num_samples: int | None = None,
    conditions: str = "standard",
    judged_by: str | None = None,
) -> Measured:
    """Do the same as `ablate`, and also return the per-token losses of every sample.

    `judged_by` is recorded in the results: where the settings for judging in `config` come from.
    """
    from eyechart.scoring.conditions import parse_conditions
    from qwen3_vlm.commands.loaded import open_with_data
    from qwen3_vlm.commands.measuring import measure_run

    path, names = Path(checkpoint), parse_conditions(conditions)
    loaded, prepared = open_with_data(path, config, judged_by)
    return measure_run(loaded, prepared, path, names, num_samples)


def ablate_model(
    model: str | Path,
    data: str | Path,
    image_root: str | Path,
    num_samples: int | None = None,
    conditions: str = "standard",
    train_data: str | Path | None = None,
    prompt: str | None = None,
    image_size: int | None = None,
    settings: ScoreSettings | None = None,
) -> Results:
    """Run check 1 on an image-text-to-text model of transformers. This is the earlier name of `eyechart.score`.

    Args:
        model: folder in save_pretrained layout, or hub id.
        data: rows that the model has not been trained on.
        image_root: folder that the rows' image paths are relative to.
        num_samples: number of rows to score, drawn by seed; the number in `settings` if None.
        conditions: `runbook`, `standard`, `full`, or names separated by commas.
        train_data: rows whose images are averaged for `mean-token`; without it, that condition is left out.
        prompt: human turn with one `<image>`, used instead of each row's own.
        image_size: width and height of every image in pixels; the processor's own size if None.
        settings: settings for loading and scoring the model; the defaults if None.

    Raises:
        ValueError: the input is bad, or the model fails a self-test; the message is one line.
    """
    from eyechart.api.score import score as score_model
    from eyechart.settings import ScoreSettings

    given = {"train_data": None if train_data is None else str(train_data), "prompt": prompt, "image_size": image_size}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = (settings or ScoreSettings()).model_copy(update=changes)
    return score_model(model, data, conditions, num_samples, image_root, settings)
