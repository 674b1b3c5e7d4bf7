"""What the rules of `model_checkpoints` do not get right, type by type."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Special:
    """Exceptions of one type from the rules."""

    config: dict[str, Any] = field(default_factory=dict)
    """Arguments of the configuration; a dict changes parts of a nested configuration, `...` leaves a field out."""
    nested: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The same by dotted path of the nested configuration."""
    config_of: str = ""
    """The type whose configuration is used instead."""
    parts_of: str = ""
    """The type whose image and video processors are used instead."""
    processor: str = ""
    """Name of the processor class, where transformers has no entry for the type."""
    image_processor: str = ""
    image: dict[str, Any] = field(default_factory=dict)
    """Settings of the image processor."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the processor."""
    video_processor: str = ""
    video: dict[str, Any] = field(default_factory=dict)
    """Settings of the video processor."""
    feature_extractor: str = ""
    """Name of the class of the audio half."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Named special tokens of the tokenizer."""
    more_tokens: tuple[str, ...] = ()
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the tokenizer."""
    ids: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Configuration fields that hold the ids of these tokens."""
    image_text: str = ""
    """What the chat template writes for an image; by default the processor's image token."""
    side: int | None = None
    """Side of an image in pixels."""
    spread: float = 0.25
    """Standard deviation of random weights."""
    tolerance: float = 1e-4
    """Allowed difference of a token's loss in nats; mixtures of experts have 5e-4."""


NO_TEMPLATE = frozenset({"blip", "blip-2", "git", "florence2", "idefics", "instructblip", "instructblipvideo",
                         "kosmos-2", "kosmos-2.5", "paligemma", "pix2struct", "pp_formulanet", "udop", "fuyu", "pi0",
                         "vision-encoder-decoder", "evolla"})  # fmt: skip
"""Types whose published checkpoints have no chat template."""

_QWEN = Special(image_text="<|vision_start|><|image_pad|><|vision_end|>",
                tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
                        "vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"})  # fmt: skip

_GEMMA = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
_GLM = Special(image_text="<|begin_of_image|><|image|><|end_of_image|>",
               tokens={"image_token": "<|image|>", "video_token": "<|video|>"},
               more_tokens=("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
                            "<|end_of_video|>"))  # fmt: skip


def _codes(name: str) -> dict[str, int]:
    """Return the vocabulary entries of 64 image codes, named by letters, after the special tokens."""
    letters = "ABCDEFGHIJ"
    return {name.format(letters[i // 10] + letters[i % 10]): 600 + i for i in range(64)}


_LLAVA = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}

_MROPE = {
    "text_config": {
        "num_hidden_layers": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }
}
_GLM, _QWEN = replace(_GLM, nested=_MROPE), replace(_QWEN, nested=_MROPE)
_HYBRID = {"text_config": {"num_hidden_layers": 4}}
_UNNAMED = Special(tokens={"image_token": ""}, arguments={"num_query_tokens": 4})
_AUDIO = {"audio_token": "<audio>", "image_token": "<image>", "boi_token": "<|boi|>", "eoi_token": "<|eoi|>",
          "boa_token": "<|boa|>", "eoa_token": "<|eoa|>"}  # fmt: skip
_GEMMA4_TOWER = {"model_type": "gemma4_vision", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "patch_size": 16,
                 "position_embedding_size": 256}  # fmt: skip
_MINICPM = Special(image={"patch_size": 16, "scale_resolution": 64})
_PATCHES = Special(image={"max_patches": 64}, nested={"vision_config": {"patch_embed_hidden_size": 768}})

SPECIAL: dict[str, Special] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "cosmos3_edge"), _QWEN),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe"), replace(_QWEN, nested=_HYBRID)),
    "qwen4_exp": replace(
        _QWEN,
        nested={
            "text_config": {
                "num_hidden_layers": 4,
                "indexer_n_heads": 4,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 8,
                "indexer_budget": 64,
                "indexer_compress_ratio": 4,
            }
        },
    ),
    **dict.fromkeys(("glm4v", "glm46v"), _GLM),
    "glm5_next": replace(_GLM, nested=_HYBRID),
    "lfm3_vl": Special(nested=_HYBRID),
    "aria": Special(
        side=980,
        config={"projector_patch_to_query_dict": {49: 4}},
        nested={"vision_config": {"patch_size": 140}},
        image={"max_image_size": 980},
        arguments={"size_conversion": {980: 4}},
    ),  # fmt: skip
    "aya_vision": Special(arguments={"img_size": 56, "downsample_factor": 2}),
    "cohere2_vision": Special(image={"patch_size": 2}),
    "cohere_compass": Special(
        nested={
            "text_config": {
                "num_hidden_layers": 3,
                "layer_types": ["full_attention"] * 3,
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
                },
            }
        }
    ),
    **dict.fromkeys(
        ("got_ocr2", "pp_chart2table"), Special(side=1024, nested={"vision_config": {"global_attn_indexes": []}})
    ),  # fmt: skip
    "chameleon": Special(
        arguments={"image_seq_length": 16},
        tokenizer={"sep_token": "<reserved08706>"},
        config={"vocabulary_map": {"<image>": 6, **_codes("IMGIMG{}Z")}},
        nested={"vq_config": {"resolution": 64}},
    ),  # fmt: skip
    "deepseek_ocr2": Special(
        nested={
            "vision_config.sam_config": {"downsample_channels": [32, 32]},
            "text_config": {"mlp_layer_types": ["dense", "sparse"]},
        }
    ),
    "molmo2": Special(image={"overlap_margins": [1, 1]}, nested={"adapter_config": {"vision_feature_layer": [1, 0]}}),
    "nemotron_h_omni": Special(feature_extractor="ParakeetFeatureExtractor"),
    "granite4_vision": Special(
        nested={
            "vision_config": {"hidden_size": 64},  # one head of the Q-Former for each 64
            "qformer_config": {"hidden_size": 64, "encoder_hidden_size": 64, "num_attention_heads": 1},
        },
        arguments={**_LLAVA, "downsample_rate": "1/2"},
        config={"downsample_rate": "1/2", "deepstack_layer_map": [[-1, 0]], "spatial_target_layers": [1, 1, 1, 1]},
    ),
    "hunyuan_vl": Special(
        nested={
            "text_config": {
                "head_dim": 8,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1, 1]},
            }
        }
    ),
    "ernie4_5_vl_moe": Special(
        video={"draw_on_frames": False},
        nested={
            "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
        },
    ),
    "deepseek_vl": Special(arguments={"num_image_tokens": 16}),
    "deepseek_vl_hybrid": Special(
        arguments={"num_image_tokens": 16}, image={"high_res_size": {"height": 64, "width": 64}}
    ),
    "janus": Special(arguments={"num_image_tokens": 16}),
    "gemma4": Special(tokens=_AUDIO, image={"max_soft_tokens": 70}, config={"vision_config": _GEMMA4_TOWER}),
    "gemma4_unified": Special(tokens=_AUDIO),
    "unlimited_ocr": Special(nested={"vision_config.sam_config": {"downsample_channels": [32, 32]}}),
    "gemma3n": Special(tokens=_AUDIO, nested={"vision_config": {"hidden_size": 2048}}),
    "step3p7": Special(nested={"text_config": {"sliding_window": 64}}),
    "mistral4": Special(processor="PixtralProcessor", parts_of="mistral3", arguments={"spatial_merge_size": 2}),
    "emu3": Special(
        config={
            "vocabulary_map": {
                **{f"<|visual token {i:06d}|>": 600 + i for i in range(64)},
                "<|extra_200|>": 700,
                "<image>": 6,
            }
        }
    ),
    "fuyu": Special(more_tokens=("|SPEAKER|", "|NEWLINE|")),
    "granite_docling": Special(arguments={"image_seq_len": 1}, nested={"text_config": {"num_hidden_layers": 3}}),
    "idefics3": Special(arguments={"image_seq_len": 4}, side=128),
    "smolvlm": Special(arguments={"image_seq_len": 4}, side=128),
    "idefics2": Special(arguments={"image_seq_len": 3}, nested={"perceiver_config": {"resampler_n_latents": 3}}),
    "instructblip": _UNNAMED,
    "blip-2": _UNNAMED,
    "kosmos-2.5": replace(_PATCHES, processor="Kosmos2_5Processor"),
    "pix2struct": _PATCHES,
    "mllama": Special(nested={"vision_config": {"vision_output_dim": 96}}),
    **dict.fromkeys(("mistral3", "mistral_large4"), Special(arguments={"spatial_merge_size": 2})),
    **dict.fromkeys(
        ("muse_glimmer", "muse_spark"),
        Special(config={"out_hidden_size": 128}, nested={"audio_config": {"num_hidden_layers": 4}}),
    ),
    "ovis2": Special(
        arguments={"image_seq_length": 16},
        more_tokens=("<IMG_START>", "<IMG_GRID>"),
        ids={
            "image_token_id": "<IMG_ATOM>",
            "visual_indicator_token_ids": ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
        },
    ),
    "paddleocr_vl": Special(nested=_MROPE),
    "paligemma": Special(image={"image_seq_length": 16}),
    "qianfan_ocr": Special(arguments={"image_seq_length": 4}, image_text="<image>"),
    "llama4": Special(
        ids={"image_token_index": "<|patch|>"},
        nested={
            "vision_config": {
                "intermediate_size": 128,
                "projector_input_dim": 32,
                "projector_output_dim": 32,
                "vision_output_dim": 32,
            }
        },
    ),
    "minimax_m3_vl": Special(
        more_tokens=("]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>["),
        ids={"image_token_index": "]<]image[>["},
    ),  # fmt: skip
    "llava_onevision": Special(arguments={"num_image_tokens": 16, "vision_feature_select_strategy": "full"}),
    **dict.fromkeys(("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), _MINICPM),
    "cosmos3_omni": replace(_QWEN, processor="Qwen3VLProcessor", parts_of="qwen3_vl"),
    "fast_vlm": Special(processor="LlavaProcessor", parts_of="llava"),
    "glm4v_moe": replace(
        _GLM,
        parts_of="glm4v",
        nested={
            "text_config": {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 0.5,
                    "mrope_section": [0, 1, 1],
                }
            }
        },
    ),
    "glm_ocr": replace(_GLM, processor="Glm46VProcessor", parts_of="glm46v"),
    "glmga": replace(_GLM, processor="Glm46VProcessor", parts_of="glmga", video_processor="Glm46VVideoProcessor"),
    "kosmos-2": Special(processor="Kosmos2Processor"),
    "qwen2_5_omni_thinker": Special(
        processor="Qwen2_5OmniProcessor",
        parts_of="qwen2_5_omni",
        nested=_MROPE,
        ids={"vision_start_token_id": "<|vision_bos|>"},
        image_text="<|vision_bos|><image><|vision_eos|>",
    ),
    "qwen3_omni_moe_thinker": Special(
        processor="Qwen3OmniMoeProcessor",
        parts_of="qwen3_omni_moe",
        nested=_MROPE,
        ids={"vision_start_token_id": "<|vision_bos|>"},
        image_text="<|vision_bos|><image><|vision_eos|>",
    ),
    "qwen3_vl_moe": replace(_QWEN, parts_of="qwen3_vl"),
    "diffusion_gemma": Special(parts_of="gemma4"),
    "vision-encoder-decoder": Special(processor="TrOCRProcessor", parts_of="vit"),
    "gemma3": Special(tokens=_GEMMA, image_text="<start_of_image>", arguments={"image_seq_length": 4}),
    "shieldgemma2": Special(tokens=_GEMMA, image_text="<start_of_image>", arguments={"image_seq_length": 4}),
    "t5gemma2": Special(tokens=_GEMMA, image_text="<start_of_image>", arguments={"image_seq_length": 4}),
    **dict.fromkeys(("llava", "llava_next"), Special(arguments=_LLAVA)),
    "vipllava": Special(arguments=_LLAVA, config={"vision_feature_layers": [-1, -2]}),
    "internvl": Special(
        arguments={"image_seq_length": 4},
        image_text="<IMG_CONTEXT>",
        tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),  # fmt: skip
}
"""The exceptions, by type."""
