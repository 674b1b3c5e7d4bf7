"""Processors with other forms of pixels than those of `tiny_architectures`, made in memory and without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers as hf

from batches import Made
from tiny_architectures import CHATML, IDEFICS, make_tokenizer

LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|image|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHAT = ["<|im_start|>", "<|im_end|>", "<image>"]


def llava_next() -> Any:
    """[images, tiles, C, H, W] with `image_sizes`."""
    tokenizer = make_tokenizer(CHAT, "<|im_end|>", image_token="<image>")
    image_processor = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )
    return hf.LlavaNextProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHATML.replace("{IMAGE}", "<image>"),
    )


def mllama() -> Any:
    """[B, images, tiles, C, H, W]; one position per image, which the language model reads by cross-attention."""
    special = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|image|>"]
    tokenizer = make_tokenizer([*special, "<|python_tag|>"], "<|eot_id|>", "<|begin_of_text|>")
    image_processor = hf.MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4)
    return hf.MllamaProcessor(image_processor, tokenizer, chat_template=LLAMA)


def idefics2() -> Any:
    """[B, tiles, C, H, W] of varying height and width with a mask."""
    special = ["<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<|im_start|>"]
    tokenizer = make_tokenizer(special, "<end_of_utterance>", "<s>")
    size = {"shortest_edge": 28, "longest_edge": 56}
    image_processor = hf.Idefics2ImageProcessorPil(size=size, do_image_splitting=True)
    return hf.Idefics2Processor(image_processor, tokenizer, image_seq_len=4, chat_template=IDEFICS)


def aya_vision() -> Any:
    """[tiles of all rows, C, H, W], with as many positions per tile."""
    marks = ["<|IMG_PATCH|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"]
    tokenizer = make_tokenizer([*CHAT, *marks], "<|im_end|>")
    image_processor = hf.GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    template = CHATML.replace("{IMAGE}", "<image>")
    return hf.AyaVisionProcessor(
        image_processor, tokenizer, patch_size=14, img_size=28, downsample_factor=2, chat_template=template
    )


MAKERS: dict[str, Callable[[], Any]] = {make.__name__: make for make in (llava_next, mllama, idefics2, aya_vision)}


def more(name: str) -> Made:
    """A processor without a config; skipped if transformers has no Pillow image processor for it."""
    try:
        return Made(MAKERS[name](), None)
    except ImportError as error:
        pytest.skip(f"transformers {hf.__version__}: {str(error).strip().splitlines()[0]}")
