"""`check_model` and `assert_sees`: silent on sound models of several families, and naming what is broken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import eyechart
from collators import collate, load, picture
from eyechart.models.checkpoint import origin_of, safetensors_of
from eyechart.models.training_checks import PartName, part_of
from eyechart.results import Finding
from saved_models import Saved, saved

__all__ = ["saved"]


def loaded(saved: Saved, name: str = "llava", rows: int = 4) -> tuple[nn.Module, dict[str, Any], Any]:
    model, processor = load(saved, name)
    return model, collate(processor, [[picture(row)] for row in range(rows)]), processor


def codes(findings: list[Finding]) -> dict[str, str]:
    return {found.code: found.severity for found in findings}


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "idefics3", "gemma3", "paligemma"])
def test_a_sound_model_has_no_finding_in_training_mode(saved: Saved, name: str) -> None:
    model, batch, processor = loaded(saved, name)
    optimizer = torch.optim.SGD(model.parameters())
    assert eyechart.check_model(model.train(), batch, processor, optimizer=optimizer) == []


def test_a_sound_model_with_active_dropout_has_no_finding(saved: Saved) -> None:
    model, batch, processor = loaded(saved, "qwen2_5_vl")
    for block in model.train().modules():
        if isinstance(getattr(block, "attention_dropout", None), float):
            block.attention_dropout = 0.3
    assert eyechart.check_model(model, batch, processor) == []


def test_a_batch_of_text_is_only_a_warning_and_missing_pixels_are_an_error(saved: Saved) -> None:
    model, batch, processor = loaded(saved)
    text = collate(processor, [[], []])
    assert codes(eyechart.check_model(model, text, processor)) == {"pixels-unused": "warning"}
    del batch["pixel_values"]
    assert codes(eyechart.check_model(model, batch, processor))["pixels-unused"] == "error"


def test_frozen_parts_need_no_gradient_and_a_trainable_part_without_one_is_named(saved: Saved) -> None:
    model, batch, processor = loaded(saved)
    for name, weight in model.named_parameters():
        weight.requires_grad_(part_of(name) is PartName.CONNECTOR)
    assert eyechart.check_model(model, batch, processor) == []
    own = model.model.get_image_features

    def detached(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return own(*args, **kwargs)

    class Detached(type(model.model)):  # type: ignore[misc]
        def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
            return detached(*args, **kwargs)

    model.model.__class__ = Detached
    (found,) = eyechart.check_model(model, batch, processor)
    assert (found.code, found.evidence["trainable"]) == ("no-gradient", 4)


def test_what_the_optimizer_does_not_hold_is_named(saved: Saved) -> None:
    model, batch, processor = loaded(saved)
    held = [weight for name, weight in model.named_parameters() if part_of(name) is not PartName.CONNECTOR]
    (found,) = eyechart.check_model(model, batch, processor, optimizer=torch.optim.SGD(held))
    assert found.code == "no-gradient" and found.evidence["part"] == "connector" and "none of its 4" in found.message


@pytest.mark.parametrize(("moved", "code"), [(1, "labels-shifted"), (-1, "labels-unshifted")])
def test_labels_that_are_shifted_before_the_model_shifts_them_are_named(saved: Saved, moved: int, code: str) -> None:
    model, batch, processor = loaded(saved)
    labels_BT = batch["labels"].roll(-moved, dims=1)
    labels_BT[:, -1 if moved > 0 else 0] = -100
    found = codes(eyechart.check_model(model, {**batch, "labels": labels_BT}, processor))
    assert found[code] == "error"


def test_a_loss_that_is_not_shifted_is_named(saved: Saved) -> None:
    model, batch, processor = loaded(saved)

    def unshifted(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **_: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.view(-1, vocab_size), labels.view(-1))

    model._loss_function = unshifted  # type: ignore[assignment]
    assert codes(eyechart.check_model(model, batch, processor)) == {"labels-unshifted": "error"}


def test_labels_that_are_all_masked_are_named(saved: Saved) -> None:
    model, batch, processor = loaded(saved)
    masked = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    assert codes(eyechart.check_model(model, masked, processor)) == {"no-labels": "error"}


def test_weights_that_the_checkpoint_does_not_hold_are_named_and_trained_ones_are_not(saved: Saved) -> None:
    model, batch, processor = loaded(saved)
    for weight in model.parameters():
        weight.data += 0.01 * torch.randn_like(weight)  # trained
    model.lm_head.weight.data = dict(load(saved, "llava")[0].named_parameters())["lm_head.weight"].data.clone()
    files = safetensors_of(str(saved.folder("llava")))
    assert origin_of(model, files).unrelated == () and origin_of(model, files).matched >= 1
    model.model.multi_modal_projector.linear_1.reset_parameters()
    assert origin_of(model, files).unrelated == ("model.multi_modal_projector.linear_1.weight",)
    (found,) = eyechart.check_model(model, batch, processor)
    assert (found.code, found.severity) == ("tower-uninitialised", "note")
    model.model.vision_tower.requires_grad_(False)
    nn.init.normal_(model.model.vision_tower.encoder.layers[0].mlp.fc1.weight)
    assert codes(eyechart.check_model(model, batch, processor)) == {"tower-uninitialised": "error"}


def test_weights_that_are_made_of_several_stored_ones_are_not_compared(saved: Saved) -> None:
    model, _ = load(saved, "llava")
    model.model.multi_modal_projector.linear_1.reset_parameters()
    made = SimpleNamespace(operations=["concatenate"], target_patterns=["multi_modal_projector.linear_1"])
    model._weight_conversions = [made]  # type: ignore[assignment]
    assert origin_of(model, safetensors_of(str(saved.folder("llava")))).unrelated == ()


def test_files_with_renamed_keys_still_match(saved: Saved, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, _ = load(saved, "llava")
    (file,) = safetensors_of(str(saved.folder("llava")))
    save_file({f"outer.{name}": tensor for name, tensor in load_file(file).items()}, tmp_path / "model.safetensors")
    assert origin_of(model, safetensors_of(str(tmp_path))).unrelated == ()


def test_assert_sees_is_silent_on_a_sound_model_and_raises_one_line(saved: Saved) -> None:
    model, batch, processor = loaded(saved)
    eyechart.assert_sees(model, batch, processor)
    del batch["pixel_values"]
    with pytest.raises(AssertionError, match="^pixels-unused: .*remove_unused_columns=False") as raised:
        eyechart.assert_sees(model, batch, processor)
    assert "\n" not in str(raised.value)


def test_an_encoder_decoder_model_is_refused_in_one_line() -> None:
    config = hf.T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    batch = {"input_ids": torch.ones(1, 3, dtype=torch.long), "labels": torch.ones(1, 3, dtype=torch.long)}
    with pytest.raises(ValueError, match="encoder-decoder"):
        eyechart.check_model(hf.T5ForConditionalGeneration(config), batch)
