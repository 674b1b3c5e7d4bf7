"""`qwen3-vlm train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Train:
    """Train the connector between the two frozen backbones (Stage 1 alignment).

    Example: qwen3-vlm train --config configs/stage1_align_tiny.yaml --train.epochs 1 --output_dir outputs/one_epoch

    Any config field can be set in this way (docs/config.md lists all).
    """

    config: Path
    """The run's config, a YAML file."""
    resume: bool = False
    """Continue from the newest checkpoint in output_dir, or start from the beginning if there is none."""
    overwrite: bool = False
    """Delete the files of an earlier run in output_dir."""
    force: bool = False
    """Train even if a fault was found; this is recorded in the results."""
    no_canary: bool = False
    """Do not score 32 held-out rows at each save (the canary) for comparison when the checkpoint is opened. This is
    short for --train.canary false."""
    dry_run: bool = False
    """Stop after a few updates, write nothing, and print what the run would need: steps, disk, memory, time."""

    def run(self, overrides: Sequence[str]) -> int:
        """Train, and return the exit code."""
        from eyechart.printing import results_are_in_files
        from qwen3_vlm.config import load_config
        from qwen3_vlm.train.stage1 import rehearse, train

        config = load_config(self.config, [*overrides, *(["--train.canary", "false"] if self.no_canary else [])])
        if self.dry_run:
            rehearse(config)
        else:
            train(config, self.resume, self.overwrite, self.force)
            results_are_in_files()
        return 0
