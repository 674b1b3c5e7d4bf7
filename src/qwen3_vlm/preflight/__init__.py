"""Checks of the real pipeline before training: rows, ids, labels, pixels, embeddings, towers, split."""

from __future__ import annotations

from qwen3_vlm.preflight.rows import findings_of_error
from qwen3_vlm.preflight.run import ROWS, Preflight, preflight
from qwen3_vlm.preflight.view import View

__all__ = ["ROWS", "Preflight", "View", "findings_of_error", "preflight"]
