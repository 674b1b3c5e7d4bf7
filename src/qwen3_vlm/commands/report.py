"""`qwen3-vlm report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Report:
    """Make report.html again from the results.json of a run.

    Example: qwen3-vlm report outputs/stage1_align_tiny
    """

    folder: tyro.conf.Positional[Path]
    """Folder with a results.json, as `trial` and `ablate` leave it."""
    output: Path | None = None
    """The page to write; by default report.html in that folder."""
    image_root: Path | None = None
    """Folder that the samples' images are in; by default the config's data.image_root, seen from here. A line says how
    many of them are not there; the page is then written without."""

    def run(self, overrides: Sequence[str]) -> int:
        """Read, render, write; and say which pictures the page has to do without."""
        from eyechart.reporting.output import rewrite_page

        if overrides:
            raise ValueError(f"report takes no config fields, got {' '.join(overrides)}: it shows what was measured")
        rewrite_page(self.folder, self.output, self.image_root)
        return 0
