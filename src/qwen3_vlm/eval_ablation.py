"""Check 1 from the command line: does the loss rise when the picture is taken away?

    python -m qwen3_vlm.eval_ablation --config configs/stage1_align_tiny.yaml --num_samples 128 \
        --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt

Exit code 0 PASS, 1 FAIL, 3 INCONCLUSIVE, 2 bad input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from eyechart.exits import guarded
from eyechart.results import EXIT_CODES


@dataclass(frozen=True)
class Ablate:
    """Score held-out samples with the right, a wrong and no picture, and judge.

    Example: qwen3-vlm ablate --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt --num_samples 128

    Any other model is scored by `eyechart score MODEL --data ROWS`.
    Any config field can be set too, such as --ablation.derangements 1 (docs/config.md has them all).
    """

    checkpoint: Path
    """A checkpoint_<step>.pt; the held-out split saved beside it is the one that is scored."""
    config: Path | None = None
    """The run's config; by default the one stored in the checkpoint."""
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
    blurred, tiles-4), full (adds blind, tiles-2, tiles-8, matching, donors), or names with commas. blind brings zero,
    no-image and mean-token with it: a prompt that is worse than the best of them is under-trained and splits no gap."""
    output: Path | None = None
    """Folder for results.json and the pages; by default the checkpoint's."""
    json: bool = False
    """Print results.json to standard output, and the table to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Score, write, print; returns the exit code of the verdict."""
        # Imported where they are used: PyTorch takes seconds to load, and `--help` should not.
        from eyechart.reporting.output import write_results
        from qwen3_vlm.commands.ablate import measure
        from qwen3_vlm.config import load_config
        from qwen3_vlm.train.checkpoint import stored_config

        if self.num_samples is not None and self.num_samples < 1:
            raise ValueError(f"--num_samples: expected at least 1, got {self.num_samples}")
        overrides = [*overrides, *self._short_forms()]
        config = load_config(self.config, overrides) if self.config else stored_config(self.checkpoint, overrides)
        measured = measure(self.checkpoint, config, self.num_samples, self.conditions)
        if int(os.environ.get("RANK", "0")) == 0:  # all processes of a job hold the same results
            write_results(measured.results, self.output or self.checkpoint.parent, self.json, measured.samples)
        return EXIT_CODES[measured.results.verdict]

    def _short_forms(self) -> list[str]:
        """The config fields that can be set without their section."""
        fields = {
            "data.max_seq_len": self.max_seq_len,
            "ablation.batch_size": self.batch_size,
            "model.device": self.device,
            "model.precision": self.precision,
        }
        return [part for key, value in fields.items() if value is not None for part in (f"--{key}", str(value))]


def refuse_moved(arguments: Sequence[str]) -> None:
    """Say where an old form has gone, before anything asks for what it no longer takes.

    Raises:
        ValueError: `--model`, alone or with a value.
    """
    if any(part == "--model" or part.startswith("--model=") for part in arguments):
        raise ValueError(
            "ablate --model has moved: any other model is scored by `eyechart score MODEL --data ROWS "
            "--image_root FOLDER`"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m qwen3_vlm.eval_ablation`."""
    typed = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        refuse_moved(typed)
        command, overrides = tyro.cli(
            Ablate, prog="python -m qwen3_vlm.eval_ablation", args=typed, return_unknown_args=True
        )
        return command.run(overrides)

    return guarded(run, "qwen3_vlm")


if __name__ == "__main__":
    sys.exit(main())
