"""Any image-text-to-text model adapted to the scoring seam: seven architectures at tiny width, loaded as real ones
are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

from eyechart.faults.probes import diagnose_probes, probe
from eyechart.models.loading import NamedModel, load_model
from eyechart.models.selftests import refuse_unfit
from eyechart.scoring.batching import collate, without_block
from eyechart.scoring.encoding import OTHER_TOKENS
from eyechart.seam import IGNORE_INDEX, Batch, VisualTokens
from saved_models import Saved, batch_of, data, saved, settings
from tiny_architectures import ARCHITECTURES

__all__ = ["data", "saved"]


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, saved: Saved) -> NamedModel:
    return saved.load(request.param)


def picture(batch: Batch, index: int) -> Image.Image:
    assert batch.pixels_BCHW is not None
    return Image.fromarray(batch.pixels_BCHW[index].permute(1, 2, 0).numpy())


def own_inputs(model: NamedModel, batch: Batch, index: int) -> dict[str, Any]:
    """What the model's processor makes of prompt, picture and caption in one go, the way transformers documents it."""
    sample, processor = batch.samples[index], model.processor
    human = "Describe the picture." if sample.row % 2 == 0 else "What is this?"
    image = picture(batch, index)
    options: dict[str, Any] = (
        {"do_image_splitting": False} if hasattr(processor.image_processor, "do_image_splitting") else {}
    )
    options |= {"crop_to_patches": False} if hasattr(processor.image_processor, "crop_to_patches") else {}
    if not processor.chat_template:
        text = f"<image>{human}"
        return dict(processor(text=[text], images=[[image]], suffix=[sample.caption], return_tensors="pt"))
    parts = [{"type": "image"}, {"type": "text", "text": human}]
    turns = [
        {"role": "user", "content": parts if sample.row % 2 else parts[::-1]},
        {"role": "assistant", "content": [{"type": "text", "text": sample.caption}]},
    ]
    text = processor.apply_chat_template(turns, tokenize=False)
    return dict(processor(text=[text], images=[[image]], return_tensors="pt", add_special_tokens=False, **options))


@torch.no_grad()
def own_nll(model: NamedModel, inputs: dict[str, Any], positions: range) -> torch.Tensor:
    """Cross-entropy of the tokens at these positions by the untouched model."""
    inputs = {key: value for key, value in inputs.items() if key != "labels"}
    logits_TK = model.scorer.model(**inputs).logits[0]
    ids_T = inputs["input_ids"][0]
    return F.cross_entropy(
        logits_TK[positions.start - 1 : positions.stop - 1], ids_T[positions.start : positions.stop], reduction="none"
    )


def test_every_architecture_passes_its_self_tests(model: NamedModel, data: Path) -> None:
    refuse_unfit(model.scorer, batch_of(model, data, 2))


def test_the_loss_of_the_own_picture_is_the_untouched_models_on_its_own_processors_inputs(
    model: NamedModel, data: Path
) -> None:
    batch = batch_of(model, data)
    got = model.scorer.nll(batch, model.scorer.encode(batch)).per_sample()
    for index, sample in enumerate(batch.samples):
        if "<|im_end|>" in sample.caption:
            continue  # the processor alone would read it as the end of the turn
        inputs = own_inputs(model, batch, index)
        ids_T, first = inputs["input_ids"][0].numpy(), int(np.argmax(sample.labels_T != IGNORE_INDEX))
        length = min(len(ids_T), len(sample.ids_T))
        if model.prompts.ending.lead:
            length -= 1  # this template ends a turn with a space where EOS is scored
        assert length >= len(sample.ids_T) - 1
        np.testing.assert_array_equal(ids_T[:length], sample.ids_T[:length])
        want_N = own_nll(model, inputs, range(first, length))
        torch.testing.assert_close(got[index][: len(want_N)], want_N, atol=1e-4, rtol=0)


def test_no_image_is_the_models_own_prompt_without_an_image(model: NamedModel, data: Path) -> None:
    if not model.prompts.has_template:
        pytest.skip("its processor cannot make a prompt without an image")
    batch = batch_of(model, data, 1)
    sample = batch.samples[0]
    text = model.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "Describe the picture."}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    prompt = model.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *sample.labels_T[sample.labels_T != IGNORE_INDEX].tolist()]])
    want_N = own_nll(model, {"input_ids": ids}, range(len(prompt), ids.shape[1]))
    text = without_block(batch, model.prompts.begin_id)
    torch.testing.assert_close(model.scorer.nll(text, None).nll_N, want_N, atol=1e-4, rtol=0)


def test_zeros_and_another_picture_change_the_loss(model: NamedModel, data: Path) -> None:
    batch = batch_of(model, data)
    visual = model.scorer.encode(batch)
    assert all(layer.shape[:2] == (4, model.scorer.tokens) for layer in visual.layers)
    own, other, zero = (
        model.scorer.nll(batch, v).nll_N for v in (visual, visual.rows([1, 2, 3, 0]), visual.map(torch.zeros_like))
    )
    assert (own - other).abs().max() > 1e-3
    assert (own - zero).abs().max() > 1e-3


def test_a_batch_gives_what_its_samples_give_alone(model: NamedModel, data: Path) -> None:
    batch = batch_of(model, data)
    scorer, visual = model.scorer, model.scorer.encode(batch)
    alone = [collate([sample], model.prompts.begin_id) for sample in batch.samples]
    for layer, *singles in zip(visual.layers, *(scorer.encode(single).layers for single in alone), strict=True):
        torch.testing.assert_close(layer, torch.cat(singles), atol=1e-4, rtol=0)
    for seen in (visual, None):
        whole = batch if seen is not None else without_block(batch, model.prompts.begin_id)
        got = scorer.nll(whole, seen).per_sample()
        for index, single in enumerate(alone):
            if seen is None:
                single = without_block(single, model.prompts.begin_id)
            want = scorer.nll(single, None if seen is None else seen.rows([index])).nll_N
            torch.testing.assert_close(got[index], want, atol=1e-4, rtol=0)


def test_a_model_whose_features_depend_on_the_place_in_a_batch_encodes_each_image_alone(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = transformers.LlavaModel
    own = kind.get_image_features

    def placed(self: Any, *arguments: Any, **options: Any) -> Any:
        found = own(self, *arguments, **options)
        parts = getattr(found, "pooler_output", found)
        parts = (
            type(parts)(part + index for index, part in enumerate(parts))
            if isinstance(parts, list | tuple)
            else (parts + torch.arange(len(parts))[:, None, None])
        )
        if parts is not found and hasattr(found, "pooler_output"):
            found.pooler_output = parts
            return found
        return parts

    plain = saved.load("llava")
    monkeypatch.setattr(kind, "get_image_features", placed)
    model = load_model(str(saved.folder("llava")), settings())
    assert model.scorer.one_by_one and not plain.scorer.one_by_one
    batch = batch_of(model, data)
    assert torch.equal(model.encode(batch).layers[0][3], model.encode(batch.rows([3])).layers[0][0])


def test_a_processor_whose_image_inputs_depend_on_the_prompt_is_refused(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = transformers.LlavaProcessor
    own = kind.__call__

    def with_prompt(self: Any, *arguments: Any, **options: Any) -> Any:
        made = own(self, *arguments, **options)
        made["pixel_values"] = made["pixel_values"] + made["input_ids"].shape[1]
        return made

    monkeypatch.setattr(kind, "__call__", with_prompt)
    with pytest.raises(ValueError, match=r"its inputs for an image depend on the prompt \(pixel_values\)"):
        load_model(str(saved.folder("llava")), settings())


def test_every_depth_of_deepstack_features_is_replaced(saved: Saved, data: Path) -> None:
    model = saved.load("qwen3_vl")
    batch = batch_of(model, data)
    visual = model.scorer.encode(batch)
    assert len(visual.layers) == model.scorer.layers == 3
    own = model.scorer.nll(batch, visual).nll_N
    for depth in range(3):
        layers = tuple(torch.zeros_like(v) if d == depth else v for d, v in enumerate(visual.layers))
        assert (model.scorer.nll(batch, VisualTokens(layers)).nll_N - own).abs().max() > 1e-3


def refusal(model: NamedModel, data: Path) -> str:
    with pytest.raises(ValueError) as refused:
        refuse_unfit(model.scorer, batch_of(model, data, 2))
    assert "\n" not in str(refused.value) and model.name in str(refused.value)
    return str(refused.value)


def test_a_model_that_lets_the_picture_past_its_features_is_refused(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved.load("llava")
    inner, own = model.scorer.model, model.scorer.model.forward

    def leaky(*arguments: Any, pixel_values: torch.Tensor | None = None, **options: Any) -> Any:
        out = own(*arguments, pixel_values=pixel_values, **options)
        out.logits[..., 0] += 0 if pixel_values is None else pixel_values.mean()
        return out

    monkeypatch.setattr(inner, "forward", leaky)
    assert "self-test `leak`: inverted pixels change a loss" in refusal(model, data)


def test_a_model_that_computes_its_features_and_ignores_them_is_refused(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved.load("llava")
    inner: Any = model.scorer.model.model
    own = inner.forward

    def ignorant(*arguments: Any, pixel_values: torch.Tensor | None = None, **options: Any) -> Any:
        if pixel_values is not None:
            inner.get_image_features(
                pixel_values=pixel_values, vision_feature_layer=-2, vision_feature_select_strategy="default"
            )
        return own(*arguments, pixel_values=None, **options)

    monkeypatch.setattr(inner, "forward", ignorant)
    assert "self-test `sentinel`" in (message := refusal(model, data))
    assert "it ignores its image" in message


def test_a_model_that_never_asks_for_image_features_gets_other_pixels_which_change_nothing(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = transformers.LlavaForConditionalGeneration
    own = kind.forward

    def blind(self: Any, input_ids: Any = None, pixel_values: Any = None, **options: Any) -> Any:
        return own(self, input_ids=input_ids, **options)

    monkeypatch.setattr(kind, "forward", blind)
    model = load_model(str(saved.folder("llava")), settings())
    batch = batch_of(model, data)
    model.self_test(batch.rows([0, 1]))
    assert model.describe().door == "pixels" and "does not compute them" in model.scorer.why_pixels
    visual = model.encode(batch)
    own, other = (model.nll(batch, seen).nll_N for seen in (visual, visual.rows([1, 2, 3, 0])))
    assert torch.equal(own, other)


def test_a_model_that_reads_its_caption_ahead_is_refused(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved.load("paligemma")
    assert model.scorer.prefix_attention
    monkeypatch.setattr(model.scorer, "_types", {"token_type_ids": (0, 0, 0)})
    assert "self-test `causal`: replaced caption tokens change a loss before them" in refusal(model, data)


def test_a_model_whose_rows_get_mixed_up_is_refused(saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved.load("internvl")
    put = type(model.scorer._layout).put
    monkeypatch.setattr(
        type(model.scorer._layout), "put", lambda self, visual: put(self, visual.map(lambda layer: layer.flip(0)))
    )
    assert "self-test `own features`" in refusal(model, data)


def test_a_model_that_breaks_on_features_of_others_is_refused_not_crashed(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved.load("gemma3")
    monkeypatch.setattr(type(model.scorer._layout), "put", lambda self, visual: object())
    assert "it raised AttributeError" in refusal(model, data)


def test_an_image_with_another_number_of_positions_is_rejected_by_name(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved.load("llava")
    monkeypatch.setattr(model.scorer, "image_positions", lambda pixels: [5])
    batch = batch_of(model, data)
    assert len(batch) == 0
    item = batch.rejects[3]
    assert (item.row, item.reason) == (3, OTHER_TOKENS)
    assert item.detail == "images/00003.png: 5 image positions, but all others have 4"


def test_all_ways_through_a_sound_model_are_found_sound(model: NamedModel, data: Path) -> None:
    probes = probe(model, batch_of(model, data))
    assert probes.text.horizon == 1 and probes.tokens.nan_share == 1
    assert diagnose_probes(probes) == []
