"""Checks the actual pipeline of a run before training: rows, ids, labels, pixels, weights and split."""

from __future__ import annotations

from qwen3_vlm.preflight.rows import findings_of_error
from qwen3_vlm.preflight.run import ROWS, Preflight, preflight
from qwen3_vlm.preflight.view import View

__all__ = ["ROWS", "Preflight", "View", "findings_of_error", "preflight"]
