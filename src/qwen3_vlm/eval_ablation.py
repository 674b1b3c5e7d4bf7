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

import tyro

from qwen3_vlm.exits import guarded
from qwen3_vlm.results import EXIT_CODES


@dataclass(frozen=True)
class Ablate:
    """Score a checkpoint's held-out samples with the right, a wrong and no picture, and judge.

    Example: qwen3-vlm ablate --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt --num_samples 128

    Any config field can be set too, such as --ablation.derangements 1 (docs/config.md has them all).
    """

    checkpoint: Path
    """A checkpoint_<step>.pt; the held-out split saved beside it is the one that is scored."""
    config: Path | None = None
    """The run's config; by default the one stored in the checkpoint."""
    num_samples: int | None = None
    """Held-out samples to score; by default the config's ablation.num_samples."""
    conditions: str = "standard"
    """runbook (correct, shuffled, zero, noise), standard (more that are reported, not judged), or names with commas."""
    output: Path | None = None
    """Folder for results.json and runbook.md; by default the checkpoint's."""
    json: bool = False
    """Print results.json to standard output, and the table to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Score, write, print; returns the exit code of the verdict."""
        # Imported here: PyTorch takes seconds to load, and `--help` should not.
        from qwen3_vlm.api.ablation import measure
        from qwen3_vlm.api.output import write_results
        from qwen3_vlm.config import load_config
        from qwen3_vlm.train.checkpoint import stored_config

        if self.num_samples is not None and self.num_samples < 1:
            raise ValueError(f"--num_samples: expected at least 1, got {self.num_samples}")
        config = load_config(self.config, overrides) if self.config else stored_config(self.checkpoint, overrides)
        measured = measure(self.checkpoint, config, self.num_samples, self.conditions)
        if int(os.environ.get("RANK", "0")) == 0:  # all processes of a job hold the same results
            write_results(measured.results, self.output or self.checkpoint.parent, self.json, measured.samples)
        return EXIT_CODES[measured.results.verdict]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m qwen3_vlm.eval_ablation`."""
    command, overrides = tyro.cli(
        Ablate, prog="python -m qwen3_vlm.eval_ablation", args=arguments, return_unknown_args=True
    )
    return guarded(lambda: command.run(overrides))


if __name__ == "__main__":
    sys.exit(main())
