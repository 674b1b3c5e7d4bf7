"""Tiny checkpoints with random weights for the trainings of `threads.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from tiny_architectures import ARCHITECTURES

_PUBLISHED_IDS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}
"""Ids of special tokens in published Qwen2.5-VL checkpoints; ms-swift has those of placeholders in its code."""
_VOCABULARY = 151664
_MADE = "made.txt"


def checkpoint(root: Path, family: str, seed: int) -> Path:
    """The folder of a tiny model with random weights drawn by `seed`, made once."""
    folder = root / f"{family}-{seed}"
    if not (folder / _MADE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if family == "qwen2_5_vl_published":
            _published(folder)
        else:
            ARCHITECTURES[family](folder)
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
        torch.manual_seed(seed)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.1)
        model.save_pretrained(folder)
        (folder / _MADE).touch()
    return folder


def _published(folder: Path) -> None:
    """Qwen2.5-VL with the token ids and the patch size of published checkpoints, which stacks have in their code."""
    ARCHITECTURES["qwen2_5_vl"](folder)
    (folder / "model.safetensors").unlink()
    tokenizer, config, image = (
        _Edited(folder / name) for name in ("tokenizer.json", "config.json", "preprocessor_config.json")
    )
    vocabulary = tokenizer.tree["model"]["vocab"]
    moved = {word: _PUBLISHED_IDS.get(word, place) for word, place in vocabulary.items()}
    ids = {vocabulary[word]: moved[word] for word in _PUBLISHED_IDS}
    tokenizer.tree["model"]["vocab"] = moved
    for added in tokenizer.tree["added_tokens"]:
        added["id"] = ids[added["id"]]
    text = config.tree["text_config"]
    for part in (config.tree, text):
        part.update({key: ids.get(value, value) for key, value in part.items()
                     if key.endswith("token_id") and isinstance(value, int)})  # fmt: skip
    text["vocab_size"] = _VOCABULARY
    text["tie_word_embeddings"] = config.tree["tie_word_embeddings"] = True
    config.tree["vision_config"] |= {"patch_size": 14, "window_size": 112}
    image.tree |= {"patch_size": 14, "min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280}
    for edited in (tokenizer, config, image):
        edited.write()
    made = transformers.AutoModelForImageTextToText.from_config(transformers.AutoConfig.from_pretrained(folder))
    made.save_pretrained(folder)


class _Edited:
    """A JSON file that is changed."""

    def __init__(self, path: Path) -> None:
        """Read it."""
        self.path = path
        self.tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))

    def write(self) -> None:
        """Write it back."""
        self.path.write_text(json.dumps(self.tree), encoding="utf-8")
