"""Functions of the stacks as they were when a thread was written: each puts a cause into a stack during a training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock


def frozen_without_deepstack() -> AbstractContextManager[object]:
    """LLaMA-Factory before #10139: names of the frozen tower without pos_embed and deepstack_merger_list."""
    from llamafactory.model.model_utils.visual import COMPOSITE_MODELS

    named = COMPOSITE_MODELS["qwen3_vl"]
    return mock.patch.object(named, "vision_model_keys", ["visual.patch_embed", "visual.blocks"])


def packed_with_flat_positions() -> AbstractContextManager[object]:
    """axolotl#3817 as it was proposed: rows of a batch in one row, with two-dimensional position_ids and no mask."""
    import torch
    from axolotl.utils.collators.mm_chat import MultiModalChatDataCollator

    rows = MultiModalChatDataCollator.process_rows

    def packed(self: Any, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = rows(self, examples)
        kept = batch["attention_mask"].bool()
        lengths = kept.sum(dim=1).tolist()
        flat = {
            key: value[kept].unsqueeze(0)
            for key, value in batch.items()
            if key != "attention_mask" and value.shape[:2] == kept.shape
        }
        positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
        others = {key: value for key, value in batch.items() if key not in flat and key != "attention_mask"}
        return {**others, **flat, "position_ids": positions}

    return mock.patch.object(MultiModalChatDataCollator, "process_rows", packed)
