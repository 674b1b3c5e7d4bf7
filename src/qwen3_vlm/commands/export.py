"""`qwen3-vlm export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Export:
    """Write a trained connector as a folder that transformers' from_pretrained loads (docs/api.md).

    Example: qwen3-vlm export --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt --output exported
    """

    checkpoint: Path
    """A checkpoint_<step>.pt."""
    output: Path
    """A new folder."""
    config: Path | None = None
    """The run's config; by default the one stored in the checkpoint."""
    include_backbones: bool = False
    """Copy both backbones into the folder, so that it can be moved to another machine; otherwise it refers to them."""

    def run(self, overrides: Sequence[str]) -> int:
        """Load the checkpoint, write the folder, and print the names of the written files."""
        from eyechart.printing import out, results_are_in_files
        from qwen3_vlm.commands.loaded import load, run_config

        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise ValueError(f"--output: expected a new or empty folder, {self.output} is not; name another")
        config = run_config(self.config, self.checkpoint, overrides)
        load(self.checkpoint, config).save_pretrained(self.output, self.include_backbones)
        names = ", ".join(sorted(path.name for path in self.output.iterdir()))
        results_are_in_files()
        out(f"written: {self.output} ({names})")
        return 0
