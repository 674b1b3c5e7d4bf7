"""Batch dicts as a processor makes them, on tiny processors of several architectures; for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import transformers
from PIL import Image

from eyechart.processors.loading import load_processor
from saved_models import Saved

FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "gemma3", "internvl")
"""Architectures with a chat template; PaliGemma has none."""
SIZES = ((36, 30), (28, 40), (20, 20), (44, 24))
QUESTION, ANSWER = "What is this?", "a red circle"


@dataclass(frozen=True)
class Item:
    """A row: its images, and requests and answers in turn."""

    images: tuple[Image.Image, ...]
    texts: tuple[str, ...] = (QUESTION, ANSWER)


@dataclass(frozen=True)
class Made:
    """A processor with its config, and batches that it makes."""

    processor: Any
    config: Any

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def batch(self, items: Sequence[Item], labels: str = "answers", **more: Any) -> dict[str, Any]:
        """A batch; `labels` are those of the answers, `all` ids but padding (as TRL's default), or `none`."""
        texts = [self.processor.apply_chat_template(turns(item), tokenize=False) for item in items]
        images = [list(item.images) for item in items]
        options = {"return_tensors": "pt", "padding": True, "padding_side": "right", **more}
        batch = dict(self.processor(text=texts, images=images if any(images) else None, **options))
        if labels != "none":
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        if labels == "answers":
            answers = {text for item in items for text in item.texts[1::2]}
            batch["labels"] = answer_labels(batch, self.processor, answers)
        return batch


def turns(item: Item) -> list[dict[str, Any]]:
    """A row as messages, all images in front of the first request."""
    messages = []
    for place, text in enumerate(item.texts):
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if place == 0:
            content = [{"type": "image"} for _ in item.images] + content
        messages.append({"role": ("user", "assistant")[place % 2], "content": content})
    return messages


def answer_labels(batch: dict[str, Any], processor: Any, answers: set[str]) -> Any:
    """Labels of the words of the answers and the token after each, found by decoding and not by what is tested."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] >= 0, -100)
    for row, ids in enumerate(batch["input_ids"].tolist()):
        words = [processor.tokenizer.decode([token]) for token in ids]
        for start in range(len(ids)):
            text = ""
            for stop in range(start, min(len(ids), start + 24)):
                text += words[stop]
                if text.strip() in answers and words[start].strip():
                    labels[row, start : stop + 2] = batch["input_ids"][row, start : stop + 2]
    return labels.masked_fill(batch["attention_mask"] == 0, -100)


def picture(seed: int, size: tuple[int, int] = SIZES[0]) -> Image.Image:
    """A picture of random pixels, height and width in pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def item(seed: int, count: int = 1, *texts: str) -> Item:
    """A row with `count` images of various sizes."""
    images = tuple(picture(10 * seed + i, SIZES[(seed + i) % len(SIZES)]) for i in range(count))
    return Item(images, texts or (QUESTION, ANSWER))


def made(saved: Saved, name: str) -> Made:
    """The processor and config of a tiny model."""
    return _loaded(str(saved.folder(name)))


@cache
def _loaded(folder: str) -> Made:
    return Made(load_processor(folder), transformers.AutoConfig.from_pretrained(folder))
