"""`qwen3-vlm audit`: runs check 2 (whether captions are truncated) without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eyechart.results import EXIT_CODES, Coverage
from qwen3_vlm.config import Config, load_config


@dataclass(frozen=True)
class Audit:
    """Run check 2 over a whole split, without training: count truncated captions and unlabelled samples; suggest a fix.

    Example: qwen3-vlm audit --config configs/stage1_align_tiny.yaml --data.max_seq_len 32
    """

    config: Path
    """The run's config."""
    split: Literal["train", "eval"] = "train"
    """Side of the split whose samples are counted."""
    text_only: bool = False
    """Do not open the images. This is faster, but unreadable images then count as samples."""
    json: bool = False
    """Print the results as JSON to standard output, and the table to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Run check 2, print the results, and return the exit code of the verdict."""
        from eyechart.reporting.output import Parts, assemble, show

        config = load_config(self.config, overrides)
        counted = Parts(coverage=audit(config, self.split, self.text_only))
        results = assemble(config.model_dump(mode="json"), None, counted)
        show(results, as_json=self.json)
        return EXIT_CODES[results.verdict]


def audit(config: Config, split: Literal["train", "eval"] = "train", text_only: bool = False) -> Coverage:
    """Run check 2 over a whole side of the split, without training and without loading a model.

    Args:
        config: the config of the run.
        split: the side of the split.
        text_only: whether to count without opening the images. This is faster, but unreadable images then count as
            samples.

    Raises:
        ValueError: the config or the data cannot be used; the message is one line.
    """
    from qwen3_vlm.build import prepare_data
    from qwen3_vlm.commands.coverage import audit_prepared

    return audit_prepared(prepare_data(config), split, text_only)
