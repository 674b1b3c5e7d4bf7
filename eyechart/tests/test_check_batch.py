"""`check_batch` names the fault of a batch, and leaves sound batches alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import eyechart
from batch_sabotages import HEALTHY, LOOK_ALIKES, SABOTAGES, Sabotage, before_answer, cut_to, healthy, rows
from batches import ANSWER, FAMILIES, QUESTION, Item, item, made, picture
from collators import load
from eyechart.api.check_batch import BatchCheck
from eyechart.exits import InputError
from eyechart.faults.batch_check import ONLY_IN_BATCHES
from eyechart.faults.batch_evidence import Check, Unchecked, Why
from eyechart.processors.answers import Way
from saved_models import Saved, saved
from test_public import NO_TORCH, python

__all__ = ["saved"]


def codes(result: BatchCheck) -> list[str]:
    return [found.code for found in result]


def serious(result: BatchCheck) -> list[str]:
    """Errors and warnings; LLaVA's template ends no answer, which is a warning on every batch."""
    return [f.code for f in result if f.severity != "note" and f.code != "eos-unlabelled"]


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda one: one.name)
def test_the_fault_is_named_first(sabotage: Sabotage, saved: Saved) -> None:
    one = made(saved, sabotage.family)
    result = eyechart.check_batch(sabotage.make(one), one.processor, one.config)
    assert codes(result)[0] == sabotage.code
    assert all(found.message and found.fix and "\n" not in found.message for found in result)


def test_every_fault_that_only_a_batch_shows_is_made_here() -> None:
    assert {sabotage.code for sabotage in SABOTAGES} >= ONLY_IN_BATCHES


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", HEALTHY)
def test_a_sound_batch_has_neither_error_nor_warning(name: str, kind: str, saved: Saved) -> None:
    one = made(saved, name)
    batch = HEALTHY[kind](one)
    for processor, config in ((one.processor, one.config), (one.processor, None), (None, one.config), (None, None)):
        assert not serious(eyechart.check_batch(batch, processor, config))


@pytest.mark.parametrize(("name", "family", "make"), LOOK_ALIKES, ids=lambda one: one if isinstance(one, str) else "")
def test_a_batch_that_resembles_a_fault_is_left_alone(name: str, family: str, make: Any, saved: Saved) -> None:
    one = made(saved, family)
    assert not list(eyechart.check_batch(make(one), one.processor, one.config))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_labels_of_trainers_are_a_warning_with_their_cost(name: str, saved: Saved) -> None:
    one = made(saved, name)
    result = eyechart.check_batch(healthy(one, labels="all"), one.processor, one.config)
    assert not result.errors and codes(result)[:1] == ["image-labelled"] and "prompt-labelled" in codes(result)
    (image,) = [found for found in result if found.code == "image-labelled"]
    assert f"{image.evidence['labels']} of {image.evidence['of']} labels" in image.message
    assert image.evidence["labels"] == result.facts.placeholders


def test_default_labels_of_answers_that_were_cut_off_are_still_a_warning(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = cut_to(before_answer, "all")(one)
    result = eyechart.check_batch({k: v for k, v in batch.items()}, one.processor, one.config)
    assert [(f.code, f.severity) for f in result][:2] == [("answer-truncated", "error"), ("image-labelled", "warning")]


def test_an_answer_without_an_end_in_the_template_is_a_warning(saved: Saved) -> None:
    one = made(saved, "llava")
    (found,) = eyechart.check_batch(healthy(one), one.processor, one.config)
    assert (found.code, found.severity) == ("eos-unlabelled", "warning") and "template writes none" in found.message


def test_severity_follows_the_share_of_rows(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    for affected, severity in ((1, "warning"), (3, "error")):
        batch = healthy(one)
        batch["labels"][:affected] = -100
        (found,) = eyechart.check_batch(batch, one.processor, one.config)
        assert (found.code, found.severity) == ("no-labels", severity)


def test_one_blank_page_is_no_error_and_zeroed_pixels_are(saved: Saved) -> None:
    one = made(saved, "gemma3")
    batch = one.batch([Item((Image.new("RGB", (32, 32), "white"),), (QUESTION, ANSWER))])
    (found,) = eyechart.check_batch(batch, one.processor, one.config)
    assert (found.code, found.severity) == ("images-degenerate", "warning")
    (found,) = eyechart.check_batch(batch | {"pixel_values": batch["pixel_values"] * 0}, one.processor, one.config)
    assert (found.code, found.severity) == ("images-degenerate", "error")


def test_two_rows_about_one_picture_are_a_note(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    (found,) = eyechart.check_batch(HEALTHY["two rows about one picture"](one), one.processor, one.config)
    assert (found.code, found.severity) == ("images-degenerate", "note")


def test_one_prompt_several_times_for_generation_is_a_note(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    (found,) = eyechart.check_batch(one.batch([item(1)] * 4, labels="none"), one.processor, one.config)
    assert (found.code, found.severity) == ("images-degenerate", "note")


def test_token_types_that_mrope_needs_are_missed_where_the_model_takes_them(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    model = saved.load("qwen2_5_vl").scorer.model
    batch = healthy(one)
    bare = {key: value for key, value in batch.items() if key != "mm_token_type_ids"}
    assert not list(eyechart.check_batch(batch, one.processor, model))
    assert codes(eyechart.check_batch(bare, one.processor, model)) == ["positions-wrong"]
    with torch.no_grad():  # the model itself says nothing, and its loss is another one
        assert model(**bare).loss != model(**batch).loss


@pytest.mark.parametrize("name", ["llava", "gemma3", "idefics3"])
def test_a_model_that_takes_no_pixels_is_found_also_inside_wrappers(name: str, saved: Saved) -> None:
    one, model = made(saved, name), saved.load(name).scorer.model

    class Wrapper(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.module(*args, **kwargs)

    text = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(vocab_size=9999, hidden_size=8, intermediate_size=8, num_hidden_layers=1, head_dim=4)
    )
    batch = healthy(one)
    for wrapped in (model, Wrapper(model)):
        result = eyechart.check_batch(batch, one.processor, wrapped)
        assert not serious(result) and not result.unchecked
    for wrapped in (text, Wrapper(text)):
        assert codes(eyechart.check_batch(batch, one.processor, wrapped))[0] == "pixels-unused"


def test_what_cannot_be_checked_is_listed_with_its_reason(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    result = eyechart.check_batch(healthy(one))
    assert result.facts.answers_found is Way.LABELS
    for check in (Check.ANSWERS, Check.NORMALISATION, Check.RESOLUTION, Check.VISUAL_TOKENS):
        assert Unchecked(check, Why.NO_PROCESSOR) in result.unchecked
    assert Unchecked(Check.IDS, Why.NO_MODEL) in result.unchecked
    assert Unchecked(Check.LABELS, Why.NOT_IN_BATCH) in eyechart.check_batch(healthy(one, labels="none")).unchecked


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_pixels_of_16_bits_are_compared_as_well(kind: torch.dtype, saved: Saved) -> None:
    one = made(saved, "gemma3")
    for options, named in (({}, ""), ({"do_normalize": False}, "0 to 1, rescaled"), ({"do_rescale": False}, "")):
        batch = healthy(one, images_kwargs=options)
        result = eyechart.check_batch(batch | {"pixel_values": batch["pixel_values"].to(kind)}, one.processor)
        assert codes(result) == (["wrong-preprocessing"] if options else [])
        assert not options or named in result.findings[0].message


def test_pixels_of_no_known_values_are_compared_by_their_range_only(saved: Saved) -> None:
    one = made(saved, "gemma3")
    batch = healthy(one)
    blurred = batch["pixel_values"] * 0.83 + 0.001
    result = eyechart.check_batch(batch | {"pixel_values": blurred}, one.processor, one.config)
    assert not list(result) and Unchecked(Check.NORMALISATION, Why.COARSE) in result.unchecked
    wide = eyechart.check_batch(batch | {"pixel_values": blurred * 3}, one.processor, one.config)
    assert codes(wide) == ["wrong-preprocessing"]


def test_a_wrong_normalisation_is_named(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    for options, words in ((imagenet, "ImageNet"), ({"do_normalize": False}, "0 to 1, rescaled")):
        (found,) = eyechart.check_batch(healthy(one, images_kwargs=options), one.processor, one.config)
        assert words in found.message


def test_paligemma_and_its_token_types_are_fine(saved: Saved) -> None:
    one = made(saved, "paligemma")
    images = [list(row.images) for row in rows()]
    texts, answers = ["<image>What?"] * 4, ["a red circle"] * 4
    batch = dict(one.processor(text=texts, suffix=answers, images=images, return_tensors="pt", padding=True))
    result = eyechart.check_batch(batch, one.processor, one.config)
    assert not list(result) and result.facts.answers_found is Way.TOKEN_TYPES


def test_arrays_that_are_neither_torch_nor_numpy_are_read(saved: Saved) -> None:
    class Array:
        """An array as MLX has them: with a shape and `__array__`, without numpy's methods."""

        def __init__(self, values: Any) -> None:
            self.values = np.asarray(values)
            self.shape = self.values.shape

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return self.values

        def __getitem__(self, key: Any) -> Array:
            return Array(self.values[key])

    one = made(saved, "gemma3")
    batch = {key: Array(value) for key, value in healthy(one).items()}
    assert not list(eyechart.check_batch(batch, one.processor, one.config))
    dropped = {key: value for key, value in batch.items() if key != "pixel_values"}
    assert codes(eyechart.check_batch(dropped, one.processor, one.config)) == ["pixels-unused"]


def test_nothing_of_the_batch_is_changed(saved: Saved) -> None:
    one = made(saved, "idefics3")
    batch = healthy(one)
    before = {key: value.clone() for key, value in batch.items()}
    state = torch.get_rng_state()
    eyechart.check_batch(batch, one.processor, one.config).html()
    assert all(torch.equal(before[key], batch[key]) for key in batch) and torch.equal(state, torch.get_rng_state())


def test_what_is_no_batch_is_one_line(saved: Saved) -> None:
    with pytest.raises(InputError, match="expected a dict"):
        eyechart.check_batch([1, 2])  # type: ignore[arg-type]
    one = made(saved, "gemma3")
    with pytest.raises(InputError, match="labels"):
        eyechart.check_batch(healthy(one) | {"labels": torch.zeros(1, 3)}, one.processor)
    with pytest.raises(InputError, match="row: expected a number from 0 to 3, got 4"):
        eyechart.check_batch(healthy(one), one.processor).row(4)


def test_broken_batches_give_findings_or_one_line_and_never_another_error(saved: Saved) -> None:
    for seed in range(120):
        draw = random.Random(seed)
        one = made(saved, draw.choice(["llava", "qwen2_5_vl", "gemma3", "internvl"]))
        batch = broken(healthy(one, labels=draw.choice(["answers", "all"])), draw)
        processor, config = draw.choice([(one.processor, one.config), (one.tokenizer, None), (None, None)])
        try:
            result = eyechart.check_batch(batch, processor, config)
            assert str(result) and result.row() and result.html()
        except InputError as error:
            assert "\n" not in str(error)


def broken(batch: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A batch in which a few entries are absent, of another shape, kind or length."""
    changes: list[Any] = [
        lambda value: None,
        lambda value: value[:-1],
        lambda value: value[..., :-2],
        lambda value: value * 0,
        lambda value: value[None],
        lambda value: value[0],
        lambda value: value.float(),
        lambda value: value.tolist(),
        lambda value: list(value),
        lambda value: "text",
    ]
    more = ("position_ids", "cu_seqlens", "image_sizes", "pixel_attention_mask", "image_grid_thw", "images_per_sample")
    for _ in range(draw.randrange(1, 4)):
        key = draw.choice([*batch])
        if draw.random() < 0.25:
            batch = {**batch, draw.choice(more): draw.choice([batch[key], torch.arange(5), torch.ones(2, 2), [1, 2]])}
        elif hasattr(batch[key], "tolist") and batch[key].ndim:
            batch = {**batch, key: draw.choice(changes)(batch[key])}
    return batch


def test_a_batch_without_torch_is_checked_without_torch() -> None:
    code = f"""{NO_TORCH}
import eyechart
batch = {{"input_ids": [[1, 7, 7, 7, 7, 2]], "pixel_values": [[[[0.0]]]], "labels": [[-100] * 5 + [2]]}}
print(eyechart.check_batch(batch))
assert "torch" not in sys.modules
"""
    assert "Checked: 1 row of 6 tokens" in python(code)


def test_token_types_of_zeros_are_named_where_the_models_attention_reads_them(saved: Saved) -> None:
    one, (model, _) = made(saved, "gemma3"), load(saved, "gemma3")
    batch = healthy(one)
    assert not serious(eyechart.check_batch(batch, one.processor, model))
    zeros = batch | {"token_type_ids": torch.zeros_like(batch["input_ids"])}
    assert codes(eyechart.check_batch(zeros, one.processor, model)) == ["token-types-misaligned"]


def test_token_types_of_zeros_are_left_alone_where_they_mark_answers(saved: Saved) -> None:
    model, processor = load(saved, "paligemma")
    batch = dict(processor(text=["<image>What is this?"], images=[picture(0)], return_tensors="pt"))
    assert not batch["token_type_ids"].any()
    assert "token-types-misaligned" not in codes(eyechart.check_batch(batch, processor, model))
