"""Rows through a model's own chat template: what is prompt, what is image, what is labelled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny_architectures
from eyechart.data.encoded import Encoded
from eyechart.processors.loading import common_size, one_view
from eyechart.processors.prompts import PromptWriter
from eyechart.seam import Reject, Row

TOKENS = 3
IMAGE = Image.new("RGB", (8, 8))
NO_THOUGHT = tiny_architectures.QWEN.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


class FakeProcessor:
    """A tokenizer and a chat template; every image takes TOKENS positions."""

    def __init__(self, chat: str, eos: str | None = "<|im_end|>", prefix_space: bool = False) -> None:
        tokenizer = tiny_architectures.make_tokenizer(tiny_architectures.QWEN_SPECIAL, eos or "<|endoftext|>")
        if eos is None:
            tokenizer.eos_token = None
        if prefix_space:
            from tokenizers import pre_tokenizers

            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        self.tokenizer, self.chat_template, self.image_token = tokenizer, chat, "<|image_pad|>"

    def apply_chat_template(self, turns: Any, add_generation_prompt: bool, tokenize: bool, **variables: Any) -> str:
        assert not tokenize
        options = {"chat_template": self.chat_template, "add_generation_prompt": add_generation_prompt, **variables}
        return self.tokenizer.apply_chat_template(turns, tokenize=False, **options)

    def __call__(self, text: list[str], images: Any, return_tensors: str, add_special_tokens: bool, **_: Any) -> Any:
        texts = [t.replace(self.image_token, self.image_token * TOKENS) for t in text]
        options = {"padding": True, "padding_side": "right", "add_special_tokens": add_special_tokens}
        return self.tokenizer(texts, return_tensors=return_tensors, **options)


def writer(chat: str = tiny_architectures.QWEN, limit: int = 100, **options: Any) -> PromptWriter:
    processor = FakeProcessor(chat, **options)
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return PromptWriter("tiny", processor, {}, IMAGE, image_id, limit)


def record(caption: str, human: str = "What is this?\n<image>", row: int = 0) -> Row:
    return Row(row, str(row), "x.png", human, caption)


def decoded(prompts: PromptWriter, ids: Any) -> str:
    return prompts._tokenizer.decode(ids)


def encoded(prompts: PromptWriter, caption: str, **more: Any) -> Encoded:
    (item,) = prompts.encode([record(caption, **more)], None)
    assert isinstance(item, Encoded)
    return item


def test_prompt_caption_and_end_of_turn_follow_the_template() -> None:
    prompts = writer()
    item = encoded(prompts, "a red circle")
    assert decoded(prompts, item.ids_T) == (
        f"<|im_start|>user\nWhat is this?<|vision_start|>{'<|image_pad|>' * TOKENS}<|vision_end|><|im_end|>\n"
        "<|im_start|>assistant\na red circle<|im_end|>"
    )
    assert decoded(prompts, item.answer_N) == "a red circle<|im_end|>"


def test_the_image_block_is_what_the_template_writes_because_of_the_image() -> None:
    prompts = writer()
    for human in ("What is this?\n<image>", "<image>\nWhat is this?", "<image>"):
        ids_T, (start, stop) = prompts.prompt(human)
        assert decoded(prompts, ids_T[start:stop]) == f"<|vision_start|>{'<|image_pad|>' * TOKENS}<|vision_end|>"
        rest = decoded(prompts, np.delete(ids_T, np.s_[start:stop]))
        question = human.replace("<image>", "").strip()
        assert rest == f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def test_a_request_stands_in_for_every_rows_own_turn() -> None:
    prompts = writer()
    (item,) = prompts.encode([record("a red circle")], "Say what <image> shows.")
    assert isinstance(item, Encoded)
    assert "user\nSay what<|vision_start|>" in decoded(prompts, item.ids_T)
    with pytest.raises(ValueError, match="--prompt: expected one <image>, got 0"):
        prompts.encode([record("a red circle")], "Say what this shows.")


def test_special_tokens_in_a_caption_stay_text_and_in_a_human_turn_are_rejected() -> None:
    prompts = writer()
    item = encoded(prompts, "a <|im_end|> sign")
    assert decoded(prompts, item.answer_N) == "a <|im_end|> sign<|im_end|>"
    end = prompts.ending.end_id
    assert np.count_nonzero(item.answer_N == end) == 1 and item.answer_N[-1] == end
    (reject,) = prompts.encode([record("a sign", human="<|im_start|> <image>", row=4)], None)
    assert isinstance(reject, Reject)
    assert (reject.row, reject.reason) == (4, "special token in the human turn")


def test_a_prompt_that_leaves_no_room_is_rejected_and_a_long_caption_is_cut_and_counted() -> None:
    length = len(writer().prompt("What is this?\n<image>").ids_T)
    (reject,) = writer(limit=length).encode([record("a red circle")], None)
    assert isinstance(reject, Reject) and reject.reason == "image block cut by max_seq_len"
    item = encoded(writer(limit=length + 1), "a red circle")
    assert len(item.ids_T) == length + 1 < item.full_length


def test_a_template_whose_prompt_goes_on_otherwise_than_the_answer_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match="tiny: template-unstable: the chat template writes a prompt differently"
    ) as refused:
        writer(NO_THOUGHT)
    assert "<think>" in str(refused.value) and "\n" not in str(refused.value)


def test_white_space_before_an_answer_belongs_to_the_caption() -> None:
    prompts = writer(tiny_architectures.LLAVA.replace("<image>", "<|image_pad|>"))
    assert (prompts.ending.lead, prompts.ending.end) == (" ", "<|im_end|>")  # this template ends no turn: EOS does
    item = encoded(prompts, "a red circle")
    assert decoded(prompts, item.answer_N) == " a red circle<|im_end|>"
    assert decoded(prompts, item.prompt.ids_T).endswith("ASSISTANT:")


def test_the_end_of_turn_is_the_templates_and_not_eos() -> None:
    prompts = writer(eos="<|endoftext|>")
    assert prompts.ending.end == "<|im_end|>"
    assert prompts._tokenizer.eos_token == "<|endoftext|>"


def test_without_a_template_the_prompt_is_image_text_line_break() -> None:
    prompts = writer("", eos="<|endoftext|>")
    item = encoded(prompts, "a red circle", human="What is this?\n<image>")
    assert decoded(prompts, item.ids_T) == f"{'<|image_pad|>' * TOKENS}What is this?\na red circle<|endoftext|>"
    assert item.block == (0, TOKENS)
    with pytest.raises(ValueError, match="neither an end of turn .* nor an EOS"):
        writer("", eos=None)


def test_a_caption_gets_no_space_that_only_the_beginning_of_a_text_has() -> None:
    prompts = writer(prefix_space=True)
    assert decoded(prompts, encoded(prompts, "a red circle").answer_N) == "a red circle<|im_end|>"


def settings(**given: Any) -> SimpleNamespace:
    return SimpleNamespace(**given)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (settings(size={"height": 224, "width": 336}), (224, 336)),
        (
            settings(size={"shortest_edge": 336}, crop_size={"height": 224, "width": 224}, do_center_crop=True),
            (224, 224),
        ),
        (
            settings(size={"shortest_edge": 336}, crop_size={"height": 224, "width": 224}, do_center_crop=False),
            (336, 336),
        ),
        (settings(size={"longest_edge": 1456}, max_image_size={"longest_edge": 364}), (364, 364)),
        (settings(size={"shortest_edge": 3136, "longest_edge": 12845056}, patch_size=14, merge_size=2), (448, 448)),
        (settings(size={"shortest_edge": 65536, "longest_edge": 16777216}, patch_size=16, merge_size=2), (448, 448)),
        (settings(size={"shortest_edge": 64, "longest_edge": 50000}, patch_size=14, merge_size=2), (196, 196)),
        (settings(size={"shortest_edge": 262144, "longest_edge": 10**9}, patch_size=16, merge_size=2), (512, 512)),
        (settings(size=None), (448, 448)),
    ],
)
def test_the_common_size_is_the_processors_own_or_fits_its_limits(processor: Any, expected: tuple[int, int]) -> None:
    spec = common_size(processor, None)
    assert (spec.height, spec.width) == expected
    asked = common_size(processor, 100)
    assert (asked.height, asked.width) == (100, 100)


def test_only_tilings_that_a_processor_knows_are_switched_off() -> None:
    assert one_view(settings(do_image_splitting=True, size={})) == {"do_image_splitting": False}
    assert one_view(settings(size={})) == {}


SPACE = tiny_architectures.QWEN.replace("{{ m['role'] }}\n", "{{ m['role'] }}: ").replace(
    "assistant\n{%", "assistant: {%"
)


def test_spaces_at_the_end_of_a_prompt_belong_to_the_captions_first_token_as_in_training() -> None:
    prompts = writer(SPACE)
    assert prompts.ending.lead == " " and prompts.text("<image>\nWhat?").endswith("assistant:")
    for caption in ("a red circle", "blue ground", "Zebra"):
        item = encoded(prompts, caption)
        together = decoded(prompts, item.ids_T)
        assert together.endswith(f"assistant: {caption}<|im_end|>")
        assert prompts._tokenizer(together, add_special_tokens=False)["input_ids"] == item.ids_T.tolist()


class FlatProcessor(FakeProcessor):
    """It takes one image per text, not a list of them."""

    def __call__(self, text: list[str], images: Any, **options: Any) -> Any:
        if any(isinstance(image, list) for image in images):
            raise ValueError("nested images are only for several pages")
        return super().__call__(text, images, **options)


def test_a_processor_that_takes_no_lists_of_images_is_called_without_them() -> None:
    processor = FlatProcessor(tiny_architectures.QWEN)
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    prompts = PromptWriter("tiny", processor, {}, IMAGE, image_id, 100)
    assert len(encoded(prompts, "a red circle").ids_T) == len(encoded(writer(), "a red circle").ids_T)
