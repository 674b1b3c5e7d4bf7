from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from eyechart.data.dataset import Dataset, too_many_rejected
from eyechart.data.encoded import Encoded
from eyechart.data.images import ImageSpec, content_hash, load_image
from eyechart.data.reader import read_rows
from eyechart.scoring.batching import collate
from eyechart.seam import Reject, Sample
from qwen3_vlm.config import PromptConfig
from qwen3_vlm.data.prompt import PromptBuilder
from qwen3_vlm.data.splits import draw_split
from tiny_rows import LlavaFolder

SPEC = ImageSpec(16, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 2, 1 / 255)
LIMIT = 10_000


def make_dataset(llava: LlavaFolder, tokenizer: PreTrainedTokenizerFast, max_seq_len: int = 64) -> Dataset:
    records, rejects = read_rows(llava.json_file)
    encoded = [
        e for e in PromptBuilder(tokenizer, PromptConfig(), 2, max_seq_len).encode(records) if isinstance(e, Encoded)
    ]
    assert not rejects and len(encoded) == len(records)
    return Dataset(records, encoded, llava.image_root, SPEC, LIMIT)


@pytest.fixture
def dataset(llava: LlavaFolder, tokenizer: PreTrainedTokenizerFast) -> Dataset:
    return make_dataset(llava, tokenizer)


def test_a_sample_holds_its_own_row_text_and_pixels(dataset: Dataset, llava: LlavaFolder) -> None:
    for i, row in enumerate(llava.rows):
        sample = dataset[i]
        assert isinstance(sample, Sample)
        assert (sample.row, sample.id, sample.image) == (i, row["id"], row["image"])
        assert sample.caption == row["conversations"][1]["value"]
        expected_CHW = load_image(llava.image_root / row["image"], SPEC, LIMIT)
        assert sample.pixels_CHW is not None and torch.equal(sample.pixels_CHW, expected_CHW)
        assert sample.image_hash == content_hash(expected_CHW)
    assert len({dataset[i].image_hash for i in range(6)}) == 6  # type: ignore[union-attr]


def test_the_text_alone_is_the_same_sample_and_opens_no_file(dataset: Dataset, llava: LlavaFolder) -> None:
    whole = dataset[2]
    (llava.image_root / llava.rows[2]["image"]).unlink()
    text = dataset.text(2)
    assert isinstance(whole, Sample) and text.pixels_CHW is None and text.image_hash == ""
    assert text.ids_T.tolist() == whole.ids_T.tolist() and text.labels_T.tolist() == whole.labels_T.tolist()
    assert (text.row, text.id, text.image, text.caption, text.block, text.full_length) == (
        whole.row,
        whole.id,
        whole.image,
        whole.caption,
        whole.block,
        whole.full_length,
    )


def test_an_unreadable_image_rejects_its_row_and_no_other_takes_its_place(dataset: Dataset, llava: LlavaFolder) -> None:
    missing, cut = (llava.image_root / llava.rows[i]["image"] for i in (1, 4))
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:-60])
    items = [dataset[i] for i in range(len(dataset))]
    assert [item.row for item in items] == list(range(6))
    rejects = [item for item in items if isinstance(item, Reject)]
    assert [(r.row, r.reason) for r in rejects] == [(1, "image missing"), (4, "image truncated")]
    assert str(missing) in rejects[0].detail and str(cut) in rejects[1].detail


def test_the_pixel_limit_reaches_the_images(dataset: Dataset, llava: LlavaFolder) -> None:
    Image.new("RGB", (200, 200)).save(llava.image_root / llava.rows[0]["image"])
    item = dataset[0]
    assert isinstance(item, Reject) and item.reason == "image too large"


def test_lengths_rows_and_wrapper_are_those_of_the_samples(
    llava: LlavaFolder, tokenizer: PreTrainedTokenizerFast
) -> None:
    whole = make_dataset(llava, tokenizer)
    cut = make_dataset(llava, tokenizer, max_seq_len=min(whole.lengths) - 1)
    assert cut.lengths == whole.lengths == [whole.text(i).full_length for i in range(6)]
    assert all(cut.text(i).truncated for i in range(6))
    assert whole.rows == [0, 1, 2, 3, 4, 5]
    start, end = whole.text(0).block
    sample = whole.text(0)
    assert whole.wrapper_tokens == len(sample.ids_T) - sample.label_tokens - (end - start)


def test_an_empty_data_set_is_empty() -> None:
    empty = Dataset([], [], image_root=Path(), spec=SPEC, max_pixels=LIMIT)
    assert len(empty) == 0 and empty.lengths == [] and empty.wrapper_tokens == 0.0


def test_records_and_ids_of_different_number_are_a_broken_invariant(dataset: Dataset, llava: LlavaFolder) -> None:
    records, _ = read_rows(llava.json_file)
    with pytest.raises(AssertionError, match="6 records, 0 encoded rows"):
        Dataset(records, [], llava.image_root, SPEC, LIMIT)


def test_a_pickled_data_set_reads_the_same(dataset: Dataset) -> None:
    one, other = dataset[3], pickle.loads(pickle.dumps(dataset))[3]
    assert isinstance(one, Sample) and isinstance(other, Sample)
    assert one.image_hash == other.image_hash and one.ids_T.tolist() == other.ids_T.tolist()


def test_worker_processes_give_the_same_batches(dataset: Dataset, llava: LlavaFolder) -> None:
    (llava.image_root / llava.rows[5]["image"]).unlink()
    batches = {
        workers: list(DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=partial(collate, pad_id=0)))  # type: ignore[arg-type]
        for workers in (0, 1)
    }
    for alone, helped in zip(batches[0], batches[1], strict=True):
        assert torch.equal(alone.ids_BT, helped.ids_BT) and torch.equal(alone.pixels_BCHW, helped.pixels_BCHW)
        assert alone.stats == helped.stats and alone.rejects == helped.rejects
    assert [len(batch) for batch in batches[0]] == [4, 1] and batches[0][1].rejects[0].row == 5


def test_a_rejected_row_moves_no_other_row(make_llava: Callable[..., LlavaFolder]) -> None:
    llava = make_llava(40, side=4)
    before = draw_split(40, 20, 0.25, 1)
    records, _ = read_rows(llava.json_file, before.train)
    text = llava.json_file.read_text()
    bad = before.train[3]
    llava.json_file.write_text(text.replace(f'"images/{bad:05d}.png"', '"/outside.png"'))
    after, rejects = read_rows(llava.json_file, draw_split(40, 20, 0.25, 1).train)
    assert [r.row for r in rejects] == [bad]
    assert after == [r for r in records if r.row != bad]


def test_few_rejects_are_accepted_up_to_the_limit() -> None:
    rejects = [Reject(i, "image missing", "a.png") for i in range(2)]
    too_many_rejected(rejects, 200, 0.01)
    too_many_rejected([], 0, 0.0)
    with pytest.raises(
        ValueError, match=r"2 of 199 training rows are unusable \(1\.01%\).* more than data\.max_rejected 0\.01"
    ):
        too_many_rejected(rejects, 199, 0.01)


def test_one_reject_of_few_stops_nothing_unless_none_is_allowed_or_it_is_the_only_row() -> None:
    (one,) = rejects = [Reject(3, "image missing", "a.png")]
    too_many_rejected(rejects, 2, 0.01)
    with pytest.raises(ValueError, match="2 of 8 training rows"):
        too_many_rejected([one, replace(one, row=4)], 8, 0.01)
    with pytest.raises(ValueError, match="1 of 8 training rows"):
        too_many_rejected(rejects, 8, 0.0)
    with pytest.raises(ValueError, match="1 of 1 training rows"):
        too_many_rejected(rejects, 1, 0.01)


def test_too_many_rejects_stop_with_counts_by_reason_and_three_examples_of_different_reasons() -> None:
    rejects = [Reject(i, "image missing", f"{i}.png") for i in range(5)]
    rejects += [Reject(50, "caption blank", "nothing"), Reject(51, "not an image", "51.png")]
    with pytest.raises(ValueError) as caught:
        too_many_rejected(rejects, 20, 0.05)
    message = str(caught.value)
    assert "7 of 20 training rows are unusable (35%)" in message
    assert "image missing 5, caption blank 1, not an image 1" in message
    assert "row 0: image missing (0.png); row 50: caption blank (nothing); row 51: not an image (51.png)" in message
    assert "data.max_rejected 0.05: fix the rows, or raise this limit" in message and "\n" not in message


def test_a_single_reason_is_shown_with_three_rows() -> None:
    with pytest.raises(ValueError, match=r"For example row 4: x \(d\); row 5: x \(d\); row 6: x \(d\)\."):
        too_many_rejected([Reject(row, "x", "d") for row in (4, 5, 6, 7)], 5, 0.01)
