"""The preflight names what is wrong with prompts, image blocks, captions and labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eyechart.data.encoded import Encoded, Prompt
from eyechart.seam import IGNORE_INDEX
from preflight_world import ASSETS, World, bad, caption_of, first, human
from qwen3_vlm.build import prepare_data
from qwen3_vlm.data.prompt import PromptBuilder
from qwen3_vlm.models.llm import LanguageModel
from qwen3_vlm.preflight import run as run_room
from qwen3_vlm.preflight.text import Tokens
from qwen3_vlm.preflight.text_prompt import token_findings

Patch = pytest.MonkeyPatch


def relabel(monkeypatch: Patch, change: Callable[[Any, Any], Any]) -> None:
    """`labels_T` of every row becomes change(labels, encoded)."""
    labels_T = Encoded.labels_T.fget
    assert labels_T is not None
    monkeypatch.setattr(Encoded, "labels_T", property(lambda e: change(labels_T(e), e)))


def block_too(labels_T: Any, encoded: Any) -> Any:
    start, end = encoded.block
    labels_T[start:end] = encoded.ids_T[start:end]
    return labels_T


def prompt_too(labels_T: Any, encoded: Any) -> Any:
    labels_T[encoded.block[1] :] = encoded.ids_T[encoded.block[1] :]
    return labels_T


def without_first(labels_T: Any, encoded: Any) -> Any:
    labels_T[len(encoded.prompt.ids_T) :][:2] = IGNORE_INDEX
    return labels_T


def without_last(labels_T: Any, encoded: Any) -> Any:
    labels_T[-1] = IGNORE_INDEX
    return labels_T


def rolled(labels_T: Any, encoded: Any) -> Any:
    return np.append(labels_T[1:], IGNORE_INDEX)


LABELS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "everything": ("image-labelled", lambda labels_T, e: e.ids_T),
    "image": ("image-labelled", block_too),
    "prompt": ("prompt-labelled", prompt_too),
    "not the first words": ("answer-partly-labelled", without_first),
    "not EOS": ("eos-unlabelled", without_last),
    "nothing": ("no-labels", lambda labels_T, e: np.full_like(labels_T, IGNORE_INDEX)),
    "one early": ("labels-shifted", rolled),
    "one late": ("labels-unshifted", lambda labels_T, e: np.append(IGNORE_INDEX, labels_T[:-1])),
}


@pytest.mark.parametrize(("code", "change"), LABELS.values(), ids=LABELS.keys())
def test_wrong_labels_are_named(world: World, monkeypatch: Patch, code: str, change: Callable[[Any, Any], Any]) -> None:
    relabel(monkeypatch, change)
    assert first(world.find()) == code


def test_labels_moved_in_the_data_and_not_again_in_the_loss_are_sound(world: World, monkeypatch: Patch) -> None:
    relabel(monkeypatch, rolled)
    nll = LanguageModel.nll

    def moved_back(self: Any, embeds_BTE: Any, labels_BT: Any) -> Any:
        return nll(self, embeds_BTE, torch.roll(labels_BT, 1, dims=1))

    monkeypatch.setattr(LanguageModel, "nll", moved_back)
    assert bad(world.find()) == []


def test_a_caption_without_its_end_is_named(world: World, monkeypatch: Patch) -> None:
    answers = PromptBuilder._answers
    monkeypatch.setattr(PromptBuilder, "_answers", lambda self, captions: (a[:-1] for a in answers(self, captions)))
    assert first(world.find()) == "eos-unlabelled"


def test_captions_shortened_on_the_way_are_named(world: World, monkeypatch: Patch) -> None:
    answers = PromptBuilder._answers
    monkeypatch.setattr(PromptBuilder, "_answers", lambda self, captions: (a[:3] for a in answers(self, captions)))
    assert first(world.find()) == "answer-truncated"


def test_captions_changed_on_the_way_are_named_as_their_own(world: World, monkeypatch: Patch) -> None:
    answers = PromptBuilder._answers
    monkeypatch.setattr(PromptBuilder, "_answers", lambda self, texts: answers(self, [t.lower() for t in texts]))
    found = world.find()
    assert first(found) == "answer-partly-labelled"
    assert "it was changed" in found[0].message


def test_samples_padded_on_the_left_are_named_as_such(world: World, monkeypatch: Patch) -> None:
    collate = run_room.collate

    def left(items: Any, pad_id: int) -> Any:
        batch = collate(items, pad_id)
        width = batch.ids_BT.shape[1]
        moved = {
            name: torch.stack([row.roll(width - int(n)) for row, n in zip(values, batch.lengths_B, strict=True)])
            for name, values in (("ids_BT", batch.ids_BT), ("labels_BT", batch.labels_BT), ("block_BT", batch.block_BT))
        }
        return replace(batch, **moved)

    monkeypatch.setattr(run_room, "collate", left)
    found = world.find()
    assert first(found) == "batch-dependent"
    assert [f.code for f in found if f.severity == "error"] == ["batch-dependent"]


@pytest.mark.parametrize(("every", "severity"), [(2, "error"), (40, "warning")])
def test_captions_that_stand_in_their_own_request_are_a_leak(world: World, every: int, severity: str) -> None:
    def hint(row: Any, i: int) -> None:
        if i % every == 0:
            row["conversations"][0]["value"] = f"<image>\nHint: {row['conversations'][1]['value'].upper()}!"

    world.change(hint)
    changes = {"prompt__template": "{human}\n", "data__max_rejected": 0.05}
    assert first(world.find(**changes), severity) == "leak"
    assert "leak" not in bad(world.find(prompt__template="<image>\n")), "the model is not shown that human turn"


def test_requests_that_list_all_answers_are_no_leak_by_themselves(world: World) -> None:
    every = "; ".join(sorted({caption_of(row) for row in range(30)}))
    world.change(lambda row, i: row["conversations"][0].update(value=f"<image>\nOne of: {every}."))
    assert "leak" not in bad(world.find(prompt__template="{human}\n", data__max_seq_len=2048))


def test_rows_with_several_exchanges_are_no_rows_without_captions(world: World) -> None:
    more = [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]
    world.change(lambda row, i: row["conversations"].extend(more if i % 5 == 0 else []))
    with pytest.raises(ValueError, match="several exchanges"):
        world.find()
    assert bad(world.find(data__max_rejected=0.3)) == []


def test_input_tokens_that_are_replaced_behind_the_labels_are_named(world: World, monkeypatch: Patch) -> None:
    collate = run_room.collate

    def masking(items: Any, pad_id: int) -> Any:
        batch = collate(items, pad_id)
        hidden_BT = (batch.labels_BT != IGNORE_INDEX) & (torch.arange(batch.ids_BT.shape[1]) % 4 == 0)
        return replace(batch, ids_BT=torch.where(hidden_BT, torch.full_like(batch.ids_BT, 70), batch.ids_BT))

    monkeypatch.setattr(run_room, "collate", masking)
    found = world.find()
    assert first(found) == "loss-altered"
    assert "the model reads" in found[0].message


def test_captions_of_other_rows_are_named(world: World, monkeypatch: Patch) -> None:
    answers = PromptBuilder._answers

    def moved(self: Any, captions: Any) -> Any:
        found = list(answers(self, captions))
        return found[1:] + found[:1]

    monkeypatch.setattr(PromptBuilder, "_answers", moved)
    assert first(world.find()) == "pairs-mismatched"


@pytest.mark.parametrize(("limit", "code"), [(10, "no-labels"), (16, "answer-truncated"), (8, "image-truncated")])
def test_a_limit_that_is_too_short_is_named_by_what_it_cuts(world: World, limit: int, code: str) -> None:
    world.change(human("Describe the picture, please.\n<image>" if code == "image-truncated" else "<image>\nWhat?"))
    found = world.find(data__max_seq_len=limit)
    assert first(found) == code, [f.message for f in found]


def test_a_few_long_captions_are_a_note_with_the_limit_that_would_do(world: World) -> None:
    long = "A small red circle at the left " * 19
    world.change(lambda row, i: row["conversations"][1].update(value=long) if i == 5 else None)
    found = world.find(coverage__truncated_warn=2.0)
    assert [(f.code, f.severity) for f in found] == [("answer-truncated", "note")]
    would_do = found[0].evidence["would_do"]
    assert would_do > 96 and f"set data.max_seq_len to {would_do}," in found[0].fix
    assert world.find(coverage__truncated_warn=2.0, data__max_seq_len=would_do) == []


def test_the_limit_that_is_suggested_when_captions_are_cut_leaves_none_to_cut(world: World) -> None:
    (found,) = (f for f in world.find(data__max_seq_len=16) if f.code == "answer-truncated")
    assert found.severity == "error" and found.evidence["would_do"] > 16
    assert world.find(data__max_seq_len=found.evidence["would_do"]) == []


def test_a_prompt_that_is_no_prefix_of_the_whole_is_named(world: World, monkeypatch: Patch) -> None:
    prompt = PromptBuilder.prompt

    def thinking(self: Any, text: str) -> Prompt:
        made = prompt(self, text)
        return made._replace(ids_T=np.append(made.ids_T, made.ids_T[-1]))

    flight = world.config()
    prepared = prepare_data(flight)
    vlm = world.model(flight)
    monkeypatch.setattr(PromptBuilder, "prompt", thinking)
    assert first(run_room.preflight(prepared, vlm, rows=8).findings) == "template-unstable"


def test_another_number_of_image_positions_is_named(world: World) -> None:
    config = world.config(connector__latents=5)
    vlm = world.model(config)
    assert first(world.find(vlm)) == "placeholder-count"


def test_a_block_with_something_between_its_positions_is_named(world: World, monkeypatch: Patch) -> None:
    make = PromptBuilder.__init__

    def spaced(self: Any, *given: Any) -> None:
        make(self, *given)
        self._block = [part for token in self._block for part in (token, self._block[0])][:-1]

    monkeypatch.setattr(PromptBuilder, "__init__", spaced)
    assert first(world.find()) == "placeholder-split"


def test_a_tokenizer_without_the_image_token_is_named(world: World, tmp_path: Path) -> None:
    llm = shutil.copytree(ASSETS / "llm", tmp_path / "plain")
    tree = json.loads((llm / "tokenizer.json").read_text())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if t["content"] != "<|image_pad|>"]
    tree["model"]["vocab"].pop("<|image_pad|>", None)
    (llm / "tokenizer.json").write_text(json.dumps(tree))
    config = json.loads((llm / "tokenizer_config.json").read_text())
    for key in ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
        config.pop(key, None)
    (llm / "tokenizer_config.json").write_text(json.dumps(config))
    assert first(world.find(model__llm=str(llm))) == "placeholder-split"


def test_another_image_id_in_the_model_than_in_the_tokenizer_is_named(world: World) -> None:
    config = world.config()
    vlm = world.model(config)
    vlm.patch_id += 1
    assert first(world.find(vlm)) == "token-id-mismatch"


def test_an_id_without_an_embedding_is_named(world: World) -> None:
    config = world.config()
    vlm = world.model(config)
    vlm.llm.model.resize_token_embeddings(490)
    assert first(world.find(vlm)) == "token-id-mismatch"


def test_delimiters_that_copy_eos_are_a_warning(world: World) -> None:
    config = world.config()
    prepared = prepare_data(config)
    vlm = world.model(config)
    ids, table = prepared.inputs.prompts.ids, vlm.llm.model.get_input_embeddings().weight.data
    table[[ids.start, ids.end]] = table[ids.eos].clone()
    assert "special-token-is-eos" in bad(run_room.preflight(prepared, vlm, rows=8).findings)


@pytest.mark.parametrize("trained", [False, True])
def test_delimiters_that_are_one_and_the_same_are_a_warning_and_near_ones_are_not(world: World, trained: bool) -> None:
    config = world.config()
    prepared = prepare_data(config)
    vlm = world.model(config)
    ids, table = prepared.inputs.prompts.ids, vlm.llm.model.get_input_embeddings().weight.data
    apart = 0.2 if trained else 3e-5  # of the spread of all rows, as transformers draws new rows
    mean, spread = table.mean(0), table.std(0)
    for i in (ids.start, ids.end):
        table[i] = mean + apart * spread * torch.randn(mean.shape, generator=torch.Generator().manual_seed(i))
    found = token_findings(prepared, vlm, Tokens(prepared.inputs.tokenizer))
    assert [(f.code, f.severity) for f in found] == ([] if trained else [("delimiters-alike", "warning")])


def test_delimiters_that_both_copy_eos_are_not_named_twice(world: World) -> None:
    config = world.config()
    prepared = prepare_data(config)
    vlm = world.model(config)
    ids, table = prepared.inputs.prompts.ids, vlm.llm.model.get_input_embeddings().weight.data
    table[[ids.start, ids.end]] = table[ids.eos].clone()
    found = token_findings(prepared, vlm, Tokens(prepared.inputs.tokenizer))
    assert [f.code for f in found] == ["special-token-is-eos"]


def test_sequences_cut_on_the_left_are_named_by_the_image_they_lose(world: World, monkeypatch: Any) -> None:
    cut = property(lambda row: np.concatenate([row.prompt.ids_T, row.answer_N.astype(np.int64)])[-row.max_seq_len :])
    monkeypatch.setattr(Encoded, "ids_T", cut)
    assert first(world.find(data__max_seq_len=14)) == "image-truncated"


def test_a_tokenizer_whose_ids_mean_other_words_to_the_model_is_named(world: World, tmp_path: Path) -> None:
    llm = shutil.copytree(ASSETS / "llm", tmp_path / "llm")
    file = llm / "tokenizer.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    special = {token["content"] for token in tree["added_tokens"]}
    words = [word for word in tree["model"]["vocab"] if word not in special]
    ids = [tree["model"]["vocab"][word] for word in words]
    tree["model"]["vocab"].update(zip(words, reversed(ids), strict=True))
    file.write_text(json.dumps(tree), encoding="utf-8")
    assert [(f.code, f.severity) for f in world.find(model__llm=str(llm))] == [("token-id-mismatch", "warning")]


def test_captions_of_a_kind_that_neither_model_nor_tokenizer_learnt_are_a_warning_and_no_error(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value=f"Two men in suits at conference table {i}"))
    assert [(f.code, f.severity) for f in world.find()] == [("captions-unread", "warning")]


def test_captions_in_upper_case_are_named_by_their_case(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value=caption_of(i).upper()))
    (found,) = [f for f in world.find() if f.severity != "note"]
    assert (found.code, found.severity) == ("captions-unread", "warning") and "in lower case alone" in found.message
    assert found.evidence["in_lower_case"] < found.evidence["nats_per_token"] / 2


def test_captions_in_another_language_are_named_by_their_pieces(world: World) -> None:
    german = "Zwei kleine Katzen schlafen neben einem alten Ofen"
    world.change(lambda row, i: row["conversations"][1].update(value=f"{german} {i}"))
    (found,) = [f for f in world.find() if f.severity != "note"]
    assert (found.code, found.severity) == ("captions-unread", "warning")
    assert found.evidence["characters_per_token"] < 2.5


def test_captions_of_one_word_are_too_short_to_judge_the_language_model_by(world: World) -> None:
    words = ["seven", "circle", "yellow", "small", "dotted", "left", "ring", "blue", "eight", "cross"]
    world.change(lambda row, i: row["conversations"][1].update(value=words[i % 10]))
    assert bad(world.find()) == []
