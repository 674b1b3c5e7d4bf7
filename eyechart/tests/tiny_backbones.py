"""A language model and a vision tower on disk, each alone: what Stage 1 trains between, and no model to be scored."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from tiny_rows import make_tokenizer

SIDE = 16
"""Pixels of both sides of an image."""


def save_backbones(folder: Path) -> None:
    """`folder/llm` and `folder/vision`: real classes, random weights, save_pretrained layout."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder / "llm")
    torch.manual_seed(0)
    llm = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )
    # Larger than the default initialisation, or every output is nearly the same and tests see nothing.
    for parameter in llm.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    llm.save_pretrained(folder / "llm")
    vision = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=8,
        )
    )
    vision.save_pretrained(folder / "vision")
    preprocessor = {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "vision" / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
