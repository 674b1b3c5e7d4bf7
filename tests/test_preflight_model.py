"""The preflight names what is wrong in weights, fusion, attention, loss and gradients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import dropout

from eyechart.seam import IGNORE_INDEX, TokenNLL
from preflight_world import ASSETS, World, bad, first, human
from qwen3_vlm.models import vlm as vlm_room
from qwen3_vlm.models.llm import LanguageModel
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight import flow
from qwen3_vlm.preflight.modes import dropout_findings

Patch = pytest.MonkeyPatch


def test_weights_that_are_not_those_of_the_file_are_named(world: World) -> None:
    config = world.config()
    for part in ("tower", "llm"):
        vlm = world.model(config)
        model = getattr(vlm, part).model
        torch.nn.init.normal_(
            dict(model.named_parameters())[
                next(n for n, p in model.named_parameters() if p.dim() == 2 and "layers.1" in n)
            ]
        )
        assert first(world.find(vlm)) == "tower-uninitialised"


@pytest.mark.parametrize("part", ["tower", "llm"])
def test_dropout_of_a_frozen_part_in_train_mode_is_named_and_train_mode_alone_is_not(world: World, part: str) -> None:
    config = world.config()
    vlm = world.model(config)
    model = getattr(vlm, part).model.train()
    assert world.find(vlm) == []
    attention = next(m for m in model.modules() if hasattr(m, "dropout") or hasattr(m, "attention_dropout"))
    setattr(attention, "dropout" if hasattr(attention, "dropout") else "attention_dropout", 0.3)
    assert first(world.find(vlm)) == "dropout-active"
    model.eval()
    assert world.find(vlm) == [], "a rate that is not active"


def test_a_dropout_layer_in_train_mode_is_named_with_its_rate(world: World) -> None:
    vlm = world.model(world.config())
    norm = vlm.tower.model.post_layernorm
    vlm.tower.model.post_layernorm = torch.nn.Sequential(norm, torch.nn.Dropout(0.1).train())
    (found,) = dropout_findings(vlm)
    assert found.evidence["largest_rate"] == 0.1 and "post_layernorm.1" in found.message


def test_weights_missing_in_the_file_are_named(world: World, tmp_path: Path) -> None:
    tower = shutil.copytree(ASSETS / "vision", tmp_path / "tower")
    weights = load_file(tower / "model.safetensors")
    weights.pop(next(name for name in weights if "layers.1" in name))
    save_file(weights, tower / "model.safetensors", metadata={"format": "pt"})
    assert first(world.find(model__vision=str(tower))) == "tower-uninitialised"


def test_a_layer_made_anew_among_trained_ones_is_named(world: World, tmp_path: Path) -> None:
    llm = shutil.copytree(ASSETS / "llm", tmp_path / "llm")
    file = llm / "model.safetensors"
    weights = load_file(file)
    norms = [name for name in weights if "layers.1." in name and "norm" in name]
    for name in norms:
        weights[name] = torch.ones_like(weights[name])
    save_file(weights, file, metadata={"format": "pt"})
    assert first(world.find(model__llm=str(llm))) == "tower-uninitialised"
    weights[norms[0]][0] = 1.5  # one norm of the layer has changed: it was trained
    moved = shutil.copytree(llm, tmp_path / "moved")
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    assert world.find(model__llm=str(moved)) == []


def test_samples_read_as_one_sequence_are_named(world: World, monkeypatch: Any) -> None:
    old = LanguageModel.nll

    def packed(self: Any, embeds: Any, labels: Any) -> TokenNLL:
        joined = old(self, embeds.flatten(0, 1)[None], labels.flatten()[None])
        return TokenNLL(joined.nll_N, (labels != IGNORE_INDEX).sum(dim=1))

    monkeypatch.setattr(LanguageModel, "nll", packed)
    assert first(world.find()) == "batch-dependent"


def test_weights_that_are_not_finite_are_named(world: World) -> None:
    config = world.config()
    for part in ("tower", "llm", "connector"):
        vlm = world.model(config)
        next(getattr(vlm, part).parameters()).data.view(-1)[0] = float("nan")
        assert first(world.find(vlm)) == "non-finite"


def shifted(embeds: Any, ids: Any, visual: Any, patch: int) -> Any:
    return PLACE(embeds, ids.roll(1, 1), visual, patch)


def half(embeds: Any, ids: Any, visual: Any, patch: int) -> Any:
    made = PLACE(embeds, ids, visual, patch)
    last = (ids == patch) & ((ids == patch).cumsum(1) > visual.shape[1] // 2)
    return torch.where(last[..., None], embeds, made)


def clobbering(embeds: Any, ids: Any, visual: Any, patch: int) -> Any:
    made = PLACE(embeds, ids, visual, patch).clone()
    end = (ids == patch).long().cumsum(1).argmax(1) + 1
    made[torch.arange(len(made)), end] = visual[:, -1]
    return made


PLACE = vlm_room.place


FUSION: dict[str, tuple[str, Callable[..., Any]]] = {
    "left out": ("not-injected", lambda embeds, ids, visual, patch: embeds),
    "only half": ("not-injected", half),
    "zeros instead": ("not-injected", lambda embeds, ids, v, patch: PLACE(embeds, ids, v * 0, patch)),
    "one late": ("placeholder-offset", shifted),
    "one early": ("placeholder-offset", lambda e, ids, v, patch: PLACE(e, ids.roll(-1, 1), v, patch)),
    "slots reversed": ("placeholder-offset", lambda e, ids, v, patch: PLACE(e, ids, v.flip(1), patch)),
    "over the delimiter too": ("placeholder-offset", clobbering),
    "other rows": ("image-order", lambda e, ids, v, patch: PLACE(e, ids, v.roll(1, 0), patch)),
    "a thousandth": ("scale-mismatch", lambda e, ids, v, patch: PLACE(e, ids, v / 1000, patch)),
    "detached": ("no-gradient", lambda e, ids, v, patch: PLACE(e, ids, v.detach(), patch)),
}


@pytest.mark.parametrize(("code", "place"), FUSION.values(), ids=FUSION.keys())
def test_visual_tokens_that_are_placed_wrongly_are_named(
    world: World, monkeypatch: Patch, code: str, place: Callable[..., Any]
) -> None:
    monkeypatch.setattr(vlm_room, "place", place)
    found = world.find()
    assert first(found) == code, found[0].message


def language_model(monkeypatch: Patch, change: Callable[[Any, dict[str, Any]], None]) -> None:
    """Every call of the transformers model gets its arguments changed."""
    from transformers import Qwen3Model

    forward = Qwen3Model.forward

    def changed(self: Any, *args: Any, **named: Any) -> Any:
        change(self, named)
        return forward(self, *args, **named)

    monkeypatch.setattr(Qwen3Model, "forward", changed)


def hide(first_hidden: int, last_hidden: int) -> Callable[[Any, dict[str, Any]], None]:
    def change(model: Any, named: dict[str, Any]) -> None:
        embeds = named["inputs_embeds"]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        mask[:, first_hidden:last_hidden] = 0
        named["attention_mask"] = mask

    return change


@pytest.mark.parametrize("hidden", [(1, 5), (3, 5)], ids=["all", "the last two"])
def test_image_positions_that_attention_cannot_see_are_named(
    world: World, monkeypatch: Patch, hidden: tuple[int, int]
) -> None:
    world.change(human("<image>\nWhat is this?"))
    language_model(monkeypatch, hide(*hidden))
    assert first(world.find()) == "image-masked"


def test_attention_that_sees_the_answer_is_named(world: World, monkeypatch: Patch) -> None:
    def both_ways(model: Any, named: dict[str, Any]) -> None:
        length = named["inputs_embeds"].shape[1]
        named["attention_mask"] = torch.zeros(len(named["inputs_embeds"]), 1, length, length)

    language_model(monkeypatch, both_ways)
    assert first(world.find()) == "leak"


def own_nll(shift: int) -> Callable[..., Any]:
    """A loss that predicts the token at t from t + shift."""
    from eyechart.seam import TokenNLL

    def nll(self: Any, embeds_BTE: Any, labels_BT: Any) -> Any:
        hidden = self.model.model(inputs_embeds=embeds_BTE, use_cache=False).last_hidden_state
        moved = torch.roll(labels_BT, shift, dims=1)
        keep = moved != IGNORE_INDEX
        losses = torch.nn.functional.cross_entropy(self.model.lm_head(hidden[keep]), moved[keep], reduction="none")
        return TokenNLL(losses, keep.sum(1))

    return nll


def test_a_loss_that_is_another_number_at_the_right_shift_is_named(world: World, monkeypatch: Patch) -> None:
    nll = LanguageModel.nll

    def smoothed(self: Any, embeds_BTE: Any, labels_BT: Any) -> Any:
        made = nll(self, embeds_BTE, labels_BT)
        return TokenNLL(0.8 * made.nll_N + 1.0, made.counts_B)

    monkeypatch.setattr(LanguageModel, "nll", smoothed)
    assert first(world.find()) == "loss-altered"


def test_a_loss_that_weighs_known_tokens_less_is_named(world: World, monkeypatch: Patch) -> None:
    """A focal loss equals the plain one where a token is not known at all."""
    nll = LanguageModel.nll

    def focal(self: Any, embeds_BTE: Any, labels_BT: Any) -> Any:
        made = nll(self, embeds_BTE, labels_BT)
        return TokenNLL((1 - torch.exp(-made.nll_N)) ** 2 * made.nll_N, made.counts_B)

    monkeypatch.setattr(LanguageModel, "nll", focal)
    assert first(world.find()) == "loss-altered"


def test_dropout_in_the_language_model_is_named_as_random(world: World, monkeypatch: Patch) -> None:
    nll = LanguageModel.nll
    monkeypatch.setattr(LanguageModel, "nll", lambda self, embeds, labels: nll(self, dropout(embeds, 0.2), labels))
    monkeypatch.setattr(flow, "_STAGES", flow._STAGES[3:])  # the stages before the losses are not tested here
    found = world.find()
    assert first(found) == "loss-not-reproduced"
    assert "two identical calls give different losses" in found[0].message


def test_a_language_model_that_looks_back_a_few_tokens_only_is_named(world: World, tmp_path: Path) -> None:
    llm = shutil.copytree(ASSETS / "llm", tmp_path / "llm")
    file = llm / "config.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    layers = ["sliding_attention"] * tree["num_hidden_layers"]
    tree |= {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0, "layer_types": layers}
    file.write_text(json.dumps(tree), encoding="utf-8")
    found = world.find(model__llm=str(llm), connector__latents=8)
    assert first(found) == "image-masked"


def test_visual_tokens_that_hold_the_answer_are_a_leak(world: World, monkeypatch: Patch) -> None:
    nll = VLM.nll

    def read(self: Any, batch: Any, visual: Any) -> Any:
        words = self.llm.embed(batch.labels_BT.clamp(min=0)) * (batch.labels_BT != IGNORE_INDEX)[..., None]
        return nll(self, batch, visual and visual.map(lambda layer: layer + words.sum(1, keepdim=True)))

    monkeypatch.setattr(VLM, "nll", read)
    assert first(world.find()) == "leak"


def test_pixels_that_reach_the_loss_past_the_visual_tokens_are_a_leak(world: World, monkeypatch: Patch) -> None:
    nll = VLM.nll

    def bypassed(self: Any, batch: Any, visual: Any) -> TokenNLL:
        made = nll(self, batch, visual)
        if batch.pixels_BCHW is None:
            return made
        rows_B = batch.pixels_BCHW.float().mean(dim=(1, 2, 3)) / 255
        return TokenNLL(made.nll_N + torch.repeat_interleave(rows_B, made.counts_B.cpu()), made.counts_B)

    monkeypatch.setattr(VLM, "nll", bypassed)
    monkeypatch.setattr(flow, "_STAGES", [stage for stage in flow._STAGES if stage.__name__ != "loss_stage"])
    found = world.find()
    assert first(found) == "leak" and "path other than" in found[0].message


def test_text_embeddings_on_another_scale_are_named(world: World, monkeypatch: Patch) -> None:
    embed = LanguageModel.embed
    monkeypatch.setattr(LanguageModel, "embed", lambda self, ids: 11.3 * embed(self, ids))
    found = world.find()
    assert first(found) == "scale-mismatch"
    assert "multiplied by 11.3" in found[0].message


def test_a_loss_of_our_own_with_the_right_shift_is_sound(world: World, monkeypatch: Patch) -> None:
    monkeypatch.setattr(LanguageModel, "nll", own_nll(-1))
    assert bad(world.find()) == []


@pytest.mark.parametrize(("shift", "code"), [(0, "labels-unshifted"), (-2, "labels-shifted"), (1, "labels-unshifted")])
def test_a_loss_at_another_shift_is_named(world: World, monkeypatch: Patch, shift: int, code: str) -> None:
    monkeypatch.setattr(LanguageModel, "nll", own_nll(shift))
    assert first(world.find()) == code


@pytest.mark.parametrize("kind", ["no_grad", "frozen", "one part frozen"])
def test_a_connector_that_cannot_learn_is_named(world: World, monkeypatch: Patch, kind: str) -> None:
    config = world.config(connector__vision_ln=True)
    vlm = world.model(config)
    if kind == "no_grad":
        visual = VLM.visual
        monkeypatch.setattr(VLM, "visual", lambda self, features: visual(self, features).detach())
    else:
        part = vlm.connector if kind == "frozen" else vlm.connector.vision_ln
        assert part is not None
        part.requires_grad_(False)
    assert first(world.find(vlm)) == "no-gradient"


def test_a_frozen_part_that_would_learn_is_named(world: World) -> None:
    config = world.config()
    vlm = world.model(config)
    vlm.llm.model.lm_head.requires_grad_(True)
    assert first(world.find(vlm)) == "frozen-moved"
