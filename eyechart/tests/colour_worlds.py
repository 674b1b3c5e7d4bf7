"""Tiny models that see: trained for seconds to name the two colours of a picture."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image

from eyechart.models.collated import Collated
from eyechart.processors.loading import load_processor
from tiny_architectures import ARCHITECTURES

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "yellow": (230, 220, 40)}
STEPS = 120


@dataclass(frozen=True)
class World:
    """A trained model, its processor, and batches that it was not trained on."""

    model: Any
    processor: Any

    def batch(self, rows: int, seed: int) -> dict[str, Any]:
        """A batch as a collator makes it, with labels on answers alone."""
        drawn = np.random.default_rng(seed)
        pairs = drawn.integers(0, 4, (rows, 2))
        batch = dict(
            self.processor(
                text=[self._text(*(list(COLOURS)[c] for c in pair)) for pair in pairs],
                images=[[_picture(pair, drawn)] for pair in pairs],
                return_tensors="pt",
                padding=True,
                padding_side="right",
            )
        )
        batch["labels"] = batch["input_ids"].clone()
        answer_BT = Collated.read(batch, self.processor, self.model.config).answers.answer_BT
        batch["labels"][~torch.from_numpy(answer_BT)] = -100
        return batch

    def _text(self, one: str, other: str) -> str:
        asked = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
        answer = [{"type": "text", "text": f"a {one} circle on a {other} ground"}]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return str(self.processor.apply_chat_template(turns, tokenize=False))


def make_world(name: str, steps: int = STEPS) -> World:
    """Train a tiny model of one architecture from its initial weights."""
    with tempfile.TemporaryDirectory() as folder:
        ARCHITECTURES[name](Path(folder))
        config, processor = hf.AutoConfig.from_pretrained(folder), load_processor(folder)
    torch.manual_seed(0)
    model: Any = hf.AutoModelForImageTextToText.from_config(config).train()
    world = World(model, processor)
    whole = world.batch(256, seed=1)
    source = Collated.read(whole, processor, config)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for step in range(steps):
        rows = np.random.default_rng(step).integers(0, 256, 16).tolist()
        loss = model(**source.cut(rows), labels=whole["labels"][rows]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return World(model.eval(), processor)


def _picture(pair: Any, drawn: np.random.Generator) -> Image.Image:
    left, right = (list(COLOURS.values())[c] for c in pair)
    picture_HWC = np.empty((24, 32, 3))
    picture_HWC[:, :16], picture_HWC[:, 16:] = left, right
    noisy_HWC = np.clip(picture_HWC + drawn.normal(0, 12, picture_HWC.shape), 0, 255)
    return Image.fromarray(noisy_HWC.astype(np.uint8))
