"""`qwen3-vlm diagnose`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eyechart.exits import NamedInputError
from eyechart.settings import require_count
from qwen3_vlm.config import Config


@dataclass(frozen=True)
class Diagnose:
    """Look for faults in data, prompts, labels, pixels, embeddings and gradients without training, or in a checkpoint.

    Example: qwen3-vlm diagnose --config configs/stage1_align_tiny.yaml

    Exit code 1 if there is an error, otherwise 0; every fault has a page in docs/faults.
    """

    config: Path | None = None
    """The run's config; by default the one stored in the checkpoint."""
    checkpoint: Path | None = None
    """A checkpoint_<step>.pt; its weights are also checked, and held-out samples are scored with it."""
    rows: int = 128
    """Rows of each side of the split that are read with their images."""
    json: bool = False
    """Print the findings as JSON to standard output, and the text to standard error."""

    def run(self, overrides: Sequence[str]) -> int:
        """Diagnose, print the findings, and return 1 if there is an error among them, otherwise 0."""
        from eyechart.printing import out_json
        from qwen3_vlm.commands.diagnosis import diagnose, refused
        from qwen3_vlm.commands.loaded import run_config
        from qwen3_vlm.preflight.show import print_findings, print_sample

        require_count("--rows", self.rows)
        try:
            config = run_config(self.config, self.checkpoint, overrides)
        except NamedInputError as error:
            found = refused(error, Config())
        else:
            found = diagnose(config, self.checkpoint, self.rows)
        stream = sys.stderr if self.json else sys.stdout
        if self.json:
            out_json(found.to_json())
        if found.view:
            print_sample(found.view, stream)
        print_findings(found.findings, found.looked_at, stream)
        return found.code
