"""The tiny backbones: real classes, small files, able to read notes, and not trained on any held-out picture."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM, SiglipVisionModel

from eyechart.data import images
from eyechart.seam import IGNORE_INDEX
from qwen3_vlm import audit
from qwen3_vlm.config import load_config
from qwen3_vlm.data import splits
from qwen3_vlm.demo.tiny import (
    captions,
    card,
    documents,
    language,
    reading,
    tower,
    tower_captions,
    tower_worlds,
    vocabulary,
)
from qwen3_vlm.demo.tiny.maker import Options, make, make_for_worlds
from qwen3_vlm.demo.worlds import digits, scenes

ASSETS = Path(__file__).parents[1] / "assets" / "tiny"
TOKENS = ["<|endoftext|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside other processes, two threads of models this small only wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(ASSETS / "llm")


@pytest.fixture(scope="module")
def llm() -> Qwen3ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(ASSETS / "llm").eval()


def exam(count: int) -> list[documents.Document]:
    return list(itertools.islice(documents.scene_documents("a test"), count))


def write_rows(folder: Path, turns: list[tuple[str, str]], mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, (human, caption) in enumerate(turns):
        Image.new(mode, (20 + index, 40)).save(folder / f"{index}.png")
        talk = [{"from": "human", "value": human}, {"from": "gpt", "value": caption}]
        rows.append({"id": str(index), "image": f"{index}.png", "conversations": talk})
    path = folder / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


# What is shipped


def test_the_shipped_backbones_are_real_classes_of_4_mb_at_most(llm: Qwen3ForCausalLM) -> None:
    assert card.size_of(ASSETS) <= 4_000_000
    assert type(llm) is Qwen3ForCausalLM
    eye = SiglipVisionModel.from_pretrained(ASSETS / "vision")
    assert {eye.dtype, llm.dtype} == {torch.float32}
    assert eye.config.image_size == 64


@pytest.mark.parametrize("part", ["llm", "vision"])
def test_weights_are_half_precision_on_disk(part: str) -> None:
    with safe_open(ASSETS / part / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_the_tokenizer_has_qwens_names_as_single_ids(tokenizer: AutoTokenizer) -> None:
    ids = tokenizer.convert_tokens_to_ids(TOKENS)
    assert len(set(ids)) == 4
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.encode("".join(TOKENS), add_special_tokens=False) == ids


def test_the_tokenizer_writes_any_text(tokenizer: AutoTokenizer) -> None:
    text = "Ünïcode, кот, 猫 and 🐈\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_fact_is_one_token(tokenizer: AutoTokenizer) -> None:
    facts = {word for document in exam(300) for group in document.notes for word in group}
    assert len(facts) > 30
    assert {word for word in facts if len(tokenizer.encode(f" {word}")) > 1} == set()


def test_a_caption_takes_about_14_tokens_with_its_end(tokenizer: AutoTokenizer) -> None:
    lengths = [len(tokenizer.encode(scenes.caption(scene, rng))) + 1 for scene, rng in scenes.series(500, "length")]
    assert 13 < sum(lengths) / len(lengths) < 15


def test_the_preprocessor_matches_the_tower() -> None:
    settings = json.loads((ASSETS / "vision" / "preprocessor_config.json").read_text())
    assert images.image_spec(settings, 64) == tower.image_spec(64)
    assert settings["image_processor_type"] == "SiglipImageProcessor"


def test_the_shipped_language_model_reads_its_notes(llm: Qwen3ForCausalLM, tokenizer: AutoTokenizer) -> None:
    marks = reading.examine(llm, tokenizer, exam(100), reading.world_grade)
    assert set(reading.GATED) <= set(marks)
    assert reading.failures(marks) == []


# Not trained on the held-out data


def test_the_tower_was_never_shown_a_scene_of_the_data_set() -> None:
    data = {scene for scene, _ in scenes.series(scenes.COUNT, scenes.SEED)}
    drawn = {scene for scene, _ in scenes.series(tower_worlds.SCENES, tower_worlds.SEED)}
    assert len(data) == scenes.COUNT
    assert len(drawn) == tower_worlds.SCENES
    assert not data & drawn
    seen = tower_worlds.labelled_scenes(500, tower_worlds.SEED).pixels
    hashes = {images.content_hash(picture) for picture in seen}
    held = {images.content_hash(tower_worlds.to_pixels(scenes.draw(scene))) for scene in itertools.islice(data, 1000)}
    assert len(hashes) == 500
    assert not hashes & held


def test_the_tower_was_never_shown_a_held_out_digit() -> None:
    train, held_out = digits.load()
    seen = {images.content_hash(picture) for picture in tower_worlds.labelled_digits(train).pixels}
    assert len(seen) == 1500
    assert not seen & {images.content_hash(tower_worlds.to_pixels(digit.picture)) for digit in held_out}


def test_tower_training_does_not_touch_the_held_out_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    train = digits.load()[0][:20]
    monkeypatch.setattr(digits, "load", lambda: (train, None))  # using the second half would raise
    eye, marks = tower_worlds.train(steps=2, scene_count=40)
    assert not eye.training
    assert set(marks) == {*tower_worlds.ON_THINGS, *tower_worlds.ON_SCENES, *tower_worlds.ON_DIGITS}


def test_held_out_rows_of_a_file_are_not_read(tmp_path: Path) -> None:
    file = write_rows(tmp_path, [("<image>\nWhat?", f"picture {i}") for i in range(20)])
    held = splits.draw_split(20, None, 0.25, 3).eval
    assert len(held) == 5
    for row in held:
        (tmp_path / f"{row}.png").unlink()  # would be reported as missing if it were looked for
    rows = captions.load_training_rows(file, tmp_path, side=16, max_samples=None, eval_ratio=0.25, seed=3)
    assert {record.row for record in rows.records} == set(range(20)) - set(held)
    assert rows.pixels.shape == (15, 3, 16, 16)


# Documents


def test_the_caption_alone_is_learnt(tokenizer: AutoTokenizer) -> None:
    document = documents.Document("What?\n<image>", (("red", "ring"),), "A red ring")
    encoded = documents.encode_document(document, tokenizer, documents.encoder(tokenizer), None)
    assert tokenizer.decode(encoded.prompt) == "What?\n<|vision_start|> red ring<|vision_end|>\n"
    assert tokenizer.decode(encoded.caption) == "A red ring<|endoftext|>"
    ids, labels, mask = language.pad([encoded, documents.Encoded((5,), (6,))], filler=0)
    assert labels[0, len(encoded.prompt) :].tolist() == list(encoded.caption)
    assert set(labels[0, : len(encoded.prompt)].tolist()) == {IGNORE_INDEX}
    assert ids[1].tolist() == [5, 6] + [0] * (ids.shape[1] - 2)
    assert mask.sum(1).tolist() == [ids.shape[1], 2]


def test_words_of_one_thing_stay_together_half_of_the_time() -> None:
    groups = (("a", "b", "c"), ("d", "e", "f"), ("g", "h", "i"))
    orders = [documents.noted(groups, random.Random(seed)) for seed in range(200)]
    assert all(sorted(order) == list("abcdefghi") for order in orders)
    together = [all({*order[i : i + 3]} in map(set, groups) for i in (0, 3, 6)) for order in orders]
    assert 60 < sum(together) < 140
    assert len(set(map(tuple, orders))) > 150


def test_some_documents_have_no_notes_and_some_share_places(tokenizer: AutoTokenizer) -> None:
    encode, rng = documents.encoder(tokenizer), random.Random(5)
    start = tokenizer.convert_tokens_to_ids("<|vision_start|>")
    written = [documents.encode_document(document, tokenizer, encode, rng) for document in exam(300)]
    bare, packed = sum(start not in item.prompt for item in written), sum(bool(item.packed) for item in written)
    assert 20 < bare < 75
    assert 90 < packed < 165


def test_packed_words_are_added_up_at_the_usual_rms(llm: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "NOISE", 0.0)
    item = documents.Encoded((3, 2, 2, 4), (9,), packed=((1, 50), (1, 60), (2, 70)))
    ids = torch.tensor([[3, 2, 2, 4, 9]])
    with torch.no_grad():
        found = language.embed(llm, ids, [item], patch=2)[0]
        table = llm.get_input_embeddings().weight
    rms = table.pow(2).mean().sqrt()
    wanted = table[50] + table[60]
    assert torch.allclose(found[1], wanted * rms / wanted.pow(2).mean().sqrt(), atol=1e-5)
    assert torch.allclose(found[2].pow(2).mean().sqrt(), rms)
    assert torch.equal(found[[0, 3, 4]], table[[3, 4, 9]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog's life, twice!", ["a", "dog's", "life", "twice"]),
        ("Кот — на <столе>.", ["кот", "на", "столе"]),
        ("红猫 sits", ["红", "猫", "sits"]),
        ("...", []),
    ],
)
def test_words_are_found_in_any_script(text: str, words: list[str]) -> None:
    assert documents.plain_words(text) == words


# Training on captions


def test_content_words_are_neither_everywhere_nor_nowhere() -> None:
    texts = ["a red cat"] * 3 + ["a blue cat"] * 3 + ["a lone cat"]
    assert captions.content_words(texts) == ("red", "blue")
    assert captions.noted_words(texts) == {"red", "blue", "lone"}


def test_where_no_word_is_usual_any_word_that_differs_is_learnt() -> None:
    assert set(captions.content_words(["one cat", "two cat"])) == {"one", "two"}
    assert captions.content_words(["same", "same"]) == ()


def test_average_precision_is_that_of_the_ranking() -> None:
    logits = torch.tensor([[3.0], [2.0], [1.0], [0.0]])
    table = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    marks = tower_captions.average_precision(logits, table)
    assert marks["word_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert marks["chance"] == pytest.approx(0.5)
    assert tower_captions.average_precision(logits, torch.ones(4, 1)) == {}


def test_the_first_layer_whitens_the_patches_it_was_built_from() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)
    weight, bias = tower._whitening(pixels)
    patches = images.normalise(pixels, tower.image_spec(16)).unfold(2, 8, 8).unfold(3, 8, 8)
    codes = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 192) @ weight.T + bias
    assert codes.mean(0).abs().max() < 1e-3
    off_diagonal = torch.cov(codes.T) - torch.diag(torch.cov(codes.T).diagonal())
    assert off_diagonal.abs().max() < 0.05


def test_patches_know_what_lies_on_them() -> None:
    thing = scenes.Thing("ring", "blue", "large", 2, 0, 0.3, 0.7, 0.27, 0.0, (0, 0, 0))
    labels = tower_worlds.label_scene(scenes.Scene("grey", "dotted", 0.0, (thing,)))
    middle, corner = 5 * 8 + 2, 7
    assert [labels[name][middle] for name in ("colour", "shape", "size", "position")] == [2, 4, 1, 6]
    assert [labels[name][corner] for name in ("colour", "shape", "size", "position")] == [6, 5, 2, 9]
    assert {labels["count"][middle], labels["count"][corner]} == {0}


def test_jittered_digits_stay_on_white_paper() -> None:
    picture = tower_worlds.labelled_digits(digits.load()[0][:8]).pixels
    moved = tower_worlds.jitter(picture, torch.Generator().manual_seed(1))
    assert moved.shape == picture.shape
    assert moved.dtype == torch.uint8
    assert not torch.equal(moved, picture)
    blank = torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)
    assert torch.equal(tower_worlds.jitter(blank, torch.Generator().manual_seed(1)), blank)


# The command


def test_any_file_gives_backbones_and_a_config_that_is_ready_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [
        ("<image>\nЧто это?", random.Random(i).choice(["красный кот", "синий пёс", "绿色的图片"])) for i in range(60)
    ]
    file = write_rows(tmp_path / "data", turns, mode="RGBA")
    (tmp_path / "data" / "7.png").write_bytes(b"no image")
    make(Options(output=tmp_path / "out", data=file, steps=3, image_size=16, threads=1, eval_ratio=0))
    said = capsys.readouterr().out
    assert "59 of 60 training rows are usable" in said
    assert "1 left out: not an image" in said
    config = load_config(tmp_path / "out" / "config.yaml", [])
    assert config.data.json_file == str(file)
    assert config.data.image_root == str(file.parent)
    eye = SiglipVisionModel.from_pretrained(config.model.vision)
    reader = AutoModelForCausalLM.from_pretrained(config.model.llm)
    assert eye.config.image_size == 16
    assert reader.config.vocab_size == len(AutoTokenizer.from_pretrained(config.model.llm))


def test_a_users_file_in_the_output_folder_is_kept_and_backbones_are_made_again_over_their_own(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "data", [("<image>", text) for text in ("a cat", "a red dog", "two dogs", "one bird")])
    options = Options(output=tmp_path / "out", data=file, steps=1, image_size=16, threads=1, eval_ratio=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"README\.md was not written by a run"):
        make(options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]
    (tmp_path / "out" / "README.md").rename(tmp_path / "out" / "notes.md")
    make(options)
    (tmp_path / "out" / "run.json").unlink()  # as earlier versions left it
    make(options)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("llm", "vision", "README.md", "config.yaml", "run.json", "notes.md")
    }


def test_the_written_config_leaves_long_captions_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [("<image>\nWhat?", " ".join(f"{word}{i}" for word in ["red", "cat", "on", "mat"] * 90)) for i in range(6)]
    file = write_rows(tmp_path / "data", turns)
    make(Options(output=tmp_path / "out", data=file, steps=1, image_size=16, threads=1, eval_ratio=0))
    config = load_config(tmp_path / "out" / "config.yaml", [])
    assert config.data.max_seq_len > 256 and config.data.max_seq_len % 32 == 0
    got = audit(config)
    assert got.verdict == "PASS" and got.truncated_pct == 0
    assert config.data.max_seq_len - max(got.lengths) < 32
    assert "positions" not in capsys.readouterr().out


def test_rows_beyond_the_language_models_positions_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = random.Random(0)
    endless = "".join(chr(noise.randrange(0x4E00, 0x9FFF)) for _ in range(6000))
    file = write_rows(tmp_path / "data", [("<image>", text) for text in ("a cat", "a red dog", endless, "one bird")])
    make(Options(output=tmp_path / "out", data=file, steps=1, image_size=16, threads=1, eval_ratio=0))
    assert load_config(tmp_path / "out" / "config.yaml", []).data.max_seq_len == language.POSITIONS
    assert "1 of 4 rows are longer than the 2,048 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(("lengths", "room"), [([9], 256), ([256], 256), ([20, 257], 288), ([288], 288), ([], 256)])
def test_room_is_whole_steps_and_never_less_than_the_least(lengths: list[int], room: int) -> None:
    assert card.room_for(lengths) == room


def test_captions_that_never_differ_are_said_to_carry_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path, [("<image>", "same")] * 4)
    make(Options(output=tmp_path / "out", data=file, steps=1, image_size=16, threads=1))
    assert "no word distinguishes these captions" in capsys.readouterr().out


def test_a_file_without_usable_images_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path, [("<image>", "one"), ("<image>", "two"), ("<image>", "three")])
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    with pytest.raises(ValueError, match="at least 2 usable training rows"):
        make(Options(output=tmp_path / "out", data=file, steps=1, threads=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (Options(steps=0), "--steps: expected a number from 1 to 2,147,483,647, got 0"),
        (Options(image_size=60), "multiple of 8 up to 4096, got 60"),
        (Options(data=Path("nowhere.json")), "nowhere.json: no such data file"),
    ],
)
def test_bad_options_are_refused(options: Options, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make(options)


def test_a_model_that_does_not_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reads below 0.95: colour 0.0.*nothing was written"):
        make_for_worlds(tmp_path / "out", steps=1, exam_size=20)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_needs_room_for_all_bytes() -> None:
    with pytest.raises(ValueError, match="at least 260 tokens, got 100"):
        vocabulary.train(["text"], 100)
