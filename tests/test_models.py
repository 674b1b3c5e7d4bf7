"""Tower, connector, fusion, language model, and the four composed."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from eyechart.seam import IGNORE_INDEX, Batch, VisualTokens
from qwen3_vlm.models.connector import Connector, ConnectorShape
from qwen3_vlm.models.fusion import place
from tiny_models import EOS, LATENTS, PATCH, make_batch, make_llm, make_tower, make_vlm

CAPTIONS = [[11, 12, 13], [14, 15, 16, 17, 18], [19]]


def single(batch: Batch, row: int) -> Batch:
    """One row of a batch, without its padding."""
    length = int(batch.lengths_B[row])
    assert batch.pixels_BCHW is not None
    return dataclasses.replace(
        batch,
        samples=batch.samples[row : row + 1],
        ids_BT=batch.ids_BT[row : row + 1, :length],
        labels_BT=batch.labels_BT[row : row + 1, :length],
        lengths_B=batch.lengths_B[row : row + 1],
        block_BT=batch.block_BT[row : row + 1, :length],
        pixels_BCHW=batch.pixels_BCHW[row : row + 1],
    )


def test_the_real_connector_has_82_445_824_parameters() -> None:
    with torch.device("meta"):
        connector = Connector(ConnectorShape(1152, 4096, 729, 64, 2, 8, 64, 4))
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in connector.named_children()}
    assert count == {"resampler": 6_927_872, "projector": 75_517_952}


def test_checkpoint_names_of_the_connector_are_the_documented_ones() -> None:
    with torch.device("meta"):
        names = set(Connector(ConnectorShape(8, 8, 4, 2, 1, 2, 4, 2, vision_ln=True)).state_dict())
    layer = "resampler.layers.0"
    assert names == {
        *(f"vision_ln.{n}" for n in ("weight", "bias")),
        *(f"resampler.{n}" for n in ("latents", "proj_in.weight", "proj_in.bias")),
        *(f"{layer}.{n}.{w}" for n in ("ln1", "ln2", "ff.0", "ff.2", "attn.out_proj") for w in ("weight", "bias")),
        *(f"{layer}.attn.{n}" for n in ("in_proj_weight", "in_proj_bias")),
        *(f"projector.net.{i}.{w}" for i in (0, 2) for w in ("weight", "bias")),
    }


def test_without_key_positions_the_resampler_ignores_the_order_of_patches_and_with_them_it_does_not() -> None:
    torch.manual_seed(0)
    features_BPV = torch.randn(2, 4, 24)
    rolled_BPV = features_BPV.roll(1, dims=1)
    for positions in (False, True):
        connector = Connector(ConnectorShape(24, 32, 4, 3, 1, 2, 8, 2, key_positions=positions))
        same = torch.allclose(connector(features_BPV), connector(rolled_BPV), atol=1e-5)
        assert same is not positions


def test_output_norm_gives_every_visual_token_the_rms_of_text() -> None:
    connector = Connector(ConnectorShape(24, 32, 4, 3, 1, 2, 8, 2, output_norm=True), text_rms=0.25)
    rms_BQ = connector(torch.randn(2, 4, 24)).pow(2).mean(-1).sqrt()
    assert torch.allclose(rms_BQ, torch.full_like(rms_BQ, 0.25), atol=1e-3)


def test_the_connector_refuses_features_of_another_width_or_number() -> None:
    connector = Connector(ConnectorShape(24, 32, 4, 3, 1, 2, 8, 2, key_positions=True))
    with pytest.raises(ValueError, match="width 24, got 20"):
        connector(torch.randn(1, 4, 20))
    with pytest.raises(ValueError, match="4 patches, got 9"):
        connector(torch.randn(1, 9, 24))


def test_fusion_puts_visual_tokens_at_the_patch_positions_and_nowhere_else() -> None:
    ids_BT = torch.tensor([[5, PATCH, PATCH, 6], [PATCH, 7, 8, PATCH]])
    embeds_BTE, visual_BQE = torch.zeros(2, 4, 1), torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    placed_BTE = place(embeds_BTE, ids_BT, visual_BQE, PATCH)
    assert placed_BTE[..., 0].tolist() == [[0, 1, 2, 0], [3, 0, 0, 4]]
    assert not embeds_BTE.any(), "the text embeddings are left alone"


def test_fusion_refuses_another_number_of_placeholders_and_names_the_sample() -> None:
    ids_BT = torch.tensor([[PATCH, PATCH], [PATCH, 5]])
    with pytest.raises(ValueError, match="sample 1 of the batch has 1 image positions for 2 visual tokens"):
        place(torch.zeros(2, 2, 3), ids_BT, torch.zeros(2, 2, 3), PATCH)
    with pytest.raises(ValueError, match="do not fit"):
        place(torch.zeros(2, 2, 3), ids_BT, torch.zeros(2, 2, 4), PATCH)


@pytest.mark.parametrize("tied", [True, False])
def test_nll_equals_cross_entropy_on_full_logits(tied: bool) -> None:
    llm, batch = make_llm(tied=tied), make_batch(CAPTIONS)
    embeds_BTE = llm.embed(batch.ids_BT)
    got = llm.nll(embeds_BTE, batch.labels_BT)
    logits_BTK = llm.model(inputs_embeds=embeds_BTE, attention_mask=batch.attention_BT.long()).logits
    flat = F.cross_entropy(logits_BTK[:, :-1].flatten(0, 1), batch.labels_BT[:, 1:].flatten(), reduction="none")
    expected_N = flat[batch.labels_BT[:, 1:].flatten() != IGNORE_INDEX]
    assert torch.allclose(got.nll_N, expected_N, atol=1e-5)
    assert got.counts_B.tolist() == [len(c) + 1 for c in CAPTIONS]


def test_only_label_positions_reach_the_lm_head() -> None:
    llm, batch = make_llm(), make_batch(CAPTIONS)
    seen = []
    llm.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    llm.nll(llm.embed(batch.ids_BT), batch.labels_BT)
    assert seen == [(sum(len(c) + 1 for c in CAPTIONS), 32)]


def test_a_batch_of_three_scores_as_three_batches_of_one() -> None:
    vlm, batch = make_vlm(), make_batch(CAPTIONS)
    together = vlm.nll(batch, vlm.encode(batch)).per_sample()
    for row, nll_T in enumerate(together):
        alone = single(batch, row)
        assert torch.allclose(nll_T, vlm.nll(alone, vlm.encode(alone)).nll_N, atol=1e-5)


def test_without_an_image_the_block_is_left_out_of_the_sequence() -> None:
    vlm, batch = make_vlm(), make_batch(CAPTIONS)
    ids_BT = torch.cat([batch.ids_BT[:, :2], batch.ids_BT[:, 2 + LATENTS + 2 :]], dim=1)
    labels_BT = torch.cat([batch.labels_BT[:, :2], batch.labels_BT[:, 2 + LATENTS + 2 :]], dim=1)
    expected = vlm.llm.nll(vlm.llm.embed(ids_BT), labels_BT)
    assert torch.equal(vlm.nll(batch, None).nll_N, expected.nll_N)


def test_without_an_image_and_without_any_other_prompt_every_caption_token_is_still_scored() -> None:
    vlm, batch = make_vlm(), make_batch(CAPTIONS, prompt=())
    ids_BT = torch.cat([torch.full((3, 1), EOS), batch.ids_BT[:, LATENTS + 2 :]], dim=1)
    labels_BT = torch.cat([torch.full((3, 1), IGNORE_INDEX), batch.labels_BT[:, LATENTS + 2 :]], dim=1)
    got = vlm.nll(batch, None)
    assert torch.equal(got.nll_N, vlm.llm.nll(vlm.llm.embed(ids_BT), labels_BT).nll_N)
    assert got.counts_B.tolist() == [len(c) + 1 for c in CAPTIONS]


def test_each_caption_depends_on_its_own_image_and_on_no_other() -> None:
    vlm, batch = make_vlm(), make_batch(CAPTIONS)
    before = vlm.nll(batch, vlm.encode(batch)).per_sample()
    assert batch.pixels_BCHW is not None
    batch.pixels_BCHW[1] = 255 - batch.pixels_BCHW[1]
    after = vlm.nll(batch, vlm.encode(batch)).per_sample()
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [False, True, False]


def test_gradients_reach_every_connector_parameter_and_no_frozen_one() -> None:
    vlm, batch = make_vlm(vision_ln=True, key_positions=True), make_batch(CAPTIONS)
    vlm.nll(batch, VisualTokens((vlm.visual(vlm.features(batch)),))).nll_N.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vlm.connector.parameters())
    assert all(p.grad is None for part in (vlm.tower, vlm.llm) for p in part.parameters())


def test_frozen_parts_stay_in_eval_mode_and_are_logged_as_frozen() -> None:
    vlm = make_vlm(vision_ln=True).train()
    assert vlm.connector.training and not vlm.tower.model.training and not vlm.llm.model.training
    assert {s.name: s.trained for s in vlm.sizes()} == {
        "vision tower": False,
        "vision_ln": True,
        "resampler": True,
        "projector": True,
        "language model": False,
    }


def test_the_tower_refuses_images_of_another_size() -> None:
    with pytest.raises(ValueError, match="3x16x16, got 3x8x16"):
        make_tower()(torch.zeros(1, 3, 8, 16, dtype=torch.uint8))


def test_cached_features_are_used_instead_of_the_tower() -> None:
    vlm, batch = make_vlm(), make_batch(CAPTIONS)
    features_BPV = vlm.features(batch)
    cached = dataclasses.replace(batch, features_BPV=features_BPV, pixels_BCHW=None)
    with mock.patch.object(vlm.tower.model, "forward", side_effect=AssertionError("the tower ran")):
        assert torch.equal(vlm.encode(cached).layers[0], vlm.visual(features_BPV))


def test_batched_generation_equals_single_also_with_prompts_of_different_length() -> None:
    vlm, batch = make_vlm(), make_batch(CAPTIONS)
    visual = vlm.encode(batch)
    block = batch.ids_BT[0, 2 : 2 + LATENTS + 2].tolist()
    prompts = [torch.tensor(p) for p in ([*block, 9], [7, 8, *block, 9, 10, 11], [7, *block])]
    together = vlm.generate(prompts, visual, 12)
    alone = [vlm.generate([p], visual.rows([i]), 12)[0] for i, p in enumerate(prompts)]
    assert together == alone
    assert len({tuple(t) for t in together}) > 1, "the three continuations should not be one constant"


def test_generation_is_the_greedy_choice_of_the_scorer() -> None:
    vlm, batch = make_vlm(), make_batch([[11, 12, 13]])
    visual = vlm.encode(batch)
    prompt_T = batch.ids_BT[0, : 2 + LATENTS + 2]
    ids = vlm.generate([prompt_T], visual, 6)[0]
    sequence = prompt_T.tolist()
    for token in ids:
        embeds = place(vlm.llm.embed(torch.tensor([sequence])), torch.tensor([sequence]), visual.layers[0], PATCH)
        assert int(vlm.llm.model(inputs_embeds=embeds).logits[0, -1].argmax()) == token
        sequence.append(token)
