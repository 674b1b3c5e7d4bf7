"""Tiny models of transformers saved as real ones are, and rows to score them on; fixtures of two test files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from eyechart.data.reader import read_rows
from eyechart.models.loading import NamedModel, load_model
from eyechart.seam import Batch
from eyechart.settings import ScoreSettings, settings_of
from tiny_architectures import ARCHITECTURES
from tiny_rows import llava_row

ROWS = 12
CPU = ["--threads", "1", "--device", "cpu", "--set", "ablation.derangements", "1", "--set", "ablation.gallery", "0"]


def settings(**more: Any) -> ScoreSettings:
    """On one thread of the CPU; `ablation__gallery=2` sets a nested field."""
    given = {"threads": 1, "model.device": "cpu", "ablation.derangements": 1, "ablation.gallery": 0}
    return settings_of(given | {name.replace("__", "."): value for name, value in more.items()})


CAPTIONS = ["a red circle on a blue ground", "a green cross", "a yellow square and <|im_end|> a word", "blue"]


def missing_part(name: str) -> str:
    """Why a real model of this kind could not be loaded here either."""
    image_processor = getattr(
        transformers, {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}.get(name, "CLIP") + "ImageProcessorPil"
    )
    if getattr(image_processor, "is_dummy", False):
        return f"transformers {transformers.__version__} has no image processor for it without torchvision"
    return ""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data.json` and its images of two sizes."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "images").mkdir()
    humans = ("Describe the picture.\n<image>", "<image>\nWhat is this?")
    rows = [llava_row(r, caption=f"{CAPTIONS[r % 4]} {r}", human=humans[r % 2]) for r in range(ROWS)]
    for row in rows:
        noise_HWC = np.random.default_rng(int(row["id"])).integers(
            0, 256, (36, 30 + int(row["id"]) % 2, 3), dtype=np.uint8
        )
        Image.fromarray(noise_HWC).save(folder / row["image"])
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


class Saved:
    """Checkpoints on disk, each made once."""

    def __init__(self, root: Path) -> None:
        self.root, self.loaded = root, dict[str, NamedModel]()

    def folder(self, name: str) -> Path:
        reason = missing_part(name)
        if reason:
            pytest.skip(reason)
        if not (self.root / name).is_dir():
            (self.root / name).mkdir()
            ARCHITECTURES[name](self.root / name)
        return self.root / name

    def load(self, name: str) -> NamedModel:
        if name not in self.loaded:
            self.loaded[name] = load_model(str(self.folder(name)), settings())
        return self.loaded[name]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    torch.set_num_threads(1)
    return Saved(tmp_path_factory.mktemp("models"))


def batch_of(model: NamedModel, data: Path, count: int = 4) -> Batch:
    """The first rows as the model reads them."""
    return model.batch(read_rows(data / "data.json", range(count), data)[0])
