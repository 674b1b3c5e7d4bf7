"""The preflight is silent on sound set-ups, and leaves the model as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from preflight_world import ASSETS, COLOURS, SIZES, World, bad
from qwen3_vlm.build import prepare_data
from qwen3_vlm.preflight import run as run_room

SOUND: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one visual token": {"connector__latents": 1},
    "64 visual tokens": {"connector__latents": 64, "data__max_seq_len": 160},
    "a layer norm on the tower's features": {"connector__vision_ln": True, "connector__depth": 2},
    "key positions and normed output": {"connector__key_positions": True, "connector__output_norm": True},
    "the image before the prompt": {"prompt__template": "<image>\nWhat is it?\n"},
    "no prompt": {"prompt__template": "<image>"},
    "ChatML": {"prompt__template": "<|im_start|>user\n{human}<|im_end|>\n<|im_start|>assistant\n"},
    "the older image block": {"prompt__image_block": "legacy"},
    "bfloat16": {"model__precision": "bf16"},
    "bfloat16, normed output": {"model__precision": "bf16", "connector__output_norm": True},
    "no held-out rows": {"data__eval_ratio": 0.0},
    "few rows": {"data__max_samples": 3},
}


@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND.keys())
def test_a_sound_set_up_raises_nothing(world: World, changes: dict[str, Any]) -> None:
    flight = world.fly(**changes)
    assert flight.findings == []
    assert flight.batch >= 2


def test_an_untied_language_model_is_sound(world: World, tmp_path: Path) -> None:
    llm = shutil.copytree(ASSETS / "llm", tmp_path / "untied")
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = load_file(llm / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, llm / "model.safetensors", metadata={"format": "pt"})
    assert world.find(model__llm=str(llm)) == []


def test_many_equal_captions_by_nature_are_sound(world: World) -> None:
    """Ten classes, as in a data set of digits."""
    world.change(lambda row, i: row["conversations"][1].update(value=f"A {SIZES[i % 2]} {COLOURS[i % 5]} circle"))
    assert bad(world.find()) == []


def test_dark_and_single_odd_images_are_sound(world: World) -> None:
    for row in range(60):
        with Image.open(world.image(row)) as opened:
            dark = np.asarray(opened) // 64
        Image.fromarray(dark).save(world.image(row))
    Image.new("L", (80, 70), 200).save(world.image(3))
    Image.new("RGBA", (80, 70), (9, 9, 9, 100)).save(world.image(4))
    assert bad(world.find()) == []


def test_the_preflight_leaves_weights_gradients_and_the_generator_alone(world: World) -> None:
    config = world.config()
    prepared = prepare_data(config)
    vlm = world.model(config)
    before = {name: value.clone() for name, value in vlm.state_dict().items()}
    state = torch.get_rng_state()
    run_room.preflight(prepared, vlm, rows=8)
    assert all(torch.equal(value, before[name]) for name, value in vlm.state_dict().items())
    assert all(p.grad is None for p in vlm.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert vlm.training
