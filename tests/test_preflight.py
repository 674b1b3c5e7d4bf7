"""The preflight names the fault that is there, and is silent where something only looks like one."""

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
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import dropout

from eyechart.data import dataset as dataset_room
from eyechart.data import images as images_room
from eyechart.data.encoded import Encoded, Prompt
from eyechart.results import Finding
from eyechart.seam import IGNORE_INDEX, TokenNLL, VisualTokens
from preflight_world import ASSETS, COLOURS, SIZES, World, caption_of, copy_world, make_world
from qwen3_vlm.build import prepare_data
from qwen3_vlm.data.prompt import PromptBuilder
from qwen3_vlm.models import vision
from qwen3_vlm.models import vlm as vlm_room
from qwen3_vlm.models.connector import Resampler
from qwen3_vlm.models.llm import LanguageModel
from qwen3_vlm.models.vision import VisionTower
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight import flow
from qwen3_vlm.preflight import run as run_room
from qwen3_vlm.preflight.twins import cached_twins

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("template"))


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    return copy_world(template, tmp_path)


def bad(found: list[Finding]) -> list[str]:
    return [f.code for f in found if f.severity != "note"]


def first(found: list[Finding], severity: str = "error") -> str:
    assert found, "nothing was found"
    assert found[0].severity == severity, [(f.code, f.severity, f.message) for f in found]
    return found[0].code


# --- sound set-ups --------------------------------------------------------------------------------------------------

SOUND: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one visual token": {"connector__latents": 1},
    "64 visual tokens": {"connector__latents": 64, "data__max_seq_len": 160},
    "a layer norm on the tower's features": {"connector__vision_ln": True, "connector__depth": 2},
    "key positions and normed output": {"connector__key_positions": True, "connector__output_norm": True},
    "the image before the prompt": {"prompt__template": "<image>\nWhat is it?\n"},
    "no prompt": {"prompt__template": "<image>"},
    "ChatML": {"prompt__template": "<|im_start|>user\n{human}<|im_end|>\n<|im_start|>assistant\n"},
    "the older image block": {"prompt__image_block": "legacy"},
    "bfloat16": {"model__precision": "bf16"},
    "bfloat16, normed output": {"model__precision": "bf16", "connector__output_norm": True},
    "no held-out rows": {"data__eval_ratio": 0.0},
    "few rows": {"data__max_samples": 3},
}


@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND.keys())
def test_a_sound_set_up_raises_nothing(world: World, changes: dict[str, Any]) -> None:
    flight = world.fly(**changes)
    assert flight.findings == []
    assert flight.batch >= 2


def test_an_untied_language_model_is_sound(world: World, tmp_path: Path) -> None:
    llm = shutil.copytree(ASSETS / "llm", tmp_path / "untied")
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = load_file(llm / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, llm / "model.safetensors", metadata={"format": "pt"})
    assert world.find(model__llm=str(llm)) == []


def test_many_equal_captions_by_nature_are_sound(world: World) -> None:
    """Ten classes, as in a data set of digits."""
    world.change(lambda row, i: row["conversations"][1].update(value=f"A {SIZES[i % 2]} {COLOURS[i % 5]} circle"))
    assert bad(world.find()) == []


def test_dark_and_single_odd_images_are_sound(world: World) -> None:
    for row in range(60):
        with Image.open(world.image(row)) as opened:
            dark = np.asarray(opened) // 64
        Image.fromarray(dark).save(world.image(row))
    Image.new("L", (80, 70), 200).save(world.image(3))
    Image.new("RGBA", (80, 70), (9, 9, 9, 100)).save(world.image(4))
    assert bad(world.find()) == []


def test_the_preflight_leaves_weights_gradients_and_the_generator_alone(world: World) -> None:
    config = world.config()
    prepared = prepare_data(config)
    vlm = world.model(config)
    before = {name: value.clone() for name, value in vlm.state_dict().items()}
    state = torch.get_rng_state()
    run_room.preflight(prepared, vlm, rows=8)
    assert all(torch.equal(value, before[name]) for name, value in vlm.state_dict().items())
    assert all(p.grad is None for p in vlm.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert vlm.training


# --- the data file --------------------------------------------------------------------------------------------------


def human(text: str, every: int = 1) -> Callable[[Any, int], object]:
    return lambda row, i: row["conversations"][0].update(value=text) if i % every == 0 else None


def test_rows_without_a_placeholder_are_named(world: World) -> None:
    world.change(human("Describe the picture."))
    assert first(world.find()) == "no-placeholder"


def test_one_row_without_a_placeholder_in_sixty_is_a_warning_where_five_percent_are_allowed(world: World) -> None:
    world.change(lambda row, i: row["conversations"][0].update(value="Say.") if i == 7 else None)
    assert first(world.find(data__max_rejected=0.05, data__eval_ratio=0.0), "warning") == "no-placeholder"


def test_two_placeholders_for_one_image_are_named(world: World) -> None:
    world.change(human("<image>\n<image>\nDescribe."))
    assert first(world.find()) == "placeholder-count"


def test_an_image_token_in_captions_is_named(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value="a <|image_pad|> cat"))
    assert first(world.find()) == "placeholder-in-caption"


def test_blank_captions_are_named_as_rows_without_labels(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value="  "))
    assert first(world.find()) == "no-labels"


def test_one_caption_for_everything_is_a_warning(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value="a picture"))
    assert first(world.find(), "warning") == "captions-degenerate"


def test_a_shared_id_is_a_warning(world: World) -> None:
    world.change(lambda row, i: row.update(id="7") if i < 50 else None)
    assert first(world.find(), "warning") == "duplicate-ids"


def test_ids_that_name_other_rows_images_are_named(world: World) -> None:
    names = [row["image"] for row in world.rows()]
    world.change(lambda row, i: row.update(image=names[i - 1]))
    assert first(world.find()) == "pairs-mismatched"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_text("<html>404</html>"),
        lambda path: Image.new("RGB", (50, 1)).save(path),
    ],
    ids=["missing", "empty", "truncated", "no image", "one pixel high"],
)
def test_images_that_cannot_be_read_are_named_by_share(world: World, damage: Callable[[Path], object]) -> None:
    damage(world.image(0))
    assert first(world.find(data__max_rejected=0.1), "warning") == "images-unreadable"
    for row in range(0, 60, 3):
        damage(world.image(row)) if row else None
    assert first(world.find(data__max_rejected=0.1)) == "images-unreadable"


def test_one_image_under_many_rows_is_a_warning(world: World) -> None:
    for row in range(20):
        shutil.copy(world.image(59), world.image(row))
    assert first(world.find(data__eval_ratio=0.0), "warning") == "images-degenerate"


def test_five_captions_per_image_are_sound(world: World) -> None:
    names = [row["image"] for row in world.rows()]
    world.change(lambda row, i: row.update(image=names[i // 5], id=f"caption {i}"))
    assert bad(world.find(data__eval_ratio=0.0)) == []


def test_blank_images_are_a_warning(world: World) -> None:
    for row in range(60):
        Image.new("RGB", (80, 70), (row, 7, 200)).save(world.image(row))
    assert "images-degenerate" in bad(world.find())


def test_held_out_images_under_another_name_in_training_are_a_leak(world: World) -> None:
    config = world.config()
    split = prepare_data(config).split
    for held_out, trained in zip(split.eval, split.train, strict=False):
        shutil.copy(world.image(held_out), world.image(trained))
    found = world.find()
    assert first(found) == "split-leak"
    assert found[0].evidence["same_bytes"] == len(split.eval)


def test_a_split_with_rows_on_both_sides_is_a_leak(world: World, monkeypatch: Patch) -> None:
    from qwen3_vlm import build

    draw = build.draw_split
    monkeypatch.setattr(build, "draw_split", lambda *a: replace(draw(*a), train=tuple(range(60))))
    assert first(world.find()) == "split-leak"


@pytest.mark.parametrize("how", ["compressed again", "JPEG", "half the size"])
def test_held_out_images_saved_again_in_training_are_a_leak(world: World, how: str) -> None:
    split = prepare_data(world.config()).split
    rows = world.rows()
    for held_out, trained in zip(split.eval, split.train, strict=False):
        with Image.open(world.image(held_out)) as image:
            smaller = image.resize((image.width // 2, image.height // 2)) if how == "half the size" else image
            kind = {"format": "JPEG", "quality": 80} if how == "JPEG" else {"format": "PNG", "compress_level": 0}
            smaller.save(world.image(trained), **kind)
        rows[trained]["conversations"] = rows[held_out]["conversations"]
    world.file.write_text(json.dumps(rows), encoding="utf-8")
    found = world.find()
    assert first(found) == "split-leak"
    assert found[0].evidence["rows"] == len(split.eval)


def test_a_placeholder_picture_on_both_sides_is_degenerate_and_no_leak(world: World) -> None:
    world.change(lambda row, i: row.update(image="images/000000000.png") if i % 5 < 2 else None)
    assert bad(world.find()) == ["images-degenerate"]


def test_pixels_that_many_training_rows_show_are_no_leak_but_those_of_one_are() -> None:
    train = [*(f"own {i}" for i in range(50)), *["not available"] * 10, ""]
    assert cached_twins(train, ["not available", "new", ""], allowed=0.01) == []
    (leak,) = cached_twins(train, ["not available", "own 3", "new"], allowed=0.01)
    assert leak.code == "split-leak" and leak.evidence == {"rows": 1, "of": 3}


def test_images_of_one_caption_that_are_alike_by_nature_are_a_note(world: World) -> None:
    """Drawings from one template: every image of a caption differs from the others by a little noise alone."""
    world.change(lambda row, i: row["conversations"][1].update(value=caption_of(i % 6)))
    for row in range(len(world.rows())):
        rng = np.random.default_rng(row)
        with Image.open(world.image(row % 6)) as drawing:
            pixels = np.asarray(drawing.convert("RGB")).astype(int)
        noise = rng.integers(-3, 4, pixels.shape)
        if row >= 6:
            Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(world.image(row))
    found = world.find()
    assert bad(found) == []
    assert [(f.code, f.severity) for f in found if f.code == "split-leak"] == [("split-leak", "note")]


def test_held_out_captions_in_other_words_are_a_warning(world: World) -> None:
    held_out = set(prepare_data(world.config()).split.eval)
    other = "Zwei kleine Katzen schlafen neben einem alten Ofen"
    world.change(lambda row, i: row["conversations"][1].update(value=f"{other} {i}") if i in held_out else None)
    assert [f.code for f in world.find() if f.severity == "warning"][0] == "held-out-differs"


def test_a_name_of_its_own_in_every_caption_makes_no_other_data_set(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value=f"{caption_of(i)} seen by Nr{i}X{i}"))
    assert "held-out-differs" not in bad(world.find())


def test_equal_captions_on_both_sides_are_no_leak(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value=caption_of(i % 10)))
    assert bad(world.find()) == []


# --- text and labels ------------------------------------------------------------------------------------------------


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


# --- pixels and towers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made, pixels, spec: made * 2 + 1, "mean, std or rescale"),
        (lambda made, pixels, spec: pixels.float(), "mean, std or rescale"),
        (lambda made, pixels, spec: pixels.float() / 255, "mean, std or rescale"),
        (lambda made, pixels, spec: made.flip(1), "red and blue"),
        (lambda made, pixels, spec: made.flip(3), "mirrored"),
        (lambda made, pixels, spec: made.roll(3, dims=2), "resized, cropped"),
    ],
)
def test_pixels_that_are_prepared_otherwise_are_named(
    world: World, monkeypatch: Patch, change: Callable[..., Any], said: str
) -> None:
    normalise = vision.normalise
    monkeypatch.setattr(vision, "normalise", lambda pixels, spec: change(normalise(pixels, spec), pixels, spec))
    found = world.find()
    assert first(found) == "wrong-preprocessing" and said in found[0].message


def test_another_resize_filter_is_named(world: World, monkeypatch: Patch) -> None:
    load = dataset_room.load_image
    nearest = lambda path, spec, most: load(path, replace(spec, resample=0), most)  # noqa: E731
    monkeypatch.setattr(dataset_room, "load_image", nearest)
    assert first(world.find()) == "wrong-preprocessing"


def test_a_preprocessor_file_of_another_kind_of_tower_is_a_warning(world: World, tmp_path: Path) -> None:
    tower = shutil.copytree(ASSETS / "vision", tmp_path / "tower")
    path = tower / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}))
    assert first(world.find(model__vision=str(tower)), "warning") == "wrong-preprocessing"


@pytest.mark.parametrize(
    "forward",
    [
        lambda old, self, pixels: torch.ones(len(pixels), self.patches, self.width),
        lambda old, self, pixels: old(self, torch.zeros_like(pixels)),
        lambda old, self, pixels: old(self, pixels[:1].expand_as(pixels)),
        lambda old, self, pixels: old(self, pixels) * 0 + 1,
    ],
    ids=["no tower", "black", "the first picture for all", "constant features"],
)
def test_pictures_that_do_not_reach_the_connector_are_named(
    world: World, monkeypatch: Patch, forward: Callable[..., Any]
) -> None:
    old = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: forward(old, self, pixels))
    assert first(world.find()) == "pixels-unused"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.mean(1, keepdim=True).expand_as(f), "all patches of an image have the same values"),
        (lambda f: f.flip(1), "in another order"),
        (lambda f: f + 0.5 * torch.randn(f.shape, generator=torch.Generator().manual_seed(0)), "times their size"),
        (lambda f: f[:, ::2], "their shape"),
    ],
    ids=["mean", "reversed", "noise", "every other"],
)
def test_features_that_are_changed_behind_the_tower_are_named(
    world: World, monkeypatch: Patch, change: Callable[[Any], Any], said: str
) -> None:
    old = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: change(old(self, pixels)))
    found = world.find(connector__key_positions=False)
    assert first(found) == "features-altered"
    assert said in found[0].message


def test_a_tower_whose_overflow_is_made_zero_is_named_as_not_finite(world: World, monkeypatch: Patch) -> None:
    vlm = world.model(world.config())
    next(vlm.tower.model.parameters()).data.mul_(1e38)
    old = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: old(self, pixels).nan_to_num(0.0, 0.0, 0.0))
    monkeypatch.setattr(run_room, "weight_findings", lambda *_: [])
    assert first(world.find(vlm)) == "non-finite"


@pytest.mark.parametrize("kept", [1, 16])
def test_patches_that_no_visual_token_reads_are_named(world: World, monkeypatch: Patch, kept: int) -> None:
    old = Resampler.forward

    def masked(self: Any, features_BPV: Any) -> Any:
        return old(self, torch.where(torch.arange(features_BPV.shape[1])[:, None] < kept, features_BPV, 0.0))

    monkeypatch.setattr(Resampler, "forward", masked)
    found = world.find()
    assert first(found) == "pixels-unused"
    assert f"{found[0].evidence['patches'] - kept} of the" in found[0].message


def test_sharp_attention_that_still_sees_every_patch_is_sound(world: World) -> None:
    vlm = world.model(world.config())
    for layer in vlm.connector.resampler.layers:
        layer.attn.in_proj_weight.data.mul_(3.0)
    assert bad(world.find(vlm)) == []


def test_a_projector_that_is_shut_is_collapsed(world: World) -> None:
    vlm = world.model(world.config())
    vlm.connector.projector.net[0].weight.data.zero_()
    vlm.connector.projector.net[0].bias.data.fill_(-100.0)
    assert first(world.find(vlm)) == "collapsed"


def test_a_tower_whose_features_change_from_call_to_call_is_named_as_random(world: World, monkeypatch: Patch) -> None:
    old = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: dropout(old(self, pixels), 0.3))
    assert first(world.find()) == "loss-not-reproduced"


def test_one_image_in_ten_that_is_mirrored_is_named(world: World, monkeypatch: Patch) -> None:
    load, count = dataset_room.load_image, iter(range(10_000))

    def sometimes(*args: Any) -> Any:
        pixels_CHW = load(*args)
        return pixels_CHW.flip(2) if next(count) % 10 == 5 else pixels_CHW

    monkeypatch.setattr(dataset_room, "load_image", sometimes)
    found = world.find()
    assert first(found) == "wrong-preprocessing"
    assert "mirrored" in found[0].message


def as_palette(image: Image.Image) -> Image.Image:
    return image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)


def as_sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def as_see_through(image: Image.Image) -> Image.Image:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("kind", [as_palette, as_sixteen_bits, as_see_through])
def test_files_of_every_kind_are_sound_and_named_where_they_are_read_wrongly(
    world: World, monkeypatch: Patch, kind: Callable[[Image.Image], Image.Image]
) -> None:
    for row in range(len(world.rows())):
        with Image.open(world.image(row)) as image:
            kind(image.convert("RGB")).save(world.image(row))
    assert bad(world.find()) == []
    grey = lambda image: Image.fromarray(np.asarray(image).astype(np.uint8)).convert("RGB")  # noqa: E731
    inverted = lambda image: Image.eval(image.convert("RGB"), lambda value: 255 - value)  # noqa: E731
    monkeypatch.setattr(images_room, "_to_rgb", grey if kind is as_palette else inverted)
    assert first(world.find()) == "wrong-preprocessing"


@pytest.mark.parametrize("place", ["collate", "tower", "connector", "encode", "nll"])
def test_samples_that_get_each_others_images_are_named(world: World, monkeypatch: Patch, place: str) -> None:
    if place == "collate":
        collate = run_room.collate

        def mixed(items: Any, pad_id: int) -> Any:
            batch = collate(items, pad_id)
            return replace(batch, pixels_BCHW=batch.pixels_BCHW.roll(1, 0))

        monkeypatch.setattr(run_room, "collate", mixed)
    elif place == "nll":
        nll = VLM.nll
        swap = lambda v: VisualTokens((v.layers[0].flip(0),))  # noqa: E731
        monkeypatch.setattr(VLM, "nll", lambda self, batch, v: nll(self, batch, swap(v) if v else None))
    else:
        kind, name = {"tower": (VisionTower, "forward"), "connector": (VLM, "visual"), "encode": (VLM, "encode")}[place]
        old = getattr(kind, name)

        def swapped(self: Any, given: Any) -> Any:
            made = old(self, given)
            return made.rows(list(range(len(made)))[::-1]) if isinstance(made, VisualTokens) else made.flip(0)

        monkeypatch.setattr(kind, name, swapped)
    assert first(world.find()) == "image-order"


def test_weights_that_are_not_those_of_the_file_are_named(world: World) -> None:
    config = world.config()
    for part in ("tower", "llm"):
        vlm = world.model(config)
        model = getattr(vlm, part).model
        torch.nn.init.normal_(
            dict(model.named_parameters())[
                next(n for n, p in model.named_parameters() if p.dim() == 2 and "layers.1" in n)
            ]
        )
        assert first(world.find(vlm)) == "tower-uninitialised"


def test_weights_missing_in_the_file_are_named(world: World, tmp_path: Path) -> None:
    tower = shutil.copytree(ASSETS / "vision", tmp_path / "tower")
    weights = load_file(tower / "model.safetensors")
    weights.pop(next(name for name in weights if "layers.1" in name))
    save_file(weights, tower / "model.safetensors", metadata={"format": "pt"})
    assert first(world.find(model__vision=str(tower))) == "tower-uninitialised"


def test_a_layer_made_anew_among_trained_ones_is_named(world: World, tmp_path: Path) -> None:
    llm = shutil.copytree(ASSETS / "llm", tmp_path / "llm")
    file = llm / "model.safetensors"
    weights = load_file(file)
    norms = [name for name in weights if "layers.1." in name and "norm" in name]
    for name in norms:
        weights[name] = torch.ones_like(weights[name])
    save_file(weights, file, metadata={"format": "pt"})
    assert first(world.find(model__llm=str(llm))) == "tower-uninitialised"
    weights[norms[0]][0] = 1.5  # one norm of the layer has moved: somebody trained it
    moved = shutil.copytree(llm, tmp_path / "moved")
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    assert world.find(model__llm=str(moved)) == []


def test_sequences_cut_on_the_left_are_named_by_the_image_they_lose(world: World, monkeypatch: Any) -> None:
    cut = property(lambda row: np.concatenate([row.prompt.ids_T, row.answer_N.astype(np.int64)])[-row.max_seq_len :])
    monkeypatch.setattr(Encoded, "ids_T", cut)
    assert first(world.find(data__max_seq_len=14)) == "image-truncated"


def test_statistics_over_the_batch_are_no_matter_of_order(world: World, monkeypatch: Any) -> None:
    old = Resampler.forward

    def normed(self: Any, features: Any) -> Any:
        made = old(self, features)
        return (made - made.mean(0, keepdim=True)) / (made.std(0, keepdim=True, correction=0) + 0.1)

    monkeypatch.setattr(Resampler, "forward", normed)
    assert first(world.find()) == "batch-dependent"


def test_dropout_that_evaluation_does_not_switch_off_is_named(world: World, monkeypatch: Any) -> None:
    old = Resampler.forward
    monkeypatch.setattr(Resampler, "forward", lambda self, features: dropout(old(self, features), 0.2))
    assert first(world.find()) == "loss-not-reproduced"
    monkeypatch.setattr(Resampler, "forward", lambda self, features: dropout(old(self, features), 0.2, self.training))
    assert world.find() == []


def test_samples_read_as_one_sequence_are_named(world: World, monkeypatch: Any) -> None:
    old = LanguageModel.nll

    def packed(self: Any, embeds: Any, labels: Any) -> TokenNLL:
        joined = old(self, embeds.flatten(0, 1)[None], labels.flatten()[None])
        return TokenNLL(joined.nll_N, (labels != IGNORE_INDEX).sum(dim=1))

    monkeypatch.setattr(LanguageModel, "nll", packed)
    assert first(world.find()) == "batch-dependent"


def test_one_picture_under_most_rows_is_an_error_and_under_some_a_warning(world: World) -> None:
    for share, severity in ((0.7, "error"), (0.3, "warning")):
        changed = copy_world(world, world.root.parent / f"{world.root.name}-{severity}")
        changed.change(lambda row, i, n=int(60 * share): row.update(image="images/000000000.png") if i < n else None)
        found = {f.code: f.severity for f in changed.find()}
        assert found["images-degenerate"] == severity


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


def test_captions_of_a_kind_the_language_model_never_read_get_the_same_warning_and_no_error(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value=f"Two men in suits at conference table {i}"))
    assert [(f.code, f.severity) for f in world.find()] == [("token-id-mismatch", "warning")]


def test_captions_of_one_word_are_too_short_to_judge_the_language_model_by(world: World) -> None:
    words = ["seven", "circle", "yellow", "small", "dotted", "left", "ring", "blue", "eight", "cross"]
    world.change(lambda row, i: row["conversations"][1].update(value=words[i % 10]))
    assert bad(world.find()) == []


def test_weights_that_are_not_finite_are_named(world: World) -> None:
    config = world.config()
    for part in ("tower", "llm", "connector"):
        vlm = world.model(config)
        next(getattr(vlm, part).parameters()).data.view(-1)[0] = float("nan")
        assert first(world.find(vlm)) == "non-finite"


# --- embeddings, attention, loss, gradients -------------------------------------------------------------------------


def shifted(embeds: Any, ids: Any, visual: Any, patch: int) -> Any:
    return PLACE(embeds, ids.roll(1, 1), visual, patch)


def half(embeds: Any, ids: Any, visual: Any, patch: int) -> Any:
    made = PLACE(embeds, ids, visual, patch)
    last = (ids == patch) & ((ids == patch).cumsum(1) > visual.shape[1] // 2)
    return torch.where(last[..., None], embeds, made)


def clobbering(embeds: Any, ids: Any, visual: Any, patch: int) -> Any:
    made = PLACE(embeds, ids, visual, patch).clone()
    end = (ids == patch).long().cumsum(1).argmax(1) + 1
    made[torch.arange(len(made)), end] = visual[:, -1]
    return made


PLACE = vlm_room.place
FUSION: dict[str, tuple[str, Callable[..., Any]]] = {
    "left out": ("not-injected", lambda embeds, ids, visual, patch: embeds),
    "only half": ("not-injected", half),
    "zeros instead": ("not-injected", lambda embeds, ids, v, patch: PLACE(embeds, ids, v * 0, patch)),
    "one late": ("placeholder-offset", shifted),
    "one early": ("placeholder-offset", lambda e, ids, v, patch: PLACE(e, ids.roll(-1, 1), v, patch)),
    "slots reversed": ("placeholder-offset", lambda e, ids, v, patch: PLACE(e, ids, v.flip(1), patch)),
    "over the delimiter too": ("placeholder-offset", clobbering),
    "other rows": ("image-order", lambda e, ids, v, patch: PLACE(e, ids, v.roll(1, 0), patch)),
    "a thousandth": ("scale-mismatch", lambda e, ids, v, patch: PLACE(e, ids, v / 1000, patch)),
    "detached": ("no-gradient", lambda e, ids, v, patch: PLACE(e, ids, v.detach(), patch)),
}


@pytest.mark.parametrize(("code", "place"), FUSION.values(), ids=FUSION.keys())
def test_visual_tokens_that_are_placed_wrongly_are_named(
    world: World, monkeypatch: Patch, code: str, place: Callable[..., Any]
) -> None:
    monkeypatch.setattr(vlm_room, "place", place)
    found = world.find()
    assert first(found) == code, found[0].message


def language_model(monkeypatch: Patch, change: Callable[[Any, dict[str, Any]], None]) -> None:
    """Every call of the transformers model gets its arguments changed."""
    from transformers import Qwen3Model

    forward = Qwen3Model.forward

    def changed(self: Any, *args: Any, **named: Any) -> Any:
        change(self, named)
        return forward(self, *args, **named)

    monkeypatch.setattr(Qwen3Model, "forward", changed)


def hide(first_hidden: int, last_hidden: int) -> Callable[[Any, dict[str, Any]], None]:
    def change(model: Any, named: dict[str, Any]) -> None:
        embeds = named["inputs_embeds"]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        mask[:, first_hidden:last_hidden] = 0
        named["attention_mask"] = mask

    return change


@pytest.mark.parametrize("hidden", [(1, 5), (3, 5)], ids=["all", "the last two"])
def test_image_positions_that_attention_cannot_see_are_named(
    world: World, monkeypatch: Patch, hidden: tuple[int, int]
) -> None:
    world.change(human("<image>\nWhat is this?"))
    language_model(monkeypatch, hide(*hidden))
    assert first(world.find()) == "image-masked"


def test_attention_that_sees_the_answer_is_named(world: World, monkeypatch: Patch) -> None:
    def both_ways(model: Any, named: dict[str, Any]) -> None:
        length = named["inputs_embeds"].shape[1]
        named["attention_mask"] = torch.zeros(len(named["inputs_embeds"]), 1, length, length)

    language_model(monkeypatch, both_ways)
    assert first(world.find()) == "leak"


def own_nll(shift: int) -> Callable[..., Any]:
    """A loss that predicts the token at t from t + shift."""
    from eyechart.seam import TokenNLL

    def nll(self: Any, embeds_BTE: Any, labels_BT: Any) -> Any:
        hidden = self.model.model(inputs_embeds=embeds_BTE, use_cache=False).last_hidden_state
        moved = torch.roll(labels_BT, shift, dims=1)
        keep = moved != IGNORE_INDEX
        losses = torch.nn.functional.cross_entropy(self.model.lm_head(hidden[keep]), moved[keep], reduction="none")
        return TokenNLL(losses, keep.sum(1))

    return nll


def test_a_loss_that_is_another_number_at_the_right_shift_is_named(world: World, monkeypatch: Patch) -> None:
    nll = LanguageModel.nll

    def smoothed(self: Any, embeds_BTE: Any, labels_BT: Any) -> Any:
        made = nll(self, embeds_BTE, labels_BT)
        return TokenNLL(0.8 * made.nll_N + 1.0, made.counts_B)

    monkeypatch.setattr(LanguageModel, "nll", smoothed)
    assert first(world.find()) == "loss-altered"


def test_a_loss_that_weighs_known_tokens_less_is_named(world: World, monkeypatch: Patch) -> None:
    """A focal loss equals the plain one where a token is not known at all."""
    nll = LanguageModel.nll

    def focal(self: Any, embeds_BTE: Any, labels_BT: Any) -> Any:
        made = nll(self, embeds_BTE, labels_BT)
        return TokenNLL((1 - torch.exp(-made.nll_N)) ** 2 * made.nll_N, made.counts_B)

    monkeypatch.setattr(LanguageModel, "nll", focal)
    assert first(world.find()) == "loss-altered"


def test_dropout_in_the_language_model_is_named_as_random(world: World, monkeypatch: Patch) -> None:
    nll = LanguageModel.nll
    monkeypatch.setattr(LanguageModel, "nll", lambda self, embeds, labels: nll(self, dropout(embeds, 0.2), labels))
    monkeypatch.setattr(flow, "_STAGES", flow._STAGES[3:])  # what stands before the losses is another matter here
    found = world.find()
    assert first(found) == "loss-not-reproduced"
    assert "two equal calls give different losses" in found[0].message


def test_a_language_model_that_looks_back_a_few_tokens_only_is_named(world: World, tmp_path: Path) -> None:
    llm = shutil.copytree(ASSETS / "llm", tmp_path / "llm")
    file = llm / "config.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    layers = ["sliding_attention"] * tree["num_hidden_layers"]
    tree |= {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0, "layer_types": layers}
    file.write_text(json.dumps(tree), encoding="utf-8")
    found = world.find(model__llm=str(llm), connector__latents=8)
    assert first(found) == "image-masked"


def test_visual_tokens_that_hold_the_answer_are_a_leak(world: World, monkeypatch: Patch) -> None:
    nll = VLM.nll

    def read(self: Any, batch: Any, visual: Any) -> Any:
        words = self.llm.embed(batch.labels_BT.clamp(min=0)) * (batch.labels_BT != IGNORE_INDEX)[..., None]
        return nll(self, batch, visual and visual.map(lambda layer: layer + words.sum(1, keepdim=True)))

    monkeypatch.setattr(VLM, "nll", read)
    assert first(world.find()) == "leak"


def test_text_embeddings_on_another_scale_are_named(world: World, monkeypatch: Patch) -> None:
    embed = LanguageModel.embed
    monkeypatch.setattr(LanguageModel, "embed", lambda self, ids: 11.3 * embed(self, ids))
    found = world.find()
    assert first(found) == "scale-mismatch"
    assert "multiplied by 11.3" in found[0].message


def test_a_loss_of_our_own_with_the_right_shift_is_sound(world: World, monkeypatch: Patch) -> None:
    monkeypatch.setattr(LanguageModel, "nll", own_nll(-1))
    assert bad(world.find()) == []


@pytest.mark.parametrize(("shift", "code"), [(0, "labels-unshifted"), (-2, "labels-shifted"), (1, "labels-unshifted")])
def test_a_loss_at_another_shift_is_named(world: World, monkeypatch: Patch, shift: int, code: str) -> None:
    monkeypatch.setattr(LanguageModel, "nll", own_nll(shift))
    assert first(world.find()) == code


@pytest.mark.parametrize("kind", ["no_grad", "frozen", "one part frozen"])
def test_a_connector_that_cannot_learn_is_named(world: World, monkeypatch: Patch, kind: str) -> None:
    config = world.config(connector__vision_ln=True)
    vlm = world.model(config)
    if kind == "no_grad":
        visual = VLM.visual
        monkeypatch.setattr(VLM, "visual", lambda self, features: visual(self, features).detach())
    else:
        part = vlm.connector if kind == "frozen" else vlm.connector.vision_ln
        assert part is not None
        part.requires_grad_(False)
    assert first(world.find(vlm)) == "no-gradient"


def test_a_frozen_part_that_would_learn_is_named(world: World) -> None:
    config = world.config()
    vlm = world.model(config)
    vlm.llm.model.lm_head.requires_grad_(True)
    assert first(world.find(vlm)) == "frozen-moved"
