"""`qwen3-vlm report`: generates the report page of a run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Report:
    """Generate report.html again from the results.json of a run.

    Example: qwen3-vlm report outputs/stage1_align_tiny
    """

    folder: tyro.conf.Positional[Path]
    """Folder with a results.json, as written by `trial` and `ablate`."""
    output: Path | None = None
    """The page to write; by default report.html in that folder."""
    image_root: Path | None = None
    """Folder that the samples' images are in; by default the config's data.image_root, relative to the working
    directory. If images are missing, a line reports how many, and the page is written without them."""

    def run(self, overrides: Sequence[str]) -> int:
        """Read the results, write the page, and report how many images are missing."""
        from eyechart.reporting.output import rewrite_page

        if overrides:
            raise ValueError(f"report takes no config fields, got {' '.join(overrides)}: it shows what was measured")
        rewrite_page(self.folder, self.output, self.image_root)
        return 0
