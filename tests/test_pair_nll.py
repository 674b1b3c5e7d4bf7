"""Pairs scored with a prefix that is read once have the same losses as pairs scored whole."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from eyechart.seam import IGNORE_INDEX, Batch, CollateStats, VisualTokens
from qwen3_vlm.models.vlm import VLM
from tiny_models import END, EOS, LATENTS, PATCH, START, make_vlm

BLOCK = [START, *[PATCH] * LATENTS, END]


def batch_of(rows: list[tuple[list[int], list[int]]]) -> Batch:
    """Rows of (prompt with its block, caption), padded with EOS."""
    longest = max(len(prompt) + len(caption) + 1 for prompt, caption in rows)
    ids_BT = torch.full((len(rows), longest), EOS)
    labels_BT = torch.full((len(rows), longest), IGNORE_INDEX)
    for i, (prompt, caption) in enumerate(rows):
        ids = [*prompt, *caption, EOS]
        ids_BT[i, : len(ids)] = torch.tensor(ids)
        labels_BT[i, len(prompt) : len(ids)] = torch.tensor([*caption, EOS])
    lengths_B = torch.tensor([len(p) + len(c) + 1 for p, c in rows])
    block_BT = (ids_BT == START) | (ids_BT == PATCH) | (ids_BT == END)
    return Batch((), ids_BT, labels_BT, lengths_B, block_BT, None, None, CollateStats())


PROMPTS = {
    "request after the image": [*BLOCK, 7, 8],
    "request before the image": [7, 8, 9, *BLOCK],
    "no request": BLOCK,
}
CAPTIONS = [[11, 12, 13], [14, 15, 16, 17, 18], [19], [11, 12, 13]]
IMAGES = [0, 2, 0, 1]


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return make_vlm()


@pytest.fixture(scope="module")
def visual() -> VisualTokens:
    return VisualTokens((torch.randn(3, LATENTS, 32, generator=torch.Generator().manual_seed(5)),))


def compare(vlm: VLM, batch: Batch, visual: VisualTokens, images: list[int]) -> None:
    with torch.no_grad():
        expected = vlm.nll(batch, visual.rows(images))
    got = vlm.pair_nll(batch, visual, images)
    assert got.counts_B.tolist() == expected.counts_B.tolist()
    torch.testing.assert_close(got.nll_N, expected.nll_N, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_pairs_are_scored_as_plainly_for_captions_of_different_length(
    vlm: VLM, visual: VisualTokens, prompt: list[int]
) -> None:
    compare(vlm, batch_of([(prompt, caption) for caption in CAPTIONS]), visual, IMAGES)


def test_prompts_may_differ_by_row_in_words_and_in_length(vlm: VLM, visual: VisualTokens) -> None:
    prompts = [*PROMPTS.values(), [7, 9, 8, *BLOCK]]
    compare(vlm, batch_of(list(zip(prompts, CAPTIONS, strict=True))), visual, [0, 0, 0, 0])


def test_the_image_of_a_pair_matters(vlm: VLM, visual: VisualTokens) -> None:
    batch = batch_of([(BLOCK, caption) for caption in CAPTIONS])
    one, other = (vlm.pair_nll(batch, visual, images).nll_N for images in ([0, 0, 0, 0], [1, 0, 0, 0]))
    moved = (one - other).abs() > 1e-3
    assert moved[: len(CAPTIONS[0]) + 1].any() and not moved[len(CAPTIONS[0]) + 1 :].any()


def test_a_caption_cut_by_max_seq_len_has_fewer_labels_here_too(vlm: VLM, visual: VisualTokens) -> None:
    batch = batch_of([(BLOCK, caption) for caption in CAPTIONS])
    labels_BT = batch.labels_BT.clone()
    labels_BT[1, len(BLOCK) + 2 :] = IGNORE_INDEX
    compare(vlm, Batch(**{**vars(batch), "labels_BT": labels_BT}), visual, IMAGES)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_pairs_with_labels_before_or_in_the_image_block_are_scored_whole(
    vlm: VLM, visual: VisualTokens, prompt: list[int]
) -> None:
    batch = batch_of([(prompt, caption) for caption in CAPTIONS])
    labels_BT = batch.ids_BT.clone()
    labels_BT[:, 0] = IGNORE_INDEX
    compare(vlm, Batch(**{**vars(batch), "labels_BT": labels_BT}), visual, IMAGES)


def test_pairs_with_the_image_after_the_caption_are_scored_whole(vlm: VLM, visual: VisualTokens) -> None:
    ids_BT = torch.tensor([[7, 11, 12, *BLOCK], [7, 13, 14, *BLOCK]])
    labels_BT = torch.where((ids_BT > 7) & (ids_BT < 20), ids_BT, IGNORE_INDEX)
    block_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    block_BT[:, 3:] = True
    lengths_B = torch.full((2,), ids_BT.shape[1])
    batch = Batch((), ids_BT, labels_BT, lengths_B, block_BT, None, None, CollateStats())
    compare(vlm, batch, visual, [2, 0])


def test_each_prompt_and_image_is_read_once(vlm: VLM, visual: VisualTokens) -> None:
    rows = [(PROMPTS["no request"], [11])] * 9 + [(PROMPTS["request after the image"], [11])] * 3
    with mock.patch.object(vlm.llm, "read", wraps=vlm.llm.read) as read:
        vlm.pair_nll(batch_of(rows), visual, [0, 1, 2] * 4)
    assert [tuple(call.args[0].shape[:2]) for call in read.call_args_list] == [
        (3, len(BLOCK) - 1),
        (3, len(BLOCK) + 1),
    ]
