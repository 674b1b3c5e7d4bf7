"""A checkpoint of the older form, a dict of state dicts, scores as it did in its own time, or says that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, Qwen3ForCausalLM

from eyechart.data.images import load_image
from eyechart.results import Results, read
from eyechart.scoring.batching import collate
from eyechart.seam import VisualTokens
from qwen3_vlm import load
from qwen3_vlm.build import prepare_data
from qwen3_vlm.cli import main
from qwen3_vlm.train.checkpoint import load_checkpoint
from tiny_rows import llava_row
from tiny_runs import TinyWorld, make_world

LEGACY = {"prompt__image_block": "legacy", "connector__vision_ln": True}
SPLICED = {**LEGACY, "prompt__image_block": "spliced"}
WARNING = "has the older format, in which the image block has other tokens"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world: TinyWorld) -> Path:
    """Trained with the older image block; a checkpoint of today's format."""
    return world.train("today", train__epochs=1, **LEGACY)


@pytest.fixture(scope="module")
def old(trained: Path, world: TinyWorld) -> Path:
    """The same weights as the older code saved them, in a folder without a split or a log."""
    payload = load_checkpoint(trained)
    path = world.root / "old" / "checkpoint_5.pt"
    path.parent.mkdir()
    torch.save({part: payload[part] for part in ("resampler", "projector", "vision_ln")}, path)
    return path


def ablate(checkpoint: Path, config: Path, output: Path) -> Results:
    main(["ablate", "--checkpoint", str(checkpoint), "--config", str(config), "--output", str(output)])
    return read(output / "results.json")


def test_it_scores_as_today_behind_the_legacy_block_and_nothing_is_remarked(
    trained: Path, old: Path, world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.config_file("legacy", **LEGACY)
    then, now = ablate(old, config, tmp_path / "old"), ablate(trained, config, tmp_path / "today")
    assert then.ablation is not None and now.ablation is not None
    assert then.ablation.conditions == now.ablation.conditions and then.ablation.samples == 4
    assert "older-image-block" not in [f.code for f in then.diagnosis]
    assert WARNING not in capsys.readouterr().err


def test_behind_the_spliced_block_its_losses_differ_and_everybody_is_told(
    old: Path, world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spliced = ablate(old, world.config_file("spliced", **SPLICED), tmp_path / "spliced")
    out, err = capsys.readouterr()
    legacy = ablate(old, world.config_file("legacy", **LEGACY), tmp_path / "legacy")
    assert spliced.ablation is not None and legacy.ablation is not None
    losses = [r.ablation.conditions["correct"].loss for r in (spliced, legacy)]  # type: ignore[union-attr]
    assert abs(losses[0] - losses[1]) > 1e-3  # type: ignore[operator]
    (finding,) = (f for f in spliced.diagnosis if f.code == "older-image-block")
    assert (finding.code, finding.severity) == ("older-image-block", "warning")
    assert "cannot be compared" in finding.message and finding.fix == "set prompt.image_block to legacy"
    assert err.count(f"warning: {old}: this checkpoint {WARNING}") == 1
    assert "older-image-block" in out and "older-image-block" in (tmp_path / "spliced" / "runbook.md").read_text()


def test_a_checkpoint_of_today_is_never_taken_for_an_older_one(
    trained: Path, world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = load(trained, world.config("x", **SPLICED)).findings
    assert found.code == "prompt-changed" and "prompt.image_block was 'legacy', is 'spliced'" in found.message
    assert WARNING not in capsys.readouterr().err


def test_without_a_config_the_line_says_how_to_name_one(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--checkpoint", str(old)]) == 2
    assert capsys.readouterr().err.endswith("older format, which contains no config; set --config\n")


def test_a_config_without_its_layer_norm_is_refused(old: Path, world: TinyWorld) -> None:
    with pytest.raises(ValueError, match="the checkpoint has `vision_ln`, the config does not"):
        load(old, world.config("x", prompt__image_block="legacy"))


def test_the_legacy_block_gives_the_losses_of_added_tokens_joined_with_spaces(old: Path, world: TinyWorld) -> None:
    """The older code, written out: three added tokens with EOS's rows, the block as text, NLL from full logits."""
    loaded = load(old, world.config("x", **LEGACY))
    tokenizer = AutoTokenizer.from_pretrained(world.root / "llm")
    llm = Qwen3ForCausalLM.from_pretrained(world.root / "llm")
    names = ["<im_start>", "<image_patch>", "<im_end>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = llm.get_input_embeddings().weight.data
    rows[tokenizer.convert_tokens_to_ids(names)] = rows[tokenizer.eos_token_id].clone()
    caption = llava_row(1, caption="a red circle on a blue ground")["conversations"][1]["value"]
    block = " ".join([names[0], *[names[1]] * 4, names[2]])
    prompt = tokenizer(f"Describe the picture.\n{block}\n").input_ids
    ids = torch.tensor([[*prompt, *tokenizer(caption).input_ids, tokenizer.eos_token_id]])
    image = load_image(world.image_root / "images" / "00001.png", loaded.inputs.spec, 10**6)
    visual_1QE = loaded.vlm.visual(loaded.vlm.tower(image[None])).detach()
    embeds = llm.get_input_embeddings()(ids).detach().clone()
    embeds[ids == tokenizer.convert_tokens_to_ids(names[1])] = visual_1QE[0]
    with torch.no_grad():
        logits = llm(inputs_embeds=embeds).logits[0]
    # The sequence is compared, not the vocabulary: three more entries in a tied head would take probability away.
    full = F.cross_entropy(logits[len(prompt) - 1 : -1, : len(tokenizer) - 3], ids[0, len(prompt) :], reduction="none")

    held_out = prepare_data(world.config("x", data__eval_ratio=0.9, **LEGACY)).eval
    (position,) = [p for p, row in enumerate(held_out.rows) if row == 1]
    batch = collate([held_out[position]], loaded.inputs.pad_id)
    assert batch.ids_BT.shape[1] == ids.shape[1]
    ours = loaded.vlm.nll(batch, VisualTokens((visual_1QE,))).nll_N
    assert torch.allclose(ours.detach(), full, atol=1e-5)
