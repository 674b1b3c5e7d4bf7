"""A small run on the shipped tiny backbones, for the preflight's tests: every detector meets its fault in it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyechart.results import Finding
from qwen3_vlm.build import build_model, prepare_data, prepare_inputs
from qwen3_vlm.config import Config, parse_config
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight import Preflight, findings_of_error, preflight

ASSETS = Path(__file__).parents[1] / "assets" / "tiny"
ROWS = 60
SIZES = ["small", "large"]
COLOURS = ["red", "green", "blue", "purple", "orange"]
SHAPES = ["circle", "square", "triangle", "cross", "ring", "star"]

Row = dict[str, Any]
_MODELS: dict[str, VLM] = {}


def caption_of(row: int) -> str:
    return f"A {SIZES[row % 2]} {COLOURS[row % 5]} {SHAPES[row % 6]} at the left"


@dataclass
class World:
    """Data on disk, a config for it, and what a preflight of them finds."""

    root: Path
    tree: dict[str, Any]

    @property
    def file(self) -> Path:
        return self.root / "data.json"

    def rows(self) -> list[Row]:
        rows: list[Row] = json.loads(self.file.read_text(encoding="utf-8"))
        return rows

    def change(self, change: Callable[[Row, int], object]) -> None:
        """Change every row in place."""
        rows = self.rows()
        for index, row in enumerate(rows):
            change(row, index)
        self.file.write_text(json.dumps(rows), encoding="utf-8")

    def image(self, row: int) -> Path:
        return self.root / self.rows()[row]["image"]

    def config(self, **changes: Any) -> Config:
        tree = json.loads(json.dumps(self.tree))
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[key] = value
        return parse_config(tree, "test")

    def model(self, config: Config) -> VLM:
        """A model of its own for the test; loaded once per kind."""
        kind = json.dumps([config.model.model_dump(), config.connector.model_dump(), config.prompt.image_block])
        if kind not in _MODELS:
            _MODELS[kind] = build_model(config, prepare_inputs(config))
        return copy.deepcopy(_MODELS[kind])

    def fly(self, vlm: VLM | None = None, **changes: Any) -> Preflight:
        config = self.config(**changes)
        prepared = prepare_data(config)
        return preflight(prepared, vlm or self.model(config), rows=16)

    def find(self, vlm: VLM | None = None, **changes: Any) -> list[Finding]:
        """What `diagnose` finds: of the preflight, or of the error that comes before it."""
        try:
            return self.fly(vlm, **changes).findings
        except ValueError as error:
            found = findings_of_error(error, self.config(**changes))
            if not found:
                raise
            return found


def copy_world(world: World, root: Path) -> World:
    """The same world in another folder."""
    shutil.copytree(world.root, root, dirs_exist_ok=True)
    return World(root, json.loads(json.dumps(world.tree).replace(str(world.root), str(root))))


def make_world(root: Path) -> World:
    rows = []
    (root / "images").mkdir(parents=True)
    for row in range(ROWS):
        rng = np.random.default_rng(row)
        image = f"images/{row:09d}.png"
        # Larger than the tower's input, so that the resize filter matters; smooth, so that orientation does.
        small = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(small).resize((100, 90), Image.Resampling.BICUBIC).save(root / image)
        human = "Describe the picture.\n<image>" if row % 2 else "<image>\nWhat is this?"
        turns = [{"from": "human", "value": human}, {"from": "gpt", "value": caption_of(row)}]
        rows.append({"id": f"{row:09d}", "image": image, "conversations": turns})
    (root / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    tree = {
        "output_dir": str(root / "run"),
        "threads": 1,
        "model": {"vision": str(ASSETS / "vision"), "llm": str(ASSETS / "llm"), "device": "cpu"},
        "connector": {"latents": 4, "depth": 1, "heads": 2, "head_dim": 8, "mlp_ratio": 1},
        "data": {
            "json_file": str(root / "data.json"),
            "image_root": str(root),
            "eval_ratio": 0.2,
            "max_seq_len": 96,
        },
        "train": {"batch_size": 4, "accumulation": 2, "epochs": 1, "lr": 3e-3, "tracker": "none"},
    }
    return World(root, tree)


def bad(found: list[Finding]) -> list[str]:
    return [f.code for f in found if f.severity != "note"]


def first(found: list[Finding], severity: str = "error") -> str:
    assert found, "nothing was found"
    assert found[0].severity == severity, [(f.code, f.severity, f.message) for f in found]
    return found[0].code


def human(text: str, every: int = 1) -> Callable[[Any, int], object]:
    return lambda row, i: row["conversations"][0].update(value=text) if i % every == 0 else None
