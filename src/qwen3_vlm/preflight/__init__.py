"""Looks at the real pipeline before training: rows, ids, labels, pixels, embeddings, towers, split."""

from __future__ import annotations

from qwen3_vlm.preflight.rows import findings_of_error
from qwen3_vlm.preflight.run import Preflight, preflight

__all__ = ["Preflight", "findings_of_error", "preflight"]
