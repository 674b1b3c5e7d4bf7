"""Results as a run would write them, and captions that try to become markup."""

import copy
from typing import Any

from eyechart.results import Ablation, Condition, Coverage, Results, Training, WrittenCaption

REASONS = {
    "PASS": ["gap(shuffled) +0.8872 +- 0.03 nats/token: its 99% lower bound +0.81 is above the margin 0.05"],
    "FAIL": ["gap(shuffled) +0.0001 +- 0.01 nats/token: its upper bound +0.02 is not above the margin 0.05"],
    "INCONCLUSIVE": ["gap(shuffled) +0.0600 +- 0.03 nats/token: the margin 0.05 lies between its bounds"],
}

RUN_SETTINGS: dict[str, Any] = {
    "output_dir": "outputs/stage1_align",
    "seed": 42,
    "threads": None,
    "model": {
        "attention": "sdpa",
        "precision": "fp32",
        "device": "auto",
        "vision": "google/siglip2-so400m-patch14-384",
        "llm": "Qwen/Qwen3-8B-Base",
    },
    "connector": {
        "latents": 64,
        "depth": 2,
        "heads": 8,
        "head_dim": 64,
        "mlp_ratio": 4.0,
        "vision_ln": False,
        "key_positions": False,
        "output_norm": False,
    },
    "prompt": {"template": "{human}\n", "image_block": "spliced", "caption_request": "<image>\nDescribe the picture."},
    "data": {
        "world": "none",
        "json_file": "data/llava_pretrain/blip_laion_cc_sbu_558k.json",
        "image_root": "data/llava_pretrain",
        "eval_json": None,
        "max_samples": None,
        "eval_ratio": 0.02,
        "max_seq_len": 512,
        "max_rejected": 0.01,
        "max_pixels": 178956970,
        "cache_features": "auto",
        "cache_gb": 2.0,
        "workers": 0,
    },
    "train": {
        "batch_size": 4,
        "accumulation": 4,
        "micro_batch_size": None,
        "epochs": 3,
        "lr": 0.0001,
        "schedule": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "betas": [0.9, 0.999],
        "clip": 1.0,
        "save_every": None,
        "keep_last": None,
        "keep_every": None,
        "tracker": "tensorboard",
        "ablate_every": "log",
    },
    "ablation": {
        "num_samples": 128,
        "batch_size": 16,
        "derangements": 4,
        "matching_k": 32,
        "words_min_count": 5,
        "mean_token_images": 512,
        "blind_captions": 4096,
        "margin_shuffled": 0.05,
        "margin_zero": 0.0,
        "margin_noise": 0.0,
        "gallery": 100,
    },
    "coverage": {"truncated_warn": 1.0, "truncated_fail": 2.0, "zero_label_fail": 0.1},
}
"""The settings of a run of Stage 1, as its results record them."""


def condition(loss: float | None, gap: float | None = None, margin: float | None = None) -> Condition:
    measured = gap is not None
    return Condition(
        loss=loss,
        gap=gap,
        se=0.01 if measured else None,
        ci95=(gap - 0.02, gap + 0.02) if gap is not None else None,
        lower99=gap - 0.03 if gap is not None else None,
        gate=margin is not None,
        margin=margin,
        meaning="what it costs",
    )


def make_ablation(verdict: str = "PASS", **changes: Any) -> Ablation:
    conditions = {
        "correct": condition(3.5150),
        "shuffled": condition(4.4022, 0.8872, 0.05),
        "zero": condition(5.2885, 1.7735, 0.0),
        "noise": condition(5.6652, 2.1502, 0.0),
        "no-image": condition(4.9, 1.385),
    }
    fields: dict[str, Any] = {
        "verdict": verdict,
        "reasons": REASONS[verdict],
        "samples": 100,
        "requested": 128,
        "label_tokens": 1310,
        "clusters": 99,
        "seed": 42,
        "derangements": 4,
        "conditions": conditions,
        "order": ["correct", "shuffled", "no-image", "zero", "noise"],
        "order_reading": "a wrong picture costs less than none",
        "needed_samples": 1234 if verdict == "INCONCLUSIVE" else None,
    }
    return Ablation(**{**fields, **changes})


def make_coverage(verdict: str = "PASS", **changes: Any) -> Coverage:
    fields: dict[str, Any] = {
        "verdict": verdict,
        "reasons": ["3.00% of 4900 samples are truncated, more than 2%" if verdict == "FAIL" else "fine"],
        "source": "training epoch 3",
        "samples": 4900,
        "truncated_pct": 3.0 if verdict == "FAIL" else 0.0,
        "zero_label_pct": 0.0,
        "avg_label_tokens": 13.1,
        "max_seq_len": 512,
        "smallest_max_seq_len": 96,
        "wrapper_tokens": 7.5,
        "image_block_tokens": 66,
    }
    return Coverage(**{**fields, **changes})


def make_results(verdict: str = "PASS", **changes: Any) -> Results:
    fields: dict[str, Any] = {
        "verdict": verdict,
        "reasons": REASONS[verdict],
        "checkpoint": "outputs/run/checkpoint_3675.pt",
        "command": "qwen3-vlm trial --config configs/run.yaml",
        "created": "2026-11-22T19:00:00+00:00",
        "training": Training(
            step=3675,
            updates=921,
            epochs=3,
            train_samples=4900,
            eval_samples=100,
            trained_parameters=82_445_824,
            train_loss=3.6,
            eval_loss=None,
            seconds=50.0,
            samples_per_second=294.0,
            peak_memory_gb=1.1,
        ),
        "ablation": make_ablation(verdict),
        "coverage": make_coverage(),
        "environment": {"python": "3.12.1", "gpu": "none"},
        "config": copy.deepcopy(RUN_SETTINGS),
        "samples": [WrittenCaption(row=7, image="a.png", true="a red circle", written="a red square")],
    }
    return Results(**{**fields, **changes})


INJECTIONS = [
    "</code><script>alert(1)</script>",
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "**bold** _it_ ~~gone~~ `code`",
    "[link](https://x.y) ![i](z)",
    "&lt;b&gt; &amp; <b>",
    "x\n\n# heading\n| a | b |\n|---|---|\n",
    "```\nend of block",
    "[red]x[/red] [bold]",
    "\\*x\\*",
    "---",
    "+",
]
