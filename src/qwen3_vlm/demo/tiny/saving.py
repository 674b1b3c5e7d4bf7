"""Saves models with fp16 weights on disk that are loaded as fp32."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from transformers import PreTrainedModel

from eyechart.outside.json_text import read_json


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """Call `save_pretrained` with fp16 weights, but with float32 in the config.

    `from_pretrained` takes the dtype from the config, so the backbones compute in fp32 on a CPU while the files have
    half the size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder)
    path = folder / "config.json"
    config = read_json(path)
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
