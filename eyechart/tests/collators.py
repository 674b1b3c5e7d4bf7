"""Batches as a trainer's collator makes them, of tiny models saved by `tiny_architectures`, and their own losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn

from eyechart.processors.loading import load_processor
from saved_models import Saved

ANSWERS = ("a red circle", "a green cross on a blue ground", "a yellow square", "blue")
IGNORED = -100


def load(saved: Saved, name: str) -> tuple[nn.Module, Any]:
    """A new model and its processor."""
    folder = str(saved.folder(name))
    return hf.AutoModelForImageTextToText.from_pretrained(folder), load_processor(folder)


def picture(seed: int, height: int = 36, width: int = 30) -> Image.Image:
    noise_HWC = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise_HWC)


def collate(
    processor: Any, pictures: Sequence[Sequence[Image.Image]], side: str = "right", first: int = 0
) -> dict[str, Any]:
    """A row for every list of pictures, which may be empty; every token but padding is labelled, as TRL does."""
    answers = [f"{ANSWERS[(first + row) % 4]} {first + row}" for row in range(len(pictures))]
    options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "padding_side": side}
    images = [list(row) for row in pictures if row] or None
    if getattr(processor, "chat_template", None):
        texts = [processor.apply_chat_template(_turns(len(row), a)) for row, a in zip(pictures, answers, strict=True)]
        options["add_special_tokens"] = not texts[0].startswith("<bos>")
    else:
        texts, options["suffix"] = ["<image>" * len(row) + "What is this?" for row in pictures], answers
    batch = dict(processor(text=texts, images=images, **options))
    if "labels" not in batch:
        ids_BT = batch["input_ids"]
        batch["labels"] = torch.where(batch["attention_mask"] == 1, ids_BT, IGNORED)
    return batch


def _turns(images: int, answer: str) -> list[dict[str, Any]]:
    asked = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": "What is this?"}]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


@torch.no_grad()
def own_losses(model: nn.Module, batch: Mapping[str, Any], answer_BT: np.ndarray[Any, Any]) -> list[Tensor]:
    """The model's own losses of answer tokens, row by row, from its plain forward pass."""
    logits_BTK = model(**{key: value for key, value in batch.items() if key != "labels"}).logits.float()
    log_p_BTK = logits_BTK.log_softmax(dim=-1)
    ids_BT = torch.as_tensor(batch["input_ids"])
    return [
        torch.tensor([-float(log_p_BTK[b, t - 1, ids_BT[b, t]]) for t in np.flatnonzero(answer_T)])
        for b, answer_T in enumerate(answer_BT)
    ]
