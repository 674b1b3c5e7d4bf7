"""`qwen3-vlm caption`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from eyechart.settings import require_count

MOST_TOKENS = 32_768
"""Longest caption that can be asked for, in tokens; Qwen3 was trained on texts of this length."""


@dataclass(frozen=True)
class Caption:
    """Write captions for images with a trained connector.

    Example: qwen3-vlm caption --checkpoint outputs/stage1_align_tiny/checkpoint_3675.pt data/scenes/00000/*.png
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    checkpoint: Path
    """A checkpoint_<step>.pt."""
    config: Path | None = None
    """The run's config; by default the one stored in the checkpoint."""
    request: str | None = None
    """Human turn with one <image>; by default the config's prompt.caption_request."""
    max_new_tokens: int = 64
    """Longest caption, in tokens."""

    def run(self, overrides: Sequence[str]) -> int:
        """Print one line `path<TAB>caption` per image."""
        # Imported here, as in every command, because PyTorch takes seconds to load and `--help` should be fast.
        from eyechart.printing import out
        from qwen3_vlm.commands.loaded import load, run_config

        require_count("--max_new_tokens", self.max_new_tokens, MOST_TOKENS)
        if not self.images:
            raise ValueError("expected image files, got none: qwen3-vlm caption --checkpoint CHECKPOINT IMAGE...")
        model = load(self.checkpoint, run_config(self.config, self.checkpoint, overrides))
        for image, text in zip(self.images, model.caption(self.images, self.request, self.max_new_tokens), strict=True):
            out(str(image), text)
        return 0
