"""Several answers after one prompt and image: their losses are those of whole sequences, or prompts are not shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eyechart.models.loading import NamedModel
from eyechart.models.prefixes import Prefixes
from eyechart.rows import Row
from eyechart.seam import Batch, VisualTokens
from saved_models import Saved, data, saved
from tiny_architectures import ARCHITECTURES

__all__ = ["data", "saved"]

CAPTIONS = ["a red circle on a blue ground", "blue", "a green cross, and a word", "two", "no shape here", "a"]
HUMANS = ["<image>\nWhat is this?", "Describe the picture.\n<image>"]


def pairs(model: NamedModel, data: Path) -> tuple[Batch, VisualTokens, list[int]]:
    """Six captions with two images. The last one has a prompt of its own."""
    rows = [
        Row(place, str(place), f"images/{place % 3}.png", HUMANS[place == 5], caption, str(data))
        for place, caption in enumerate(CAPTIONS)
    ]
    rows = [replace(row, image=image) for row, image in zip(rows, images_of(data), strict=True)]
    batch = model.batch(rows)
    images_B = [0, 0, 1, 1, 1, 0]
    return batch.text(), model.encode(batch.rows([0, 2])), images_B


def images_of(data: Path) -> list[str]:
    found = sorted(path.relative_to(data).as_posix() for path in (data / "images").iterdir())
    return found[: len(CAPTIONS)]


def whole(model: NamedModel, batch: Batch, visual: VisualTokens, images_B: list[int]) -> torch.Tensor:
    return model.nll(batch, visual.rows(images_B)).nll_N


def counted(model: NamedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of ids in every forward pass of the model from now on."""
    sizes: list[int] = []
    forward = model.scorer.model.forward

    def counting(*args: Any, **inputs: Any) -> Any:
        sizes.append(inputs["input_ids"].numel())
        return forward(*args, **inputs)

    monkeypatch.setattr(model.scorer.model, "forward", counting)
    return sizes


def fresh(model: NamedModel, rows: int = 16) -> NamedModel:
    return replace(model, prefixes=Prefixes(model.scorer, rows))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("rows", [2, 16])
def test_losses_after_shared_prompts_are_those_of_whole_sequences(
    name: str, rows: int, saved: Saved, data: Path
) -> None:
    model = fresh(saved.load(name), rows)
    batch, visual, images_B = pairs(model, data)
    found = model.pair_nll(batch, visual, images_B)
    assert found.counts_B.tolist() == (batch.labels_BT != -100).sum(dim=1).tolist()
    assert torch.allclose(found.nll_N, whole(model, batch, visual, images_B), rtol=0.0, atol=1e-4)
    assert model.prefixes.why_not == ""


def test_a_prompt_with_its_image_is_read_once_for_all_of_its_answers(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(saved.load("llava"))
    batch, visual, images_B = pairs(model, data)
    model.pair_nll(batch, visual, images_B)
    sizes = counted(model, monkeypatch)
    model.pair_nll(batch, visual, images_B)
    prompt = int((batch.labels_BT[0] != -100).int().argmax())
    assert [size for size in sizes if size == prompt] == [prompt, prompt]
    assert len(sizes) == 5, "two prompts, their answers, and the caption whose prompt no other has"
    assert sum(sizes) < 0.7 * batch.ids_BT.numel()


SPOILT: dict[str, Callable[[Any], Any]] = {
    "positions that begin at 0 again": lambda inputs: inputs | {
        "position_ids": torch.arange(inputs["input_ids"].shape[1])[None].expand(len(inputs["input_ids"]), -1)
    },
    "a prompt that is forgotten": lambda inputs: inputs | {"past_key_values": None},
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_model_whose_answers_depend_on_how_the_prompt_was_read_is_read_as_a_whole(
    case: str, saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(saved.load("llava"))
    batch, visual, images_B = pairs(model, data)
    right_N, forward = whole(model, batch, visual, images_B), model.scorer.model.forward

    def spoiling(*args: Any, **inputs: Any) -> Any:
        return forward(*args, **(SPOILT[case](inputs) if inputs.get("past_key_values") is not None else inputs))

    monkeypatch.setattr(model.scorer.model, "forward", spoiling)
    assert torch.allclose(model.pair_nll(batch, visual, images_B).nll_N, right_N, rtol=0.0, atol=1e-5)
    assert "a loss differs by" in model.prefixes.why_not


def test_a_fault_that_begins_with_a_longer_answer_is_found_when_it_comes(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(saved.load("llava"))
    batch, visual, images_B = pairs(model, data)
    right_N, forward = whole(model, batch, visual, images_B), model.scorer.model.forward
    longest, prompt = int(batch.lengths_B.max()), int((batch.labels_BT[0] != -100).int().argmax())

    def spoiling(*args: Any, **inputs: Any) -> Any:
        """Like a window that a sequence outgrows after its prompt."""
        out = forward(*args, **inputs)
        if inputs.get("past_key_values") is not None and inputs["input_ids"].shape[1] >= longest - prompt - 1:
            out.logits = out.logits.flip(-1)
        return out

    monkeypatch.setattr(model.scorer.model, "forward", spoiling)
    short = [place for place in range(len(batch)) if int(batch.lengths_B[place]) < longest]
    some = [images_B[place] for place in short]
    model.pair_nll(batch.rows(short), visual, some)
    assert model.prefixes.why_not == ""
    assert torch.allclose(model.pair_nll(batch, visual, images_B).nll_N, right_N, rtol=0.0, atol=1e-4)
    assert "a loss differs by" in model.prefixes.why_not


def test_a_model_that_keeps_nothing_of_a_prompt_is_read_as_a_whole(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh(saved.load("llava"))
    batch, visual, images_B = pairs(model, data)
    forward = model.scorer.model.forward

    def forgetting(*args: Any, **inputs: Any) -> Any:
        out = forward(*args, **inputs)
        out.past_key_values = None
        return out

    monkeypatch.setattr(model.scorer.model, "forward", forgetting)
    found_N = model.pair_nll(batch, visual, images_B).nll_N
    assert torch.allclose(found_N, whole(model, batch, visual, images_B), rtol=0.0, atol=1e-6)
    assert "AttributeError" in model.prefixes.why_not
