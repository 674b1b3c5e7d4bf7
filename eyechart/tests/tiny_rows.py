"""A tiny tokenizer with Qwen's strings, and a small data set in LLaVA-Pretrain layout; fixtures of both test suites."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"]
COLOURS = ["red", "green", "blue", "yellow"]
SHAPES = ["circle", "square", "cross"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as Qwen's, with its token strings and pad = EOS; trained on a handful of captions."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    sentences = [
        f"a {colour} {shape} on a {other} ground" for colour in COLOURS for shape in SHAPES for other in COLOURS
    ]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([*sentences, "Describe the picture.\n", "What is this?\n"] * 2, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[0], pad_token=SPECIAL[0])


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def llava_row(row: int = 0, **changes: Any) -> dict[str, Any]:
    """A valid row; `human`, `caption`, `id`, `image` can be changed."""
    turns = [
        {"from": "human", "value": changes.pop("human", "Describe the picture.\n<image>")},
        {"from": "gpt", "value": changes.pop("caption", f"a {COLOURS[row % 4]} {SHAPES[row % 3]}")},
    ]
    return {"id": f"{row:09d}", "image": f"images/{row:05d}.png", "conversations": turns, **changes}


@dataclass(frozen=True)
class LlavaFolder:
    """A data set on disk."""

    json_file: Path
    image_root: Path
    rows: list[dict[str, Any]]


@pytest.fixture
def make_llava(tmp_path: Path) -> Callable[..., LlavaFolder]:
    """`make_llava(count, side)` writes that many rows with images of distinct content below tmp_path."""

    def make(count: int = 6, side: int = 24) -> LlavaFolder:
        rows = [llava_row(row) for row in range(count)]
        (tmp_path / "images").mkdir()
        for row in rows:
            rng = np.random.default_rng(int(row["id"]))
            noise_HWC = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise_HWC).save(tmp_path / row["image"])
        json_file = tmp_path / "data.json"
        json_file.write_text(json.dumps(rows), encoding="utf-8")
        return LlavaFolder(json_file, tmp_path, rows)

    return make


@pytest.fixture
def llava(make_llava: Callable[..., LlavaFolder]) -> LlavaFolder:
    """Six rows with images of 24x24 pixels."""
    return make_llava()
