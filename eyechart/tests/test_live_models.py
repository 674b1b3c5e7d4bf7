"""Scores of live models of several families on batches of a collator, against the models' own forward passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import eyechart
from collators import collate, load, own_losses, picture
from eyechart.api.live import LiveArguments, batches_of
from eyechart.exits import InputError
from eyechart.models import opening
from eyechart.models.doors import GateDoor, OfficialDoor, PixelDoor, parameters_of
from eyechart.models.gate import FeatureGate
from eyechart.models.layout import LayoutError
from eyechart.models.live import LiveScorer
from eyechart.models.opening import open_live
from eyechart.results import Results
from eyechart.scoring.ablation import ablate
from eyechart.scoring.plan import Plan
from eyechart.scoring.summary import Scores
from eyechart.settings import AblationSettings
from eyechart.trainers.looking import Looking
from saved_models import Saved, data, saved, settings
from tiny_architectures import ARCHITECTURES

__all__ = ["data", "saved"]
CLOSE = {"rtol": 0, "atol": 1e-4}


def scored(scorer: LiveScorer, conditions: tuple[str, ...] = ("correct", "shuffled"), rounds: int = 1) -> Scores:
    with scorer.live.running():
        return ablate(scorer, scorer.batches, Plan(conditions, AblationSettings(derangements=rounds)))[1]


def agrees(scores: Scores, condition: str, expected: list[torch.Tensor]) -> None:
    for score, own_T in zip(scores, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(score.nll[condition][0]).float(), own_T, **CLOSE)


CASES = [(name, "best") for name in sorted(ARCHITECTURES)]
CASES += [(name, door) for name in ("qwen3_vl", "idefics3") for door in ("gate", "pixels")]


@pytest.mark.parametrize(("name", "door"), CASES)
def test_losses_are_those_of_the_models_own_forward_with_the_own_and_with_the_wrong_picture(
    saved: Saved, name: str, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load(saved, name)
    kinds: dict[str, Any] = {"best": opening.feature_doors(model), "gate": [GateDoor], "pixels": []}
    monkeypatch.setattr(opening, "feature_doors", lambda _: kinds[door])
    pictures = [[picture(row)] for row in range(4)]
    batch = collate(processor, pictures)
    scorer = open_live(model, [batch], processor)
    official = "mm_encoder_outputs" in parameters_of(model)
    expected = {"best": OfficialDoor if official else GateDoor, "gate": GateDoor, "pixels": PixelDoor}
    assert type(scorer.door) is expected[door]
    scores, answer_BT = scored(scorer), scorer.sources[0].answers.answer_BT
    agrees(scores, "correct", own_losses(model.eval(), batch, answer_BT))
    wrong = collate(processor, [pictures[score.donors[0]] for score in scores])
    agrees(scores, "shuffled", own_losses(model, {**wrong, "input_ids": batch["input_ids"]}, answer_BT))


def test_donors_of_the_own_grid_come_first_and_others_are_resampled_and_counted(saved: Saved) -> None:
    model, processor = load(saved, "qwen3_vl")
    sizes = [(36, 30), (36, 30), (36, 30), (20, 44)]
    batch = collate(processor, [[picture(row, *size)] for row, size in enumerate(sizes)])
    scorer = open_live(model, [batch], processor)
    with scorer.live.running():
        ablation, scores = ablate(
            scorer, scorer.batches, Plan(("correct", "shuffled"), AblationSettings(derangements=1))
        )
    (found,) = [remark for remark in ablation.remarks if remark.code == "donors-resampled"]
    assert (found.figures, len(scores)) == ({"resampled": 2, "donors": 4}, 4)
    agrees(scores, "correct", own_losses(model.eval(), batch, scorer.sources[0].answers.answer_BT))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_several_images_and_of_none_have_the_losses_of_the_own_forward(saved: Saved, side: str) -> None:
    model, processor = load(saved, "qwen2_5_vl")
    pictures = [[picture(0), picture(1, 20, 44)], [], [picture(2)], [picture(3), picture(4)], [picture(5)]]
    batch = collate(processor, pictures, side)
    scorer = open_live(model, [batch], processor)
    scores = scored(scorer)
    answer_BT = scorer.sources[0].answers.answer_BT
    own = own_losses(model.eval(), batch, answer_BT)
    assert ([score.row for score in scores], scorer.text_rows) == ([0, 2, 3, 4], 1)
    agrees(scores, "correct", [own[score.row] for score in scores])
    donors = {score.row: scores[score.donors[0]].row for score in scores}
    assert donors[2] == 4 and donors[4] == 2
    wrong = [pictures[donors[row]] if row in (2, 4) else shown for row, shown in enumerate(pictures)]
    swapped = own_losses(model, {**collate(processor, wrong, side), "input_ids": batch["input_ids"]}, answer_BT)
    for score in scores:
        if score.row in (2, 4):
            torch.testing.assert_close(torch.from_numpy(score.nll["shuffled"][0]).float(), swapped[score.row], **CLOSE)


def mllama() -> nn.Module:
    """A model whose images enter by cross-attention: neither `get_image_features` nor image features in the text."""
    text = {
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": 300, "cross_attention_layers": [1, 3]},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    vision = {
        **{"hidden_size": 24, "attention_heads": 2, "num_hidden_layers": 2, "num_global_layers": 1},
        **{"intermediate_size": 32, "vision_output_dim": 48, "image_size": 28, "patch_size": 14, "max_num_tiles": 2},
        **{"supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "intermediate_layers_indices": [0]},
    }
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=299)
    torch.manual_seed(0)
    model = transformers.MllamaForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        nn.init.normal_(weight, std=0.25) if weight.dim() > 1 else nn.init.ones_(weight) if "gate" in name else None
    return model


def test_a_model_without_image_features_is_scored_by_pixels() -> None:
    model, generator = mllama(), torch.Generator().manual_seed(0)
    ids_BT = torch.randint(3, 200, (4, 12), generator=generator)
    ids_BT[:, 0], ids_BT[:, 1] = 1, 299
    batch = {
        "input_ids": ids_BT,
        "attention_mask": torch.ones_like(ids_BT),
        "labels": torch.where(torch.arange(12) < 6, -100, ids_BT),
        "pixel_values": torch.randn(4, 1, 2, 3, 28, 28, generator=generator),
        "aspect_ratio_ids": torch.ones(4, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.tensor([[[1, 0]]] * 4),
        "cross_attention_mask": torch.tensor([1, 0]).expand(4, 12, 1, 2).clone(),
    }
    scorer = open_live(model, [batch])
    scores, answer_BT = scored(scorer), scorer.sources[0].answers.answer_BT
    assert isinstance(scorer.door, PixelDoor)
    agrees(scores, "correct", own_losses(model, batch, answer_BT))
    wrong = batch["pixel_values"][[score.donors[0] for score in scores]]
    agrees(scores, "shuffled", own_losses(model, {**batch, "pixel_values": wrong}, answer_BT))


def standing(results: Results) -> dict[str, float | None]:
    assert results.ablation is not None
    return {name: condition.loss for name, condition in results.ablation.conditions.items()}


FEW = eyechart.ScoreSettings(ablation=eyechart.AblationSettings(derangements=1, gallery=0, batch_size=3))


def test_a_loader_a_data_set_and_batches_give_the_same_batches(saved: Saved) -> None:
    model, processor = load(saved, "llava")
    pictures = [[picture(row)] for row in range(6)]

    class Pictures(Dataset[int]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, place: int) -> int:
            return place

    def collate_fn(places: list[int]) -> dict[str, Any]:
        return collate(processor, [pictures[place] for place in places], first=places[0])

    batches = [collate_fn([0, 1, 2]), collate_fn([3, 4, 5])]
    loader = DataLoader(Pictures(), batch_size=3, collate_fn=collate_fn)
    expected = [batch["pixel_values"] for batch in batches]
    given: list[tuple[Any, Any]] = [(iter(batches), None), (loader, None), (Pictures(), collate_fn)]
    for rows, collating in given:
        found, _ = batches_of(rows, LiveArguments(processor, collating, None, FEW))
        assert all(torch.equal(batch["pixel_values"], own) for batch, own in zip(found, expected, strict=True))
    assert standing(eyechart.score(model, loader, "zero", processor=processor)).keys() == {"correct", "zero"}
    assert open_live(model, loader, processor, most=2).batches[-1].samples[-1].row == 2
    with pytest.raises(InputError, match="collate_fn"):
        eyechart.score(model, Pictures(), processor=processor)
    with pytest.raises(InputError, match="at least one batch"):
        eyechart.score(model, [], processor=processor)


def test_rows_and_a_processor_give_all_conditions_and_need_the_processor(saved: Saved, data: Path) -> None:
    model, processor = load(saved, "llava")
    rows = eyechart.read_rows(data / "data.json", image_root=data)[0][:4]
    model.train()
    results = eyechart.score(model, rows, processor=processor, settings=FEW)
    assert {"no-image", "grey", "tiles-4"} <= set(standing(results)) and model.training
    by_name = eyechart.score(saved.folder("llava"), rows, settings=settings(ablation__batch_size=3))
    assert standing(results) == pytest.approx(standing(by_name), abs=1e-5)
    with pytest.raises(InputError, match="processor"):
        eyechart.score(model, rows)


def test_what_a_batch_does_not_allow_is_left_out_with_its_reason(saved: Saved) -> None:
    model, processor = load(saved, "llava")
    results = eyechart.score(model, collate(processor, [[picture(row)] for row in range(4)]), processor=processor)
    door = "encoder-outputs" if "mm_encoder_outputs" in parameters_of(model) else "image-features"
    assert results.ablation is not None and results.ablation.door == door
    left_out = {remark.about: remark.code for remark in results.ablation.remarks if remark.left_out}
    assert left_out == dict.fromkeys(("no-image", "grey", "blurred", "tiles-4"), "needs-rows")
    assert {"mean-token", "slot-mix"} <= set(results.ablation.conditions)
    codes = {remark.code for remark in results.ablation.remarks}
    assert {f"door-{door}", "answers-only", "mean-of-scored-images", "self-tests-passed"} <= codes


class Wrapped(nn.Module):
    """Like the wrappers of trainers: any argument is accepted."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class DistributedDataParallel(Wrapped):
    """Its name is how a wrapper is recognised."""


class OptimizedModule(nn.Module):
    """As `torch.compile` returns it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


class FullyShardedDataParallel(Wrapped):
    """A wrapper that is refused."""


def test_wrappers_are_removed_and_those_that_do_more_are_refused(saved: Saved) -> None:
    model, processor = load(saved, "llava")
    batch = collate(processor, [[picture(row)] for row in range(3)])
    plain = standing(eyechart.score(model, batch, "zero", processor=processor))
    wrapped = OptimizedModule(DistributedDataParallel(torch.nn.DataParallel(model)))
    assert standing(eyechart.score(wrapped, batch, "zero", processor=processor)) == plain
    with pytest.raises(InputError, match="FullyShardedDataParallel"):
        eyechart.score(FullyShardedDataParallel(model), batch, processor=processor)


def test_packed_rows_and_rows_without_answers_are_refused_in_one_line(saved: Saved) -> None:
    model, processor = load(saved, "llava")
    batch = collate(processor, [[picture(row)] for row in range(3)])
    packed = {**batch, "cu_seq_lens_q": torch.tensor([0, 4, 9])}
    with pytest.raises(InputError, match="packed rows are not supported"):
        eyechart.score(model, packed, processor=processor)
    unlabelled = {key: value for key, value in batch.items() if key != "labels"}
    with pytest.raises(InputError, match="no answer token"):
        eyechart.score(model, unlabelled)


def test_a_batch_without_pixels_is_never_a_pass_and_has_a_finding(saved: Saved) -> None:
    model, processor = load(saved, "llava")
    batch = collate(processor, [[picture(row)] for row in range(3)])
    del batch["pixel_values"]
    results = eyechart.score(model, batch, "runbook", processor=processor)
    assert results.verdict != "PASS" and results.diagnosis[0].code == "pixels-unused"


def test_a_model_that_cannot_handle_a_row_alone_is_scored_by_pixels(saved: Saved) -> None:
    model, processor = load(saved, "llava")

    def crowd_only(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        if len(given["input_ids"]) == 1:
            raise RuntimeError("one row is too few")

    model.register_forward_pre_hook(crowd_only, with_kwargs=True)
    scorer = open_live(model, [collate(processor, [[picture(row)] for row in range(3)])], processor)
    (reason,) = {r.figures["reason"] for r in scorer.describe().remarks if r.code == "other-door-failed"}
    assert isinstance(scorer.door, PixelDoor) and reason == "a row alone raised RuntimeError: one row is too few"


def test_a_row_with_fewer_image_positions_than_features_is_named(saved: Saved) -> None:
    model, processor = load(saved, "internvl")
    scorer = open_live(model, [collate(processor, [[picture(row)] for row in range(3)])], processor)
    (batch,) = scorer.batches
    own = scorer.door.take

    def takes_less(part: Any) -> Any:
        if part.place == 1:
            raise LayoutError("3 image features for 4 image positions")
        return own(part)

    scorer.door.take = takes_less  # type: ignore[method-assign]
    with pytest.raises(InputError, match="image features of row 1 have an unexpected form: 3 image features"):
        scorer.encode(batch)


def test_two_looks_at_the_same_weights_are_equal(saved: Saved) -> None:
    model, processor = load(saved, "qwen2_5_vl")
    looking = Looking(model, [collate(processor, [[picture(row)] for row in range(4)])], processor, 7, 0)
    first, again = looking.look(1), looking.look(1)
    assert first.model_copy(update={"seconds": 0.0}) == again.model_copy(update={"seconds": 0.0})


def test_rows_of_a_model_without_image_features_are_scored_by_pixels(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load(saved, "qwen2_5_vl")
    rows = eyechart.read_rows(data / "data.json", image_root=data)[0][:4]
    rows = [replace(row, caption=row.caption.replace("<|im_end|>", "")) for row in rows]
    by_features = standing(eyechart.score(model, rows, "shuffled", processor=processor, settings=FEW))
    monkeypatch.setattr(FeatureGate, "fits", lambda _: False)
    results = eyechart.score(model, rows, "shuffled", processor=processor, settings=FEW)
    assert results.ablation is not None and results.ablation.door == "pixels"
    assert standing(results)["correct"] == pytest.approx(by_features["correct"], abs=1e-4)
    with pytest.raises(InputError, match="row 0: rows with several turns or images"):
        eyechart.score(model, [replace(rows[0], more_images=("b.png",))], processor=processor)


def test_a_data_set_without_a_length_is_refused_in_one_line(saved: Saved) -> None:
    model, processor = load(saved, "llava")

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([])

    with pytest.raises(InputError, match="Stream has no length, .*; pass a DataLoader of it"):
        eyechart.score(model, Stream(), "runbook", processor=processor, collate_fn=dict, settings=FEW)
