"""A whole run small enough for unit tests: backbones on disk, a data set, a config, and training in under a second."""

from __future__ import annotations

import copy
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from qwen3_vlm.config import Config, parse_config
from qwen3_vlm.train.stage1 import train
from tiny_backbones import SIDE, save_backbones
from tiny_rows import llava_row

ROWS = 22
"""18 rows train and 4 are held out: in batches of 4, with accumulation 2, that is 5 batches (the last of 2 samples)
in 3 windows (the last of 1 batch) an epoch."""
STEPS_PER_EPOCH, UPDATES_PER_EPOCH, EPOCHS = 5, 3, 2
LAST_STEP = STEPS_PER_EPOCH * EPOCHS


def save_rows(folder: Path, count: int = ROWS) -> None:
    """`folder/data.json` and its images."""
    rows = [llava_row(row, caption=f"a red circle{' on a blue ground' * (row % 3)}") for row in range(count)]
    (folder / "images").mkdir(parents=True)
    for row in rows:
        rng = np.random.default_rng(int(row["id"]))
        pixels_HWC = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels_HWC).save(folder / row["image"])
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")


@dataclass(frozen=True)
class TinyWorld:
    """Backbones and data on disk, and configs that use them."""

    root: Path

    @property
    def image_root(self) -> Path:
        return self.root / "data"

    def tree(self, name: str, **changes: Any) -> dict[str, Any]:
        """The config of a run into `root/name` as a plain dictionary; `train__lr=1` sets train.lr."""
        tree: dict[str, Any] = {
            "output_dir": str(self.root / name),
            "threads": 1,
            "model": {"vision": str(self.root / "vision"), "llm": str(self.root / "llm"), "device": "cpu"},
            "connector": {"latents": 4, "depth": 1, "heads": 2, "head_dim": 8, "mlp_ratio": 1, "key_positions": True},
            "data": {
                "json_file": str(self.image_root / "data.json"),
                "image_root": str(self.image_root),
                "eval_ratio": 0.2,
                "max_seq_len": 64,
            },
            "train": {
                "batch_size": 4,
                "accumulation": 2,
                "epochs": EPOCHS,
                "lr": 3e-3,
                "weight_decay": 0.01,
                "tracker": "none",
            },
        }
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[key] = value
        return tree

    def config(self, name: str, **changes: Any) -> Config:
        return parse_config(copy.deepcopy(self.tree(name, **changes)), "test")

    def config_file(self, name: str, **changes: Any) -> Path:
        path = self.root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.tree(name, **changes)), encoding="utf-8")
        return path

    def train(
        self, name: str, resume: bool = False, overwrite: bool = False, force: bool = False, **changes: Any
    ) -> Path:
        """Train into `root/name`; returns the last checkpoint."""
        return train(self.config(name, **changes), resume, overwrite, force)


def make_world(root: Path) -> TinyWorld:
    save_backbones(root)
    save_rows(root / "data")
    return TinyWorld(root)


TIMES = ("seconds", "samples_per_second", "peak_memory_gb")
ID = "run"


def log_of(folder: Path) -> list[dict[str, Any]]:
    """log.jsonl without its timings and the id of its run."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in (*TIMES, ID)} for line in lines]


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints' contents are bit-equal, tensors included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def weights_of(path: Path) -> dict[str, Any]:
    """What must be bit-equal between a resumed and an uninterrupted run: all but the config (its output_dir) and id."""
    payload = torch.load(path, map_location="cpu", weights_only=True)
    progress = {k: v for k, v in payload["progress"].items() if k != "seconds"}
    rest = {k: v for k, v in payload.items() if k not in ("config", "config_hash", "progress", ID)}
    return {**rest, "progress": progress}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """What a full disk looks like to the process that writes: the file ends early."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
