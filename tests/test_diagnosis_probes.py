"""Probes on the scoring seam name the path that is broken, and stay silent on sound models of every make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout

from eyechart.faults.experiments_on_losses import is_delimiter
from eyechart.faults.probes import diagnose_probes, probe
from eyechart.seam import IGNORE_INDEX, Batch, ScorerOfBatches, TokenNLL, VisualTokens
from fake_scorers import Healthy, make_batches, make_sample
from qwen3_vlm.models.fusion import place
from qwen3_vlm.models.vlm import VLM
from tiny_models import EOS, LATENTS, PATCH, make_batch, make_llm, make_vlm

CAPTIONS = [[10, 11, 12, 13, 14], [20, 21, 22, 23], [30, 31, 32, 33, 34, 35, 36], [40, 41, 42, 43, 44]]
Encode = Callable[[VLM, Batch], VisualTokens]
Nll = Callable[[VLM, Batch, VisualTokens], TokenNLL]


class Broken:
    """The tiny model with one half of the seam replaced."""

    def __init__(self, encode: Encode | None = None, nll: Nll | None = None, vlm: VLM | None = None) -> None:
        self.vlm = vlm or make_vlm().eval()
        self._encode, self._nll = encode, nll

    def encode(self, batch: Batch) -> VisualTokens:
        return self._encode(self.vlm, batch) if self._encode else self.vlm.encode(batch)

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        assert visual is not None
        return self._nll(self.vlm, batch, visual) if self._nll else self.vlm.nll(batch, visual)


def codes(scorer: ScorerOfBatches, batch: Batch | None = None) -> list[str]:
    batch = make_batch(CAPTIONS) if batch is None else batch
    return [f.code for f in diagnose_probes(probe(scorer, batch))]


def embedded(vlm: VLM, batch: Batch, visual: VisualTokens) -> Tensor:
    return place(vlm.llm.embed(batch.ids_BT), batch.ids_BT, visual.layers[0], PATCH)


def scored(vlm: VLM, hidden_BTE: Tensor, labels_BT: Tensor, ahead: int) -> TokenNLL:
    """NLL of the label `ahead` positions after each hidden state."""
    last = labels_BT.shape[1] - ahead
    keep_BT = labels_BT[:, ahead:] != IGNORE_INDEX
    logits_NK = vlm.llm.model.lm_head(hidden_BTE[:, :last][keep_BT])
    nll_N = torch.nn.functional.cross_entropy(logits_NK, labels_BT[:, ahead:][keep_BT], reduction="none")
    return TokenNLL(nll_N, keep_BT.sum(dim=1))


def looking_ahead(ahead: int) -> Nll:
    def nll(vlm: VLM, batch: Batch, visual: VisualTokens) -> TokenNLL:
        hidden_BTE = vlm.llm.model.model(inputs_embeds=embedded(vlm, batch, visual)).last_hidden_state
        return scored(vlm, hidden_BTE, batch.labels_BT, ahead)

    return nll


def hidden_images(vlm: VLM, batch: Batch, visual: VisualTokens) -> TokenNLL:
    mask_BT = batch.attention_BT & (batch.ids_BT != PATCH)
    hidden_BTE = vlm.llm.model.model(
        inputs_embeds=embedded(vlm, batch, visual), attention_mask=mask_BT.long()
    ).last_hidden_state
    return scored(vlm, hidden_BTE, batch.labels_BT, 1)


def full_attention(vlm: VLM, batch: Batch, visual: VisualTokens) -> TokenNLL:
    rows, length = batch.ids_BT.shape
    keys_B11T = batch.attention_BT[:, None, None, :].expand(rows, 1, length, length)
    mask_B1TT = torch.zeros(rows, 1, length, length).masked_fill(~keys_B11T, torch.finfo(torch.float32).min)
    hidden_BTE = vlm.llm.model.model(
        inputs_embeds=embedded(vlm, batch, visual), attention_mask=mask_B1TT
    ).last_hidden_state
    return scored(vlm, hidden_BTE, batch.labels_BT, 1)


def shifted_by(offset: int) -> Nll:
    def nll(vlm: VLM, batch: Batch, visual: VisualTokens) -> TokenNLL:
        embeds_BTE = vlm.llm.embed(batch.ids_BT)
        mask_BT = torch.roll(batch.ids_BT == PATCH, offset, dims=1)
        placed_BTE = embeds_BTE.masked_scatter(mask_BT[..., None], visual.layers[0])
        return vlm.llm.nll(placed_BTE, batch.labels_BT)

    return nll


def without_last_slot(vlm: VLM, batch: Batch, visual: VisualTokens) -> TokenNLL:
    kept = visual.map(lambda layer: torch.cat([layer[:, : LATENTS - 1], layer[:, :1]], dim=1))
    return vlm.nll(batch, kept)


def padded_on_the_left_without_a_mask(vlm: VLM, batch: Batch, visual: VisualTokens) -> TokenNLL:
    embeds_BTE, labels_BT = embedded(vlm, batch, visual), batch.labels_BT
    longest = labels_BT.shape[1]
    pads = [longest - int(length) for length in batch.lengths_B]
    rolled_BTE = torch.stack([torch.roll(row, pad, dims=0) for row, pad in zip(embeds_BTE, pads, strict=True)])
    rolled_BT = torch.stack([torch.roll(row, pad) for row, pad in zip(labels_BT, pads, strict=True)])
    return vlm.llm.nll(rolled_BTE, rolled_BT)


def mixed(vlm: VLM, batch: Batch, visual: VisualTokens) -> TokenNLL:
    return vlm.nll(batch, visual.map(lambda layer: layer + 0.1 * layer.mean(dim=0)))


@pytest.mark.parametrize(
    ("scorer", "code"),
    [
        (
            Broken(encode=lambda vlm, b: vlm.encode(replace(b, pixels_BCHW=torch.zeros_like(b.pixels_BCHW)))),
            "pixels-unused",
        ),
        (
            Broken(encode=lambda vlm, b: VisualTokens((torch.full((len(b.ids_BT), LATENTS, 32), torch.nan),))),
            "non-finite",
        ),
        (Broken(encode=lambda vlm, b: vlm.encode(b).map(lambda layer: layer.flip(0))), "image-order"),
        (Broken(encode=lambda vlm, b: vlm.encode(b).rows([0] * len(b.ids_BT))), "image-order"),
        (
            Broken(encode=lambda vlm, b: vlm.encode(b).map(lambda layer: layer - layer.mean(dim=0))),
            "batch-dependent",
        ),
        (Broken(nll=lambda vlm, b, v: vlm.nll(b, v.map(lambda layer: layer.roll(1, dims=0)))), "image-order"),
        (Broken(nll=lambda vlm, b, v: vlm.nll(b, v.map(torch.zeros_like))), "not-injected"),
        (Broken(nll=hidden_images), "image-masked"),
        (Broken(nll=shifted_by(1)), "placeholder-offset"),
        (Broken(nll=shifted_by(-1)), "placeholder-offset"),
        (Broken(nll=without_last_slot), "placeholder-count"),
        (Broken(nll=looking_ahead(0)), "labels-unshifted"),
        (Broken(nll=looking_ahead(2)), "labels-shifted"),
        (Broken(nll=full_attention), "leak"),
        (Broken(nll=padded_on_the_left_without_a_mask), "batch-dependent"),
        (Broken(nll=mixed), "batch-dependent"),
        (Broken(encode=lambda vlm, b: vlm.encode(b).map(lambda layer: dropout(layer, 0.3))), "loss-not-reproduced"),
        (Broken(nll=lambda vlm, b, v: vlm.nll(b, v.map(lambda layer: dropout(layer, 0.3)))), "loss-not-reproduced"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_path_is_named(scorer: Broken, code: str) -> None:
    assert codes(scorer)[:1] == [code]


@pytest.mark.parametrize("prompt", [(7, 8), (), (7,)])
@pytest.mark.parametrize("options", [{}, {"output_norm": True}, {"vision_ln": True, "key_positions": True}])
def test_a_sound_model_shows_nothing(prompt: tuple[int, ...], options: dict[str, bool]) -> None:
    assert codes(Broken(vlm=make_vlm(**options).eval()), make_batch(CAPTIONS, prompt)) == []


def test_an_untied_language_model_shows_nothing() -> None:
    vlm = make_vlm().eval()
    vlm.llm = make_llm(tied=False)
    assert codes(Broken(vlm=vlm)) == []


def test_delimiters_that_are_copies_of_a_word_are_not_taken_for_overwritten() -> None:
    vlm = make_vlm().eval()
    batch = make_batch(CAPTIONS)
    inside_T = batch.block_BT[0].nonzero()[:, 0]
    words = sorted(set(batch.labels_BT[batch.labels_BT != IGNORE_INDEX].tolist()))
    table_KE = vlm.llm.model.get_input_embeddings().weight
    for place_ in (inside_T[0], inside_T[-1]):
        table_KE.data[batch.ids_BT[0, place_]] = table_KE.data[words[0]]
    assert codes(Broken(vlm=vlm), batch) == []


def test_a_model_in_bfloat16_shows_nothing() -> None:
    vlm = make_vlm().eval()
    vlm.llm.to(torch.bfloat16)
    assert codes(Broken(vlm=vlm)) == []


def test_a_connector_that_says_next_to_nothing_hides_no_path() -> None:
    """Collapsed to a constant up to one part in a thousand: where its tokens go can still be seen."""
    faint = Broken(encode=lambda vlm, b: vlm.encode(b).map(lambda layer: 1e-3 * layer + layer[:1].detach() * 0 + 1))
    assert codes(faint) == []


def test_other_pixels_in_the_batch_than_in_its_samples_are_named() -> None:
    batch = make_batches([make_sample(row) for row in range(4)], 4)[0]
    assert batch.pixels_BCHW is not None
    assert codes(Healthy(), replace(batch, pixels_BCHW=batch.pixels_BCHW.flip(0)))[:1] == ["image-order"]


def labelled(shift: int) -> Batch:
    """The batch with labels that say the token `shift` places ahead of their position."""
    batch = make_batch([[*caption, 9] for caption in CAPTIONS])
    moved_BT = torch.roll(batch.ids_BT, -shift, dims=1)
    return replace(batch, labels_BT=torch.where(batch.labels_BT == IGNORE_INDEX, IGNORE_INDEX, moved_BT))


def test_labels_that_a_data_set_has_already_shifted_are_named() -> None:
    assert codes(Broken(), labelled(1))[:1] == ["labels-shifted"]
    assert codes(Broken(), labelled(-1))[:1] == ["labels-unshifted"]
    assert codes(Broken(nll=looking_ahead(0)), labelled(1)) == [], "shifted in the data, not in the model: sound"


def test_a_caption_that_stands_in_the_prompt_is_named() -> None:
    assert codes(Broken(), make_batch([CAPTIONS[0]], prompt=tuple(CAPTIONS[0])))[:1] == ["leak"]


def test_a_prompt_that_lists_the_captions_words_is_named_and_one_that_is_the_same_for_all_is_not() -> None:
    batch = make_batch(CAPTIONS, prompt=(6,) * 7)
    for row, words in enumerate(CAPTIONS):
        batch.ids_BT[row, : len(words)] = torch.tensor(words[::-1])
    assert codes(Broken(), batch)[:1] == ["leak"]
    half = make_batch(CAPTIONS, prompt=(6,) * 7)
    for row, words in enumerate(CAPTIONS):
        half.ids_BT[row, :2] = torch.tensor(words[1::-1])
    assert "leak" not in codes(Broken(), half), "a question shares words with its answer"
    shuffled = [CAPTIONS[0], CAPTIONS[0][::-1], [12, 10, 14, 11, 13], [14, 10, 12, 13, 11]]
    assert "leak" not in codes(Broken(), make_batch(shuffled, prompt=(13, 11, 10, 14, 12))), "the same request for all"


def test_captions_of_one_repeated_word_are_not_taken_for_a_fault() -> None:
    assert codes(Broken(), make_batch([[EOS] * 5, [EOS] * 4])) == []


def test_a_batch_without_labels_is_refused() -> None:
    batch = make_batch(CAPTIONS)
    with pytest.raises(ValueError, match="no sample of this batch has any"):
        probe(Broken(), replace(batch, labels_BT=torch.full_like(batch.labels_BT, IGNORE_INDEX)))


@pytest.mark.parametrize(
    ("block", "first", "last"),
    [
        ([7, 1, 1, 8], True, True),
        ([7, 1, 8], True, True),
        ([1, 1, 1], False, False),
        ([7, 1, 1], True, False),
        ([1], False, False),
    ],
    ids=["ours", "one visual token", "no delimiters", "one delimiter", "a single position"],
)
def test_a_delimiter_is_what_differs_from_its_neighbour_in_the_block(block: list[int], first: bool, last: bool) -> None:
    assert (is_delimiter(block, 0), is_delimiter(block, -1)) == (first, last)
