"""Results as a run would write them, and captions that try to become markup."""

from typing import Any

from eyechart.results import Ablation, Condition, Coverage, Results, Training, WrittenCaption
from qwen3_vlm.config import Config

REASONS = {
    "PASS": ["gap(shuffled) +0.8872 +- 0.03 nats/token: its 99% lower bound +0.81 is above the margin 0.05"],
    "FAIL": ["gap(shuffled) +0.0001 +- 0.01 nats/token: its upper bound +0.02 is not above the margin 0.05"],
    "INCONCLUSIVE": ["gap(shuffled) +0.0600 +- 0.03 nats/token: the margin 0.05 lies between its bounds"],
}


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
        "config": Config().model_dump(mode="json"),
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
