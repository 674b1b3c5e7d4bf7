"""configs/stage1_align_trial.yaml on shrunken backbones that keep what is peculiar to the real ones.

Kept from Qwen3-8B-Base: four times as many query heads as key-value heads, head_dim set apart from the width, untied
embeddings with more rows than the tokenizer has tokens, pad = EOS, Qwen's token strings, no BOS. From
SigLIP2-so400m-patch14-384: patches of 14 px in an odd square of them, a size that is no multiple of 14 (384 = 27 * 14
+ 6; here 62 = 4 * 14 + 6), bilinear resizing, mean = std = 0.5, a checkpoint of vision and text. Depths stand 36 to 27.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from eyechart.data.images import ImageSpec
from eyechart.results import read
from qwen3_vlm import load
from qwen3_vlm.build import connector_shape
from qwen3_vlm.cli import main
from qwen3_vlm.config import Config, load_config
from qwen3_vlm.models.connector import Connector
from qwen3_vlm.models.llm import LanguageModel
from qwen3_vlm.models.vision import VisionTower
from tiny_rows import make_tokenizer
from tiny_runs import save_rows

TRIAL = Path(__file__).parents[1] / "configs" / "stage1_align_trial.yaml"
SIDE, PATCH_SIDE = 62, 14
SIGLIP = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
PREPROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "do_convert_rgb": None,
}
SMALLER = {
    "connector.latents": 8,
    "connector.head_dim": 8,
    "model.precision": "fp32",
    "data.max_samples": 26,
    "data.eval_ratio": 0.25,
    "data.workers": 0,
    "train.epochs": 1,
    "threads": 1,
}
"""26 rows, 6 held out: 20 train in 5 batches of 4, that is 2 updates."""


def save_llm(folder: Path, tied: bool) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer) + 17,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)


def save_vision(folder: Path) -> None:
    """Both halves of a SigLIP, as on the hub; only the vision half is wanted."""
    torch.manual_seed(1)
    text = {**SIGLIP, "vocab_size": 40, "projection_size": 48}
    vision = {**SIGLIP, "image_size": SIDE, "patch_size": PATCH_SIDE}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))


@pytest.mark.parametrize("tied", [False, True], ids=["untied-as-8B", "tied-as-0.6B"])
def test_the_trials_config_trains_ablates_and_captions_on_scaled_backbones(
    tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    save_llm(tmp_path / "Qwen3", tied)
    save_vision(tmp_path / "siglip2")
    assert tied == ("lm_head.weight" not in load_file(tmp_path / "Qwen3" / "model.safetensors"))
    save_rows(tmp_path / "rows", 26)
    places = {
        "model.llm": "Qwen3",
        "model.vision": "siglip2",
        "data.json_file": "rows/data.json",
        "data.image_root": "rows",
    }
    overrides = [f"--{key}={value}" for key, value in {**SMALLER, **places}.items()]
    assert main(["train", "--config", str(TRIAL), *overrides]) == 0
    checkpoint = tmp_path / "outputs" / "stage1_align_trial" / "checkpoint_5.pt"
    ablate = ["--checkpoint", str(checkpoint), "--num_samples", "6", "--ablation.derangements=1"]
    assert main(["ablate", "--config", str(TRIAL), *ablate, *overrides]) in (0, 1, 3), "judged, whatever the verdict"
    results = read(checkpoint.parent / "results.json")
    assert results.ablation is not None and results.training is not None and results.coverage is not None
    assert results.ablation.samples == 6 and results.training.updates == 2 and results.training.train_samples == 20
    assert all(condition.loss is not None for condition in results.ablation.conditions.values())
    assert results.coverage.verdict == "PASS" and results.coverage.image_block_tokens == 10
    loaded = load(checkpoint)
    assert loaded.vlm.tower.patches == 16 and len(loaded.caption([tmp_path / "rows" / "images" / "00000.png"])) == 1
    assert "internal error" not in capsys.readouterr().err


def on_meta(config: Config, vision: dict[str, Any], llm: dict[str, Any]) -> Connector:
    """The connector that a config asks for between backbones of these shapes, without memory."""
    spec = ImageSpec(vision["image_size"], vision["image_size"], (0.5,) * 3, (0.5,) * 3, 2, 1 / 255)
    with torch.device("meta"):
        tower = VisionTower(SiglipVisionModel(SiglipVisionConfig(**vision)), spec)
        language = LanguageModel(Qwen3ForCausalLM(Qwen3Config(**llm)))
        return Connector(connector_shape(config.connector, tower, language))


def test_the_trials_config_trains_82_445_824_parameters_between_the_real_shapes() -> None:
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
    llm = {
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    }
    connector = on_meta(load_config(TRIAL), vision, llm)
    assert connector.shape.patches == 729 and connector.vision_ln is None
    counts = [sum(p.numel() for p in part.parameters()) for part in (connector.resampler, connector.projector)]
    assert counts == [6_927_872, 75_517_952] and sum(counts) == 82_445_824
    assert sum(p.numel() for p in connector.parameters() if p.requires_grad) == sum(counts)
