"""`qwen3-vlm train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Train:
    """Train the connector between the two frozen backbones (Stage 1 alignment).

    Example: qwen3-vlm train --config configs/stage1_align_tiny.yaml --train.epochs 1 --output_dir outputs/one_epoch

    Any config field can be set so (docs/config.md has them all).
    """

    config: Path
    """The run, a YAML file."""
    resume: bool = False
    """Go on from the newest checkpoint in output_dir; from the beginning if there is none."""
    overwrite: bool = False
    """Delete what an earlier run left in output_dir."""
    force: bool = False
    """Train although a fault was found; the results then say so."""
    dry_run: bool = False
    """Stop after a few updates, write nothing, and say what the run would take: steps, disk, memory, time."""

    def run(self, overrides: Sequence[str]) -> int:
        """Train; returns the exit code."""
        from qwen3_vlm.config import load_config
        from qwen3_vlm.train.stage1 import rehearse, train

        config = load_config(self.config, overrides)
        if self.dry_run:
            rehearse(config)
        else:
            train(config, self.resume, self.overwrite, self.force)
        return 0
