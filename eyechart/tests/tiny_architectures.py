"""Tiny random-weight models of seven architectures, saved with tokenizer and processor as their real ones are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tiny_rows import COLOURS, SHAPES

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{IMAGE}{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = CHATML.replace("{IMAGE}", "<|vision_start|><|image_pad|><|vision_end|>")
LLAVA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] if c['type'] == 'image' %}"
    "<image>\n{% endfor %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %} "
    "{% else %}ASSISTANT: {{ m['content'][0]['text'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}:{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}"
    "{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def make_tokenizer(special: list[str], eos: str, bos: str | None = None, **named: str) -> Any:
    """Byte-level BPE over a few captions, with an architecture's special tokens; `named` become its attributes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    sentences = [
        f"a {colour} {shape} on a {other} ground" for colour in COLOURS for shape in SHAPES for other in COLOURS
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*sentences, "Describe the picture.\n", "What is this?\n"] * 2, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, pad_token=eos, bos_token=bos, extra_special_tokens=named
    )


def shaken(model: Any) -> Any:
    """Larger weights than the default initialisation: otherwise every output is nearly the same."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def save(folder: Path, model: Any, tokenizer: Any, image: dict[str, Any], processor: dict[str, Any], chat: str) -> Path:
    """The files of a checkpoint, as a hub repository has them."""
    shaken(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    defaults = {"do_resize": True, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    settings = {**defaults, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **image, **processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    if chat:
        (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    return folder


def llava(folder: Path) -> Path:
    tokenizer = make_tokenizer(["<s>", "</s>", "<image>"], "</s>", "<s>")
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER, image_size=28, patch_size=14, projection_dim=16),
        text_config=hf.LlamaConfig(vocab_size=len(tokenizer), **TEXT, bos_token_id=0, eos_token_id=1, pad_token_id=1),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    image = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
        "do_center_crop": True,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
    }
    return save(folder, hf.LlavaForConditionalGeneration(config), tokenizer, image, processor, LLAVA)


QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def _qwen(tokenizer: Any) -> dict[str, Any]:
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


def qwen2_5_vl(folder: Path) -> Path:
    tokenizer = make_tokenizer([*QWEN_SPECIAL, "<|video_pad|>"], "<|im_end|>")
    text = {k: v for k, v in TEXT.items() if k != "head_dim"}
    config = hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        **_qwen(tokenizer),
    )
    image = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 4,
        "merge_size": 2,
        "temporal_patch_size": 2,
    }
    image |= {"min_pixels": 64, "max_pixels": 576}
    return save(
        folder,
        hf.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer,
        image,
        {"processor_class": "Qwen2_5_VLProcessor"},
        QWEN,
    )


def qwen3_vl(folder: Path) -> Path:
    tokenizer = make_tokenizer([*QWEN_SPECIAL, "<|video_pad|>"], "<|im_end|>")
    config = hf.Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={
            **TEXT,
            "num_hidden_layers": 3,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True},
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        **_qwen(tokenizer),
    )
    image = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 4,
        "merge_size": 2,
        "temporal_patch_size": 2,
    }
    image |= {"size": {"shortest_edge": 64, "longest_edge": 576}}
    return save(
        folder,
        hf.Qwen3VLForConditionalGeneration(config),
        tokenizer,
        image,
        {"processor_class": "Qwen3VLProcessor"},
        QWEN,
    )


def _idefics(folder: Path, kind: str) -> Path:
    tiles = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    special = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>", *tiles]
    tokenizer = make_tokenizer(special, "<end_of_utterance>", "<|im_start|>")
    config = getattr(hf, f"{kind}Config")(
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        text_config=hf.LlamaConfig(vocab_size=len(tokenizer), **TEXT, bos_token_id=0, eos_token_id=1, pad_token_id=1),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=1,
    )
    image = {
        "image_processor_type": f"{kind}ImageProcessor",
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 32},
        "do_image_splitting": True,
        "do_pad": True,
        "do_convert_rgb": True,
    }
    processor = {"processor_class": f"{kind}Processor", "image_seq_len": 4}
    return save(folder, getattr(hf, f"{kind}ForConditionalGeneration")(config), tokenizer, image, processor, IDEFICS)


def idefics3(folder: Path) -> Path:
    return _idefics(folder, "Idefics3")


def smolvlm(folder: Path) -> Path:
    return _idefics(folder, "SmolVLM")


GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]


def gemma3(folder: Path) -> Path:
    image_tokens = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = make_tokenizer([*GEMMA_SPECIAL, *image_tokens.values()], "<eos>", "<bos>", **image_tokens)
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**TOWER, image_size=32, patch_size=8),
        text_config=hf.Gemma3TextConfig(
            vocab_size=len(tokenizer), **TEXT, sliding_window=64, bos_token_id=2, eos_token_id=1, pad_token_id=0
        ),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    image = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 32, "width": 32}}
    processor = {"processor_class": "Gemma3Processor", "image_seq_length": 4}
    return save(folder, hf.Gemma3ForConditionalGeneration(config), tokenizer, image, processor, GEMMA)


def paligemma(folder: Path) -> Path:
    locations = [f"<loc{i:04d}>" for i in range(1024)] + [f"<seg{i:03d}>" for i in range(128)]
    tokenizer = make_tokenizer([*GEMMA_SPECIAL, "<image>"], "<eos>", "<bos>", image_token="<image>")
    tokenizer.add_tokens(locations)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, image_size=32, patch_size=16, vision_use_head=False),
        text_config=hf.GemmaConfig(vocab_size=len(tokenizer), **TEXT, bos_token_id=2, eos_token_id=1, pad_token_id=0),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    image = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}, "image_seq_length": 4}
    return save(
        folder,
        hf.PaliGemmaForConditionalGeneration(config),
        tokenizer,
        image,
        {"processor_class": "PaliGemmaProcessor"},
        "",
    )


def internvl(folder: Path) -> Path:
    image_tokens = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer([*QWEN_SPECIAL[:3], *image_tokens.values()], "<|im_end|>", **image_tokens)
    config = hf.InternVLConfig(
        vision_config={**TOWER, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config=hf.Qwen2Config(
            vocab_size=len(tokenizer), **TEXT, bos_token_id=None, eos_token_id=2, pad_token_id=0
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    image = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": 32, "width": 32},
        "crop_to_patches": True,
    }
    image |= {"min_patches": 1, "max_patches": 4}
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    chat = CHATML.replace("{IMAGE}", "<IMG_CONTEXT>")
    return save(folder, hf.InternVLForConditionalGeneration(config), tokenizer, image, processor, chat)


ARCHITECTURES: dict[str, Callable[[Path], Path]] = {
    kind.__name__: kind for kind in (llava, qwen2_5_vl, qwen3_vl, idefics3, smolvlm, gemma3, paligemma, internvl)
}
