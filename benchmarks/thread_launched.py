"""Cases in LLaMA-Factory, ms-swift and axolotl: their documentation's set-ups, and threads of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thread_case import Case
from thread_launch import Launch


def with_settings(**settings: Any) -> Callable[[Launch], None]:
    """Change settings of the stack; None leaves one out."""
    return lambda launch: launch.settings.update(settings)


def patched(name: str) -> Callable[[Launch], None]:
    """Put a function of the stack back to what it was."""

    def change(launch: Launch) -> None:
        launch.patch = name

    return change


def nothing(launch: Launch) -> None:
    """The training as it is."""


_LORA = {"finetuning_type": "lora", "lora_rank": 8, "lora_target": "all", "freeze_vision_tower": None,
         "freeze_multi_modal_projector": None, "freeze_language_model": None}  # fmt: skip
_PUBLISHED = "qwen2_5_vl_published"

LAUNCHED_HEALTHY = (
    Case("lf-full", "llamafactory, full SFT, tower and projector frozen", "LLaMA-Factory", nothing, "qwen3_vl"),
    Case("lf-lora", "llamafactory, LoRA on all linear layers", "LLaMA-Factory", with_settings(**_LORA), "qwen3_vl"),
    Case("swift-lora", "swift sft, LoRA, tower and aligner frozen", "ms-swift", nothing, _PUBLISHED),
    Case("axolotl-lora", "axolotl, LoRA on the language model", "axolotl", nothing, _PUBLISHED),
)

LAUNCHED_BROKEN = (
    Case(
        "lf-cutoff",
        "cutoff_len ends inside the picture",
        "LLaMA-Factory",
        with_settings(cutoff_len=16),
        "qwen3_vl",
        "14 hiyouga/LLaMA-Factory#9313",
        "image-truncated",
        twin="lf-full",
    ),
    Case(
        "lf-frozen-names",
        "vision_model_keys lack pos_embed and deepstack_merger_list",
        "LLaMA-Factory",
        patched("frozen_without_deepstack"),
        "qwen3_vl",
        "24 hiyouga/LLaMA-Factory#10139",
        "frozen-moved",
        twin="lf-full",
    ),
    Case(
        "swift-max-length",
        "max_length ends before the answers, truncation_strategy right",
        "ms-swift",
        with_settings(max_length=24, truncation_strategy="right"),
        _PUBLISHED,
        "8 modelscope/ms-swift#5238",
        "answer-truncated",
        ("no-labels",),
        "swift-lora",
    ),
    Case(
        "axolotl-packed",
        "packed rows with two-dimensional position_ids",
        "axolotl",
        patched("packed_with_flat_positions"),
        _PUBLISHED,
        "19 axolotl-ai-cloud/axolotl#3817",
        "positions-wrong",
        ("batch-dependent",),
        "axolotl-lora",
    ),
)
