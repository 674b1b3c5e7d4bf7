"""Results as a run would write them, and captions that try to become markup."""

import copy
from typing import Any

from eyechart.results import Ablation, Coverage, Finding, Reason, Remark, Results, Training, WrittenCaption
from eyechart.verdict.verdict import Missing
from standings import Gap, checked, covered, results_of

GAPS: dict[str, dict[str, Gap]] = {
    "PASS": {"shuffled": (0.8872, 0.01), "zero": (1.7735, 0.01), "noise": (2.1502, 0.01), "no-image": (1.385, 0.01)},
    "FAIL": {"shuffled": (0.0001, 0.01), "zero": (1.7735, 0.01), "noise": (2.1502, 0.01), "no-image": (1.385, 0.01)},
    "INCONCLUSIVE": {"shuffled": (0.06, 0.03), "zero": (1.7735, 0.01), "noise": (2.1502, 0.01)},
}
"""Gaps of check 1 with their standard errors, in nats per token, by the verdict that they lead to."""
LENGTHS = {"PASS": {64: 2400, 96: 2500}, "WARNS": {96: 4830, 600: 70}, "FAIL": {96: 4753, 600: 147}}
"""Lengths of 4,900 samples by what check 2 says of them at max_seq_len 512."""

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


def make_ablation(verdict: str = "PASS", **changes: Any) -> Ablation:
    """Check 1 that ends so, of 100 samples with 99 distinct images; other `changes` as in `checked`."""
    fields: dict[str, Any] = {"correct": 3.515, "requested": 128, "clusters": 99, "label_tokens": 1310, "seed": 42}
    return checked(**{"gaps": GAPS[verdict], **fields, **changes})


def make_coverage(verdict: str = "PASS", **changes: Any) -> Coverage:
    """Check 2 that ends so, or in a PASS that WARNS; other `changes` as in `covered`."""
    return covered(**{"lengths": LENGTHS[verdict], **changes})


def make_results(check_1: str = "PASS", **changes: Any) -> Results:
    """A run whose check 1 ends so; the verdict and the conclusions follow from both checks."""
    fields: dict[str, Any] = {
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
        "ablation": make_ablation(check_1),
        "coverage": make_coverage(),
        "environment": {"python": "3.12.1", "gpu": "none"},
        "config": copy.deepcopy(RUN_SETTINGS),
        "samples": [WrittenCaption(row=7, image="a.png", true="a red circle", written="a red square")],
    }
    return results_of(**{**fields, **changes})


def everywhere(text: str) -> Results:
    """Results with this text in every field that takes free text, each time after the name of its place.

    `PLACES` has the names. Captions, words and images of samples are tested on their own.
    """

    def at(place: str) -> str:
        assert place in PLACES
        return f"{place} {text}"

    made = make_ablation(missing=Missing(unscored={at("unscored"): 1}))
    carried = {"row": 3, "image": at("carrier"), "gap": 0.9, "gap_without": 0.1}
    carried |= {"standing": "costs", "standing_without": "open"}
    failed = {"error": at("errortype"), "message": at("errormessage")}
    shared = {"shared": 2, "images": 9}
    ablation = made.model_copy(
        update={
            "reasons": [
                *made.reasons,
                Reason(code="one-image-carries", effect="warns", about="shuffled", figures=carried),
            ],
            "remarks": [
                Remark(code="writing-failed", about="written captions", figures=failed),
                Remark(code="mean-has-seen-scored-images", about="mean-token", figures=shared),
            ],
            "notes": {at("notename"): at("notetext")},
        }
    )
    finding = Finding(
        code=at("findingcode"),
        severity="note",
        message=at("findingmessage"),
        fix=at("findingfix"),
        evidence={at("evidencename"): at("evidencevalue")},
    )
    return make_results(
        ablation=ablation,
        coverage=make_coverage(rejected={at("rejected"): 2}),
        diagnosis=[finding],
        checkpoint=at("checkpoint"),
        command=at("command"),
        environment={at("environmentname"): at("environmentvalue")},
        config={at("configname"): at("configvalue")},
    )


PLACES = {
    **dict.fromkeys(["unscored", "carrier", "rejected"], ("runbook", "terminal", "html")),
    **dict.fromkeys(["errortype", "errormessage", "notename", "notetext"], ("runbook", "html")),
    **dict.fromkeys(["findingcode", "findingmessage", "findingfix"], ("runbook", "terminal", "html")),
    **dict.fromkeys(["evidencename", "evidencevalue"], ("html",)),
    **dict.fromkeys(["checkpoint", "command", "environmentname", "environmentvalue"], ("runbook", "html")),
    **dict.fromkeys(["configname", "configvalue"], ("runbook", "html")),
}
"""Places of `everywhere`, and which pages show them."""

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
