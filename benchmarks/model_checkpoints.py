"""Makes a tiny checkpoint with random weights for any image-text-to-text type of transformers.

The default configuration of a type is shrunk by rules: every width becomes `WIDTH`, every stack has two layers, images
have `GRID` x `GRID` patches. The image processor gets the same sizes, the tokenizer gets the special tokens that the
type's processor names in its source, and the chat template writes the processor's image token. What the rules do not
get right is in `SPECIAL` of `model_special`. The files are written by `save_pretrained`, as those of real checkpoints.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from model_special import NO_TEMPLATE, SPECIAL, Special

WIDTH, HEADS, VOCABULARY, GRID = 32, 4, 1024, 4
CAPTIONS = (
    "a red circle on a blue ground",
    "a green cross",
    "a yellow square",
    "blue",
    "two red dots",
    "no shape here",
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_BASE_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<audio>")
_STANDARD = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token",
             "add_bos_token", "add_eos_token")  # fmt: skip
_SIZES: tuple[tuple[str, Any], ...] = (
    (r"(vocab_size|ngram_vocab_size_base|vocab_size_per_layer_input)", VOCABULARY),
    (r"(num_hidden_layers|num_layers|n_layers|layers|depth|encoder_layers|decoder_layers|num_decoder_layers)", 2),
    (r"(resampler_depth|num_global_layers|conf_num_hidden_layers)", 1),
    (r"(num_attention_heads|num_heads|attention_heads|encoder_attention_heads|decoder_attention_heads)", HEADS),
    (r"(resampler_n_heads|index_n_heads|resampler_heads|swa_num_attention_heads|num_sliding_attention_heads)", HEADS),
    (r"(num_key_value_heads|swa_num_key_value_heads)", "kv"),
    (r"(linear_num_heads|linear_num_key_heads|linear_num_value_heads|mamba_num_heads)", HEADS),
    (r"(head_dim|v_head_dim|qk_nope_head_dim|qk_rope_head_dim|index_head_dim|swa_head_dim|resampler_head_dim)", 8),
    (
        r"(linear_head_dim|linear_key_head_dim|linear_value_head_dim|mamba_head_dim|ssm_state_size|resampler_dim_head)",
        8,
    ),
    (r"(q_lora_rank|kv_lora_rank|laurel_rank|hc_lowrank|hidden_size_per_layer_input)", 16),
    (r"(qk_head_dim)", 16),
    (r"(rotary_dim)", 4),
    (r"(intermediate_size\w*|\w+_intermediate_size|ffn_dim|\w+_ffn_dim|mlp_dim|share_expert_dim)", 2 * WIDTH),
    (r"(\w*hidden_size|hidden_dim|embed_dim|d_model|projection_dim|output_dim|\w+_hidden_dim|d_kv|d_ff)", WIDTH),
    (r"(word_embed_proj_dim|ple_embed_dim|adapter_in_dim|adapter_out_dim|output_channels|pooler_output_size)", WIDTH),
    (r"(image_text_hidden_size|image_token_embed_dim|moe_latent_size)", WIDTH),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts)", 4),
    (r"(num_experts_per_tok|moe_k|moe_topk|experts_per_token|top_k_experts)", 2),
    (r"(n_group|topk_group)", 1),
    (r"(max_position_embeddings)", 512),
    (r"(num_position_embeddings|num_patches|num_image_tokens)", GRID * GRID),
    (r"(mm_tokens_per_image|num_query_tokens)", 4),
    (r"(sliding_window|sliding_window_size|attention_chunk_size)", 64),
    (r"(num_nextn_predict_layers|num_kv_shared_layers)", 0),
    (r"(base_channels)", 32),
    (r"(num_embeddings|codebook_size)", 64),
    (r"(latent_channels|num_res_blocks)", "small"),
)
"""Names of configuration fields, and their values in a tiny model."""
_LAYERS = re.compile(r"(deepstack_visual_indexes|intermediate_layers_indices)")


def types() -> list[str]:
    """Return every registered image-text-to-text type of the installed transformers."""
    return list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def make_checkpoint(kind: str, folder: Path) -> None:
    """Write the tiny checkpoint of one type into `folder`. Any error means that there is none."""
    special = SPECIAL.get(kind, Special())
    default = CONFIG_MAPPING[special.config_of or kind]()
    side = _side(default) if special.side is None else special.side
    name = special.processor or PROCESSOR_MAPPING_NAMES.get(kind)
    if name is None:
        raise ValueError("transformers has no processor for it, and the table of special cases names none")
    processor_class = getattr(hf, name)
    tokenizer = make_tokenizer(processor_class, special)
    processor = _processor(kind, processor_class, tokenizer, side, special)
    ids = _token_ids(processor)
    overrides = _shrunk(default, ids, side, special.nested)
    overrides.pop("model_type", None)
    for name, texts in special.ids.items():
        overrides[name] = tokenizer.convert_tokens_to_ids(list(texts) if isinstance(texts, tuple) else texts)
    config = type(default)(**_merged(overrides, special.config))
    torch.manual_seed(0)
    model = getattr(hf, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind])(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=special.spread)
    model.eval().save_pretrained(folder)
    if kind not in NO_TEMPLATE:
        written = special.image_text or getattr(processor, "image_token", None) or "<image>"
        processor.chat_template = _CHATML.replace("IMAGE", str(written))
    processor.save_pretrained(folder)


def make_tokenizer(processor_class: type, special: Special) -> Any:
    """Return a byte-level BPE tokenizer with the special tokens that the source of a processor names."""
    source = inspect.getsource(inspect.getmodule(processor_class))  # type: ignore[arg-type]  # a class has a module
    literals = re.findall(r"""["'](<[^"'\s{}()\\]+>|\[[A-Z_]+\])["']""", source)
    asked = {name.removesuffix("_id") for name in re.findall(r"tokenizer\.(\w+_token(?:_id)?)\b", source)}
    named = {name: special.tokens.get(name, _token_text(name, literals)) for name in sorted(asked - set(_STANDARD))}
    named = {name: text for name, text in (named | special.tokens).items() if text}
    known = list(dict.fromkeys([*_BASE_TOKENS, *literals, *named.values(), *special.more_tokens]))
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(known) + 300
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=known, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*CAPTIONS, "Describe the picture.\n", "What is this?\n"] * 4, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=named,
        **special.tokenizer,
    )


def _token_text(name: str, literals: list[str]) -> str:
    """Return the text of a named special token: a literal of the processor with this name, or the name itself."""
    stem = name.removesuffix("_token")
    if stem in ("image", "video", "audio"):
        same = [text for text in literals if text.strip("<|>").lower() in (stem, f"{stem}_pad")]
        return same[0] if same else f"<{stem}>"
    return f"<|{stem}|>"


def _processor(kind: str, processor_class: type, tokenizer: Any, side: int, special: Special) -> Any:
    arguments: dict[str, Any] = {}
    for name in inspect.signature(processor_class.__init__).parameters:  # type: ignore[misc]  # a class's own method
        if name == "tokenizer":
            arguments[name] = tokenizer
        elif name == "image_processor":
            arguments[name] = _image_processor(kind, side, special)
        elif name == "video_processor":
            video = _class_of(VIDEO_PROCESSOR_MAPPING_NAMES, special.parts_of or kind, special.video_processor)
            arguments[name] = video(**special.video) if video else None
        elif name == "feature_extractor":
            audio = _class_of(FEATURE_EXTRACTOR_MAPPING_NAMES, special.parts_of or kind, special.feature_extractor)
            arguments[name] = audio() if audio else None
        elif name == "qformer_tokenizer":
            arguments[name] = tokenizer
        elif name == "patch_size":
            arguments[name] = side // GRID
    return processor_class(**{**arguments, **special.arguments})


def _image_processor(kind: str, side: int, special: Special) -> Any:
    image_class = _class_of(IMAGE_PROCESSOR_MAPPING_NAMES, special.parts_of or kind, special.image_processor)
    name = image_class.__name__
    default = image_class()
    given: dict[str, Any] = {}
    if getattr(default, "crop_size", None) is not None:
        given["crop_size"] = {"height": side, "width": side}
    size = dict(getattr(default, "size", None) or {})
    if size.get("longest_edge") and getattr(default, "merge_size", None):  # areas in pixels, of Qwen's processors
        given["size"] = {"shortest_edge": side * side, "longest_edge": side * side}
    elif size:
        given["size"] = {key: side for key, value in size.items() if value is not None}
    if getattr(default, "image_grid_pinpoints", None):
        given["image_grid_pinpoints"] = pinpoints(side)
    if getattr(default, "max_image_size", None) is not None:
        given["max_image_size"] = (
            {"longest_edge": side} if name.endswith(("cs3ImageProcessor", "VLMImageProcessor")) else side
        )
    if isinstance(getattr(default, "patch_size", None), int) and getattr(default, "merge_size", None):
        given["patch_size"] = side // GRID
    return image_class(**{**given, **special.image})


def pinpoints(side: int) -> list[list[int]]:
    """Return the sizes to which LLaVA-NeXT and its relatives resize an image before they cut it into tiles."""
    return [[side, side], [side, 2 * side], [2 * side, side]]


def _class_of(names: Any, kind: str, name: str) -> Any:
    """Return a class of transformers: the one called `name`, otherwise that of the type in a table; None if none."""
    found = names.get(kind)
    if isinstance(found, dict):
        found = found.get("torchvision") or found.get("pil")
    found = name or found
    return getattr(hf, found) if found else None


def _token_ids(processor: Any) -> dict[str, int]:
    """Return the ids of the special tokens by the names that configurations use."""
    tokenizer, found = processor.tokenizer, dict[str, int]()
    for holder in (tokenizer, processor):
        names = [name for name in dir(holder) if re.fullmatch(r"\w+_token(_id)?", name) and name not in _STANDARD]
        for name in names:
            try:
                value = getattr(holder, name)
            except AttributeError:
                continue
            if name.endswith("_id"):
                found.setdefault(name.removesuffix("_id"), value) if isinstance(value, int) else None
            elif isinstance(value, str) and value:
                found[name] = int(tokenizer.convert_tokens_to_ids(value))
    image = getattr(processor, "image_token_id", None)
    if isinstance(image, int):
        found["image_token"] = image
    found.setdefault("image_token", int(tokenizer.convert_tokens_to_ids("<image>")))
    named = tokenizer.init_kwargs.get("extra_special_tokens") or {}
    if processor.__class__.__name__.startswith(
        ("Gemma", "ShieldGemma")
    ):  # its `image_token` is what the template writes
        found["image_token"] = int(tokenizer.convert_tokens_to_ids(named["image_token"]))
    return {**found, "bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id,
            "pad_token": tokenizer.pad_token_id, "decoder_start_token": tokenizer.bos_token_id}  # fmt: skip


def _side(config: Any) -> int:
    """Return the side of a tiny image: `GRID` patches of the vision tower's own patch size."""
    for part in (getattr(config, "vision_config", None), config, getattr(config, "encoder", None)):
        patch = getattr(part, "patch_size", None)
        patch = patch[0] if isinstance(patch, list | tuple) else patch
        if isinstance(patch, int):
            return GRID * patch
    sam = getattr(getattr(config, "vision_config", None), "sam_config", None)
    return GRID * int(getattr(sam, "patch_size", 16))


def _shrunk(
    config: Any, ids: dict[str, int], side: int, nested: dict[str, dict[str, Any]], path: str = ""
) -> dict[str, Any]:
    """Return the arguments of a tiny configuration of the same class."""
    found: dict[str, Any] = {}
    if getattr(config, "model_type", ""):
        found["model_type"] = config.model_type
    for name, value in vars(config).items():
        if isinstance(value, hf.PretrainedConfig):
            inner = f"{path}.{name}".strip(".")
            own = {**_unusual(value), **_shrunk(value, ids, side, nested, inner)}
            found[name] = _merged(own, nested.get(inner, {}))
        elif not name.startswith("_"):
            small = _small(name, value, config, ids, side)
            if small is not None:
                found[name] = small
    return found


def _unusual(config: Any) -> dict[str, Any]:
    """Return the single values of a nested configuration that differ from the defaults of its class."""
    usual = vars(type(config)())
    plain = {name: value for name, value in vars(config).items() if isinstance(value, int | float | str)}
    return {name: value for name, value in plain.items() if not name.startswith("_") and usual.get(name) != value}


def _small(name: str, value: Any, config: Any, ids: dict[str, int], side: int) -> Any:
    token = re.fullmatch(r"(\w+?_token)_(id|index)", name) or re.fullmatch(r"(boi|eoi|boa|eoa)_token_index", name)
    if token and (isinstance(value, int) or value is None):
        stem = token[1] if token[1].endswith("_token") else f"{token[1]}_token"
        return ids.get(stem, ids.get(stem.replace("vision_", "image_"))) if value is not None or stem in ids else None
    if name == "image_grid_pinpoints" and value:
        return pinpoints(side)
    if name == "image_size":
        return [side, side] if isinstance(value, list | tuple) else side if value else None
    if name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
        return {**value, "mrope_section": [2, 1, 1]} if value.get("mrope_section") else None
    if _LAYERS.fullmatch(name) and value:
        return [0, 1][: len(value)]
    if name in ("fullatt_block_indexes", "global_attn_indexes"):
        return [1]
    if name == "window_size" and isinstance(value, int):
        return 2 if hasattr(config, "global_attn_indexes") else side // 2
    if not isinstance(value, int) or isinstance(value, bool) or not value:
        return None
    for pattern, small in _SIZES:
        if re.fullmatch(pattern, name):
            if small == "kv":
                heads = vars(config).get("num_attention_heads") or vars(config).get("num_heads")
                return HEADS if value == heads else HEADS // 2
            return min(value, 4) if small == "small" else small
    return None


def _merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in more.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return {key: value for key, value in both.items() if value is not ...}
