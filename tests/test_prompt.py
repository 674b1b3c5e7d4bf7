from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from eyechart.data.encoded import Encoded
from eyechart.seam import IGNORE_INDEX, Reject, Row
from qwen3_vlm.config import Config, ConnectorConfig, PromptConfig
from qwen3_vlm.data.prompt import PromptBuilder
from tiny_rows import SPECIAL, make_tokenizer

EOS, START, PATCH, END, IM_START, IM_END = range(6)
HUMAN = "Describe the picture.\n<image>"


def record(caption: str = "a red circle", human: str = HUMAN, row: int = 0) -> Row:
    return Row(row, str(row), f"{row}.png", human, caption)


def build(tokenizer: PreTrainedTokenizerFast, latents: int = 3, max_seq_len: int = 64, **prompt: str) -> PromptBuilder:
    return PromptBuilder(tokenizer, PromptConfig(**prompt), latents, max_seq_len)


def encode_one(builder: PromptBuilder, one: Row) -> Encoded:
    (encoded,) = builder.encode([one])
    assert isinstance(encoded, Encoded)
    return encoded


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def test_a_sequence_by_hand(tokenizer: PreTrainedTokenizerFast) -> None:
    before, behind, caption = (ids_of(tokenizer, t) for t in ("Describe the picture.\n", "\n", "a red circle"))
    encoded = encode_one(build(tokenizer), record())
    prompt = [*before, START, PATCH, PATCH, PATCH, END, *behind]
    assert encoded.ids_T.tolist() == [*prompt, *caption, EOS]
    assert encoded.labels_T.tolist() == [IGNORE_INDEX] * len(prompt) + [*caption, EOS]
    assert encoded.block == (len(before), len(before) + 5)
    assert encoded.full_length == len(prompt) + len(caption) + 1
    assert encoded.wrapper_tokens == len(before) + len(behind)
    assert encoded.ids_T.dtype == encoded.labels_T.dtype == np.int64


def test_the_image_may_stand_before_the_words(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_one(build(tokenizer), record(human="<image>\nWhat is this?"))
    assert encoded.block == (0, 5)
    assert encoded.ids_T[5:-1].tolist() == ids_of(tokenizer, "\nWhat is this?\n") + ids_of(tokenizer, "a red circle")


def test_a_template_without_the_human_turn_gives_every_row_the_same_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    one, other = build(tokenizer, template="<image>\n").encode([record(), record(human="What?<image>")])
    assert isinstance(one, Encoded) and isinstance(other, Encoded)
    assert one.ids_T.tolist() == other.ids_T.tolist()
    assert one.wrapper_tokens == len(ids_of(tokenizer, "\n"))


def test_special_tokens_of_the_template_become_their_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = "<|im_start|>user\n{human}<|im_end|>\n<|im_start|>assistant\n"
    ids = encode_one(build(tokenizer, template=chat), record()).ids_T.tolist()
    assert ids[0] == IM_START and ids.count(IM_START) == 2 and ids.count(IM_END) == 1


@pytest.mark.parametrize("token", SPECIAL)
def test_a_special_tokens_string_in_a_caption_stays_text(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    caption = f"a {token} circle"
    encoded = encode_one(build(tokenizer), record(caption))
    answer = encoded.labels_T[encoded.labels_T != IGNORE_INDEX].tolist()
    assert answer[-1] == EOS and not set(answer[:-1]) & set(range(len(SPECIAL)))
    assert tokenizer.decode(answer[:-1]) == caption


@pytest.mark.parametrize("token", SPECIAL)
def test_a_special_token_in_the_human_turn_is_rejected(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    good, bad = build(tokenizer).encode([record(row=3), record(human=f"<image>{token}", row=4)])
    assert isinstance(good, Encoded)
    assert isinstance(bad, Reject) and (bad.row, bad.reason) == (4, "special token in the human turn")
    assert token in bad.detail


def test_a_human_turn_that_the_template_leaves_out_may_hold_anything(tokenizer: PreTrainedTokenizerFast) -> None:
    builder = build(tokenizer, template="<image>\n")
    odd, plain = builder.encode([record(human="<image><|im_end|>"), record()])
    assert isinstance(odd, Encoded) and isinstance(plain, Encoded) and odd.ids_T.tolist() == plain.ids_T.tolist()


def test_no_token_straddles_the_borders(tokenizer: PreTrainedTokenizerFast) -> None:
    builder = build(tokenizer, template="{human}")
    assert len(ids_of(tokenizer, " red circle")) < len(ids_of(tokenizer, " r")) + len(ids_of(tokenizer, "ed circle"))
    encoded = encode_one(builder, record("ed circle", human="<image> r"))
    assert encoded.ids_T[5:-1].tolist() == ids_of(tokenizer, " r") + ids_of(tokenizer, "ed circle")


@pytest.mark.parametrize("latents", [1, 8, 64])
def test_the_image_block_costs_latents_plus_two(tokenizer: PreTrainedTokenizerFast, latents: int) -> None:
    encoded = encode_one(build(tokenizer, latents, 128), record())
    start, end = encoded.block
    assert end - start == latents + 2 == Config(connector=ConnectorConfig(latents=latents)).image_block_tokens
    assert encoded.ids_T[start:end].tolist() == [START, *[PATCH] * latents, END]
    assert np.count_nonzero(encoded.ids_T == PATCH) == latents


def test_the_legacy_block_is_eos_and_patches_joined_with_spaces(tokenizer: PreTrainedTokenizerFast) -> None:
    builder = build(tokenizer, image_block="legacy")
    (space,) = ids_of(tokenizer, " ")
    encoded = encode_one(builder, record())
    start, end = encoded.block
    expected = [EOS, space, PATCH, space, PATCH, space, PATCH, space, EOS]
    assert encoded.ids_T[start:end].tolist() == expected
    config = Config(connector=ConnectorConfig(latents=3), prompt=PromptConfig(image_block="legacy"))
    assert end - start == config.image_block_tokens
    assert (builder.ids.start, builder.ids.patch, builder.ids.end, builder.ids.eos) == (EOS, PATCH, EOS, EOS)
    assert (encoded.labels_T[start:end] == IGNORE_INDEX).all()


def test_ids_are_the_tokenizers_own(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = build(tokenizer).ids
    assert (ids.start, ids.patch, ids.end, ids.eos) == (START, PATCH, END, EOS) and tokenizer.pad_token_id == EOS


def test_a_caption_too_long_is_cut_on_the_right_and_loses_its_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = encode_one(build(tokenizer), record("a red circle on a blue ground"))
    length = whole.full_length
    cut = encode_one(build(tokenizer, max_seq_len=length - 2), record("a red circle on a blue ground"))
    assert cut.ids_T.tolist() == whole.ids_T[:-2].tolist()
    assert cut.labels_T.tolist() == whole.labels_T[:-2].tolist()
    assert cut.full_length == length and cut.labels_T[-1] not in (EOS, IGNORE_INDEX)
    fits = encode_one(build(tokenizer, max_seq_len=length), record("a red circle on a blue ground"))
    assert fits.ids_T.tolist() == whole.ids_T.tolist()


def test_a_row_whose_image_block_is_cut_is_rejected_and_one_without_labels_is_kept(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    words = "What is this? " * 2
    behind = len(ids_of(tokenizer, words + "\n"))
    builder = build(tokenizer, max_seq_len=5 + behind)
    rows = [record(human="<image>"), record(human=f"<image>{words}"), record(human=f"{words}{words}<image>", row=7)]
    short, no_label, cut = builder.encode(rows)
    assert isinstance(short, Encoded) and (short.labels_T != IGNORE_INDEX).any()
    assert isinstance(no_label, Encoded) and (no_label.labels_T == IGNORE_INDEX).all()
    assert len(no_label.ids_T) == len(no_label.labels_T) == 5 + behind
    assert isinstance(cut, Reject) and (cut.row, cut.reason) == (7, "image block cut by max_seq_len")
    assert f"max_seq_len is {5 + behind}" in cut.detail


def test_no_label_token_in_any_row_stops_and_says_what_would_do(tokenizer: PreTrainedTokenizerFast) -> None:
    needed = len(build(tokenizer).prompt(HUMAN).ids_T) + 1
    rows = [record("a red circle " * (1 + i % 4), row=i) for i in range(150)]
    with pytest.raises(ValueError, match=rf"max_seq_len {needed - 1} has no room for captions") as stopped:
        build(tokenizer, max_seq_len=needed - 1).encode(rows)
    would_do = int(str(stopped.value).partition("at least ")[2].split(",")[0])
    lengths = [encoded.full_length for encoded in build(tokenizer, max_seq_len=would_do).encode(rows)]
    assert max(lengths) == would_do
    with pytest.raises(ValueError, match="cuts into the image block: .* keeps its image and its caption"):
        build(tokenizer, max_seq_len=4).encode(rows)
    assert encode_one(build(tokenizer, max_seq_len=needed), record()).labels_T[-1] != IGNORE_INDEX


def test_no_records_are_no_error(tokenizer: PreTrainedTokenizerFast) -> None:
    assert build(tokenizer).encode([]) == []


def test_many_captions_are_encoded_as_one_by_one(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [record(f"a {'red ' * (i % 5)}circle {i}", row=i) for i in range(2_100)]
    together = build(tokenizer).encode(records)
    for i in (0, 999, 1_000, 1_001, 2_099):
        one = together[i]
        assert isinstance(one, Encoded)
        assert one.ids_T.tolist() == encode_one(build(tokenizer), records[i]).ids_T.tolist()


def test_rows_with_the_same_human_turn_share_one_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    one, other = build(tokenizer).encode([record(), record("a blue cross")])
    assert isinstance(one, Encoded) and isinstance(other, Encoded) and one.prompt is other.prompt
    one.ids_T[:] = 0
    assert other.ids_T[1] != 0


def test_an_encoded_row_survives_pickling(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_one(build(tokenizer), record())
    assert pickle.loads(pickle.dumps(encoded)).ids_T.tolist() == encoded.ids_T.tolist()


def test_the_prompt_for_generation_is_the_one_of_training(tokenizer: PreTrainedTokenizerFast) -> None:
    builder = build(tokenizer)
    ids_T, block = builder.prompt(HUMAN)
    encoded = encode_one(builder, record())
    assert encoded.ids_T[: len(ids_T)].tolist() == ids_T.tolist() and block == encoded.block


@pytest.mark.parametrize("human", ["no image", "<image><image>", "<image><|im_end|>"])
def test_a_request_without_exactly_one_image_or_with_a_special_token_is_refused(
    tokenizer: PreTrainedTokenizerFast, human: str
) -> None:
    with pytest.raises(ValueError, match="expected a human turn with <image> once and no special token, got"):
        build(tokenizer).prompt(human)


def test_a_tokenizer_without_the_image_tokens_is_named() -> None:
    foreign = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE({"a": 0}, [], unk_token="a")), eos_token="a")
    foreign.name_or_path = "some/model"
    with pytest.raises(
        ValueError, match=r"some/model: this tokenizer encodes '<\|vision_start\|>' as \d+ ids, .* tokenizer of Qwen3"
    ):
        build(foreign)


def test_a_tokenizer_without_eos_is_named() -> None:
    backend = make_tokenizer().backend_tokenizer
    with pytest.raises(ValueError, match="has no EOS token"):
        build(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_padding_and_truncation_baked_into_a_tokenizer_do_nothing_and_it_is_not_changed() -> None:
    baked = make_tokenizer()
    baked.backend_tokenizer.enable_padding(length=40)
    baked.backend_tokenizer.enable_truncation(max_length=2)
    before = baked.backend_tokenizer.to_str()
    encoded = encode_one(build(baked), record("a red circle on a blue ground"))
    clean = encode_one(build(make_tokenizer()), record("a red circle on a blue ground"))
    assert encoded.ids_T.tolist() == clean.ids_T.tolist()
    assert baked.backend_tokenizer.to_str() == before and not baked.backend_tokenizer.encode_special_tokens


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caption=st.text(min_size=1, max_size=30) | st.lists(st.sampled_from(SPECIAL), min_size=1).map("".join))
def test_any_caption_comes_back_from_its_labels(tokenizer: PreTrainedTokenizerFast, caption: str) -> None:
    encoded = encode_one(build(tokenizer, max_seq_len=2_000), record(caption))
    labels = encoded.labels_T[encoded.labels_T != IGNORE_INDEX].tolist()
    assert labels[-1] == EOS and tokenizer.decode(labels[:-1], clean_up_tokenization_spaces=False) == caption
    assert np.count_nonzero(encoded.ids_T == PATCH) == 3
