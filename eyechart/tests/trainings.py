"""A tiny vision-language model, rows and a collator for tests with transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Dataset, IterableDataset

from batches import Item, Made, made, picture
from saved_models import Saved

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "white": (240, 240, 240)}


class Rows(Dataset[Item]):
    """Rows whose answer is in the picture alone."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.items = [row(first + index) for index in range(count)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]


class Stream(IterableDataset[Item]):
    """The same rows without indices."""

    def __init__(self, count: int) -> None:
        self.rows = Rows(count)

    def __iter__(self) -> Any:
        return iter(self.rows.items)


def row(index: int) -> Item:
    names = list(COLOURS)
    name, other = names[index % 4], names[(index // 4) % 4]
    image = picture(index, (36, 30))
    image.paste(COLOURS[name], (2, 2, 28, 18))
    image.paste(COLOURS[other], (2, 18, 28, 34))
    return Item((image,), ("What is this?", f"a {name} circle on a {other} ground"))


class Collator:
    """Makes batches as TRL's default does (all tokens labelled), or with labels at answers only."""

    def __init__(self, made: Made, labels: str = "all") -> None:
        self.made, self.labels = made, labels

    def __call__(self, items: list[Item]) -> dict[str, Any]:
        return self.made.batch(items, self.labels)


def model_of(saved: Saved, name: str = "qwen2_5_vl") -> tuple[Any, Made]:
    found = made(saved, name)
    torch.manual_seed(0)
    return transformers.AutoModelForImageTextToText.from_pretrained(saved.folder(name)), found


def trainer_of(model: Any, collate: Any, folder: Path, rows: Any = None, **more: Any) -> transformers.Trainer:
    """A Trainer on one CPU thread; `more` are training arguments, or `eval_dataset`, `callbacks`, `kind`."""
    kind = more.pop("kind", transformers.Trainer)
    parts = {name: more.pop(name) for name in ("eval_dataset", "callbacks") if name in more}
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "learning_rate": 1e-3,
        "seed": 3,
    }
    arguments = transformers.TrainingArguments(output_dir=str(folder), **{**defaults, **more})
    return kind(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=rows if rows is not None else Rows(32),
        processing_class=collate.made.processor if hasattr(collate, "made") else None,
        **parts,
    )
