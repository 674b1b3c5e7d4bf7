"""A batch dict shows which pixels and which answer tokens belong to which row, for every layout of processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import eyechart
from batches import ANSWER, FAMILIES, QUESTION, Made, item, made
from eyechart.exits import InputError
from eyechart.processors.answers import Way, find_answers
from eyechart.processors.cutting import cut_rows, image_inputs
from eyechart.processors.geometry import Packing, Unassigned, read_geometry
from eyechart.processors.image_ids import IdSource
from more_processors import MAKERS, more
from saved_models import Saved, saved

__all__ = ["saved"]


def mixed(one: Made, **more: Any) -> dict[str, Any]:
    """A row with one image, one without, one with two images and a second exchange."""
    rows = [item(1), item(2, 0, "Why?", ANSWER), item(3, 2, QUESTION, ANSWER, "And now?", ANSWER)]
    return one.batch(rows, **more)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_image_belongs_to_its_row(name: str, saved: Saved) -> None:
    one = made(saved, name)
    batch = mixed(one)
    geometry = read_geometry(batch, one.processor, one.config)
    assert geometry.unassigned is None and geometry.packing is Packing.NONE
    for row in range(3):
        tokens = [entry.tokens for entry in geometry.entries_of(row)]
        assert sum(t or 0 for t in tokens) == geometry.placeholders_B[row]
    assert [bool(geometry.entries_of(row)) for row in range(3)] == [True, False, True]
    assert geometry.expected == geometry.placeholders_B.sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_cut_rows_equal_the_batch_made_of_these_rows_alone(name: str, saved: Saved) -> None:
    one = made(saved, name)
    batch = mixed(one)
    geometry = read_geometry(batch, one.processor, one.config)
    cut = cut_rows(batch, geometry, [2])
    alone = one.batch([item(3, 2, QUESTION, ANSWER, "And now?", ANSWER)])
    assert cut.keys() == alone.keys()
    for key in cut:
        width = alone[key].shape[1] if cut[key].dim() == 2 and key != "pixel_values" and "grid" not in key else None
        kept = cut[key] if width is None else cut[key][:, :width]
        assert torch.equal(kept, alone[key]), key
    again = read_geometry(cut_rows(batch, geometry, [2, 0, 0]), one.processor, one.config)
    assert [sum(e.tokens or 0 for e in again.entries_of(row)) for row in range(3)] == again.placeholders_B.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_image_inputs_are_the_images_of_other_rows(name: str, saved: Saved) -> None:
    one = made(saved, name)
    batch = one.batch([item(1), item(5)])
    geometry = read_geometry(batch, one.processor, one.config)
    swapped = {**batch, **image_inputs(batch, geometry, [1, 0])}
    back = image_inputs(swapped, read_geometry(swapped, one.processor, one.config), [1, 0])
    assert not torch.equal(swapped["pixel_values"], batch["pixel_values"])
    assert all(torch.equal(value, batch[key]) for key, value in back.items())


def test_a_cut_without_images_has_no_pixels(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = mixed(one)
    cut = cut_rows(batch, read_geometry(batch, one.processor, one.config), [1])
    assert cut["pixel_values"] is None and cut["image_grid_thw"] is None and len(cut["input_ids"]) == 1


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "idefics3", "gemma3"])
def test_image_positions_are_found_without_processor_and_config(name: str, saved: Saved) -> None:
    one = made(saved, name)
    batch = mixed(one)
    alone, known = read_geometry(batch), read_geometry(batch, one.processor, one.config)
    assert alone.image_id.id == known.image_id.id and known.image_id.source is IdSource.CONFIG
    assert alone.image_id.source in (IdSource.TOKEN_TYPES, IdSource.RUNS)
    assert [e.row for e in alone.entries] == [e.row for e in known.entries]


def test_numpy_arrays_and_lists_are_read_and_stay_what_they_are(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = {key: value.numpy() for key, value in mixed(one).items()} | {"names": ["a", "b", "c"], "step": 3}
    cut = cut_rows(batch, read_geometry(batch, one.processor), [2, 1])
    assert isinstance(cut["input_ids"], np.ndarray) and cut["names"] == ["c", "b"] and cut["step"] == 3
    listed = batch | {"input_ids": batch["input_ids"].tolist()}
    assert read_geometry(listed, one.processor).placeholders_B.tolist() == [
        int((row == one.processor.image_token_id).sum()) for row in batch["input_ids"]
    ]


def test_mrope_positions_are_cut_along_their_second_axis(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = mixed(one)
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand(3, 3, -1)
    assert cut_rows(batch, read_geometry(batch, one.processor), [0])["position_ids"].shape[:2] == (3, 1)


def test_pixtral_images_are_counted_by_their_sizes() -> None:
    class Pixtral:
        image_token_id, image_break_token, patch_size, spatial_merge_size = 7, "[BREAK]", 4, 1

    # Two images of 2 x 3 and 1 x 2 patches: every line of patches but the last ends in a break (8), the last in 9.
    ids = [[1, 7, 7, 7, 8, 7, 7, 7, 9, 2], [1, 7, 7, 9, 2, 0, 0, 0, 0, 0]]
    batch = {
        "input_ids": torch.tensor(ids),
        "pixel_values": torch.zeros(2, 3, 8, 12),
        "image_sizes": torch.tensor([[8, 12], [4, 8]]),
    }
    geometry = read_geometry(batch, Pixtral())
    assert [(entry.row, entry.tokens) for entry in geometry.entries] == [(0, 6), (1, 2)]


def test_images_that_do_not_fit_the_text_are_not_assigned(saved: Saved) -> None:
    one = made(saved, "gemma3")
    batch = mixed(one)
    batch["pixel_values"] = batch["pixel_values"][:-1]
    geometry = read_geometry(batch, one.processor, one.config)
    assert geometry.unassigned is Unassigned.COUNTS_DIFFER
    with pytest.raises(InputError, match="not known which images belong to which row"):
        cut_rows(batch, geometry, [0])


def test_packed_rows_are_refused_by_name(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = mixed(one)
    length = batch["input_ids"].shape[1]
    positions = torch.cat([torch.arange(10), torch.arange(length - 10)]).expand(3, -1)
    packed = {**batch, "attention_mask": torch.ones_like(batch["input_ids"]), "position_ids": positions}
    geometry = read_geometry(packed, one.processor)
    assert geometry.packing is Packing.POSITIONS
    with pytest.raises(InputError, match="packing=False"):
        cut_rows(packed, geometry, [0])
    assert read_geometry({**batch, "cu_seqlens": [0, 3]}, one.processor).packing is Packing.BOUNDARIES


def test_positions_of_left_padding_are_not_packing(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = mixed(one, padding_side="left")
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert read_geometry({**batch, "position_ids": positions}, one.processor).packing is Packing.NONE


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ([1, 2], "expected a dict"),
        ({"pixel_values": torch.zeros(1, 3, 4, 4)}, "expected the key input_ids, got pixel_values"),
        ({"input_ids": torch.zeros(5, dtype=torch.long)}, r"expected integers of shape \[rows, tokens\]"),
        ({"input_ids": torch.zeros(1, 5)}, "expected integers"),
        ({"input_ids": [["a"]]}, "expected an array of numbers"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, r"expected the shape of input_ids, \[1, 2\]"),
    ],
)
def test_what_is_no_batch_is_refused_in_one_line(batch: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        read_geometry(batch)
    assert "\n" not in str(refused.value)


def test_an_array_that_fits_neither_rows_nor_images_is_refused_by_name(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = {**mixed(one), "weights": torch.zeros(7)}
    with pytest.raises(InputError, match="'weights'"):
        cut_rows(batch, read_geometry(batch, one.processor), [0])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("labels", ["answers", "all", "none"])
def test_answer_tokens_are_the_same_whatever_is_labelled(name: str, labels: str, saved: Saved) -> None:
    one = made(saved, name)
    batch = mixed(one, labels=labels)
    answers = find_answers(batch, read_geometry(batch, one.processor, one.config), one.processor)
    assert answers.way is Way.TEMPLATE and [len(spans) for spans in answers.spans] == [1, 1, 2]
    for row, spans in enumerate(answers.spans):
        for span in spans:
            ids = batch["input_ids"][row, span.start : span.stop]
            assert one.tokenizer.decode(ids[:-1] if span.ended else ids).strip() == ANSWER
            assert span.ended is (None if name == "llava" else True)


def test_a_cut_answer_has_no_end(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = one.batch([item(1)], labels="all")
    (whole,) = find_answers(batch, read_geometry(batch, one.processor), one.processor).spans
    text = ("input_ids", "attention_mask", "mm_token_type_ids", "labels")
    short = batch | {key: batch[key][:, : whole[0].stop - 1] for key in text}
    (spans,) = find_answers(short, read_geometry(short, one.processor), one.processor).spans
    assert [span.ended for span in spans] == [False]


def test_without_a_processor_labels_are_used_and_this_is_recorded(saved: Saved) -> None:
    one = made(saved, "qwen2_5_vl")
    batch = mixed(one)
    answers = find_answers(batch, read_geometry(batch))
    assert answers.way is Way.LABELS
    assert np.array_equal(answers.answer_BT, batch["labels"].numpy() != -100)
    bare = mixed(one, labels="none")
    assert find_answers(bare, read_geometry(bare)).way is Way.NONE


def test_a_processor_without_a_template_marks_answers_by_token_types(saved: Saved) -> None:
    one = made(saved, "paligemma")
    images = [[picture] for picture in item(1).images]
    batch = dict(one.processor(text=["<image>What?"], suffix=[ANSWER], images=images, return_tensors="pt"))
    answers = find_answers(batch, read_geometry(batch, one.processor), one.processor)
    assert answers.way is Way.TOKEN_TYPES
    assert one.tokenizer.decode(batch["input_ids"][0][answers.answer_BT[0]]).startswith(ANSWER)


@pytest.mark.parametrize("name", MAKERS)
def test_other_forms_of_pixels_are_assigned_and_cut(name: str) -> None:
    one = more(name)
    pictures = 1 if name == "mllama" else 0  # on transformers 5.6 it takes no row without an image
    rows = [item(1), item(2, pictures, "Why?", ANSWER), item(3, 2, QUESTION, ANSWER, "And now?", ANSWER)]
    batch = one.batch(rows)
    geometry = read_geometry(batch, one.processor)
    assert [bool(geometry.entries_of(row)) for row in range(3)] == [True, bool(pictures), True]
    cut, alone = cut_rows(batch, geometry, [2, 1]), one.batch([rows[2], rows[1]])
    assert cut.keys() == alone.keys()
    height, width = alone["pixel_values"].shape[-2:]  # Idefics2 pads to the largest image of the batch
    assert torch.equal(cut["pixel_values"][..., :height, :width], alone["pixel_values"])
    assert find_answers(batch, geometry, one.processor).way is Way.TEMPLATE
    assert not list(eyechart.check_batch(batch, one.processor))
