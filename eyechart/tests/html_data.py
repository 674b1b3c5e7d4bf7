"""Made-up results in which every section of report.html has something to show, and captions that try to break it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eyechart.results import (
    END,
    Ablation,
    Condition,
    Decile,
    Decomposition,
    Estimated,
    Finding,
    Internals,
    Look,
    LossPoint,
    Matching,
    Piece,
    Results,
    ScoredSample,
    Training,
    WordGap,
    Words,
)
from report_data import RUN_SETTINGS, make_coverage, make_results

SCRIPT = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"
HOSTILE = [
    f"a red circle {SCRIPT}",
    "\u05e2\u05d9\u05d2\u05d5\u05dc \u05d0\u05d3\u05d5\u05dd \u05e2\u05dc \u05e8\u05e7\u05e2 \u05db\u05d7\u05d5\u05dc",
    "\u062f\u0627\u0626\u0631\u0629 \u062d\u0645\u0631\u0627\u0621 with english inside",
    "a family \U0001f468\u200d\U0001f469\u200d\U0001f467 and a flag \U0001f1eb\U0001f1ee",
    "two thousand " + "characters " * 181,
    "unbroken" * 250,
    "bell\x07 escape\x1b[31m override\u202e nul\x00 line\u2028end",
    "</p></li></ol></main><style>body{display:none}</style>",
    "{{ 7 * 7 }} {% raw %}",
    '\' onmouseover=\'document.title="ran"\' " onfocus="document.title=\'ran\'" autofocus tabindex=1 x="',
    "\u05ea\u05e8\u05e9\u05d9\u05dd \u05e1\u05d2\u05d5\u05dc \u05e2\u05dd 4 bars",
]
RIGHT_TO_LEFT = (1, 2, 10)
"""Places in HOSTILE."""
CONDITIONS = {
    "correct": (0.22, None),
    "shuffled": (2.47, 2.25),
    "zero": (0.88, 0.66),
    "noise": (1.35, 1.13),
    "no-image": (0.86, 0.64),
    "mean-token": (1.32, 1.10),
    "slot-mix": (1.61, 1.39),
    "blind": (0.85, 0.63),
}
MARGINS = {"shuffled": 0.05, "zero": 0.0, "noise": 0.0}


def estimate(value: float, half: float = 0.05) -> Estimated:
    return Estimated(value=value, se=half / 2, ci95=(value - half, value + half))


def condition(name: str, loss: float, gap: float | None, half: float = 0.06) -> Condition:
    if gap is None:
        return Condition(loss=loss, loss_per_caption=14 * loss, meaning="the image that belongs to the caption")
    return Condition(
        loss=loss,
        loss_per_caption=14 * loss,
        gate=name in MARGINS,
        margin=MARGINS.get(name),
        gap=gap,
        se=half / 2,
        ci95=(gap - half, gap + half),
        lower99=gap - 1.2 * half,
        win_rate=0.97 if gap > 0.1 else 0.5,
        gap_without_eos=1.05 * gap,
        meaning="what another picture, or none, costs in its place",
    )


def words(scale: float = 1.0) -> Words:
    def table(*names: str) -> list[WordGap]:
        return [
            WordGap(word=name, count=60 - 7 * i, gap=scale * (4.0 - 0.7 * i), share=0.3 / (i + 1))
            for i, name in enumerate(names)
        ]

    return Words(
        most_reliant=table("purple", "triangle", "striped", "x" * 150),
        least_reliant=table("a", "on", "and"),
        largest_share=table("purple", "small", "<script>alert(1)</script>", "\u05d0\u05d3\u05d5\u05dd"),
        min_count=5,
        distinct_words=48,
        first_content_word=estimate(2.1 * scale),
        eos=estimate(0.02),
        gap_with_eos=2.25 * scale,
        gap_without_eos=2.41 * scale,
        reading="Most at '\u05d0\u05d3\u05d5\u05dd' (+3.0, 6 times), '\u05ea\u05e8\u05e9\u05d9\u05dd' (+1.0, 4 times).",
    )


def matching(value: float = 0.97, k: int = 12) -> Matching:
    return Matching(
        k=k,
        captions=100,
        r_at_1=Estimated(value=value, se=0.02, ci95=(value - 0.03, min(1.0, value + 0.03))),
        mrr=estimate(0.98, 0.02),
        hard_r_at_1=estimate(0.71, 0.08),
        image_specific_gain=estimate(31.4, 2.0),
        emap_gain=estimate(15.2, 1.0),
        infonce=estimate(2.3, 0.06),
        infonce_saturated=True,
        temperature=1.4,
        deciles=[
            Decile(similarity=(i / 10 - 0.2, i / 10 - 0.1), pairs=40, gap=estimate(2.9 - 0.18 * i, 0.3))
            for i in range(10)
        ],
    )


def make_full_ablation(**changes: Any) -> Ablation:
    conditions = {name: condition(name, loss, gap) for name, (loss, gap) in CONDITIONS.items()}
    fields: dict[str, Any] = {
        "verdict": "PASS",
        "reasons": ["gap(shuffled) +2.2500 +- 0.0300 nats/token: its 99% lower bound +2.18 is above the margin 0.05"],
        "samples": 100,
        "requested": 128,
        "label_tokens": 1420,
        "clusters": 99,
        "seed": 42,
        "derangements": 4,
        "conditions": conditions,
        "order": sorted(CONDITIONS, key=lambda name: CONDITIONS[name][0]),
        "order_reading": "a wrong picture misleads more than none",
        "rejected": {"image missing": 2},
        "wording": {"shuffled": "From any scored sample with another image and another caption."},
        "decomposition": Decomposition(
            information=estimate(0.63),
            shock=estimate(0.03),
            misdirection=estimate(1.62),
            sentences=["Of the 0.66 nats by which zero is worse, 0.63 is information and 0.03 shock."],
        ),
        "matching": matching(),
        "words": words(),
        "connector": Internals(
            variance_share={"tower": 0.71, "resampler": 0.64, "projector": 0.66},
            rms_ratio=1.02,
            effective_rank=5.1,
            effective_rank_of=8,
            knn_overlap=0.42,
            images=100,
        ),
    }
    return Ablation(**{**fields, **changes})


def save_pictures(folder: Path, count: int) -> None:
    """Pictures `0.png` and so on; number 3 is missing, number 4 is not an image."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        if number == 3:
            continue
        if number == 4:
            (folder / "4.png").write_text("not an image", encoding="utf-8")
            continue
        picture = Image.new("RGB", (72, 48 + number % 40), tuple(int(v) for v in rng.integers(90, 255, 3)))
        fill = tuple(int(v) for v in rng.integers(0, 160, 3))
        ImageDraw.Draw(picture).ellipse((12 + number % 20, 10, 40, 38), fill=fill)
        picture.save(folder / f"{number}.png")


def sample(number: int, caption: str, gap: float) -> ScoredSample:
    """A sample with this gap in nats per token, its words relying on the picture in turn."""
    cut = [part if not i else f" {part}" for i, part in enumerate(caption.split(" "))]
    strengths = [gap * (1 + math.sin(i + number)) * 1.5 for i in range(len(cut))]
    return ScoredSample(
        row=number,
        image=f"{number}.png",
        caption=caption,
        label_tokens=14,
        losses={"correct": 3.0, "shuffled": 3.0 + 14 * gap, "zero": 12.0},
        pieces=[
            *(Piece(text=text, gap=strength) for text, strength in zip(cut, strengths, strict=True)),
            Piece(text=END, gap=0.0),
        ],
        written=f"{caption} or so" if number % 7 else None,
    )


def make_scored(count: int = 40) -> list[ScoredSample]:
    """From the most to the least image-driven; the hostile captions first, and two against the picture last."""
    captions = [*HOSTILE, *(f"a small purple circle number {n} on striped beige" for n in range(count))][:count]
    gaps = [4.5 - 4.8 * i / max(1, count - 1) for i in range(count)]
    return [sample(number, caption, gap) for number, (caption, gap) in enumerate(zip(captions, gaps, strict=True))]


FINDINGS = [
    Finding(code="under-trained", severity="note", message="The loss still falls.", evidence={"slope": -0.0123456}),
    Finding(
        code="scale-mismatch",
        severity="error",
        message="Visual tokens are 14.2 times as large as text embeddings.",
        evidence={"rms_ratio": 14.2345, "range": [0.1, 10], "file": "/home/someone/secret/checkpoint.pt"},
        fix="set connector.output_norm to true and train again",
    ),
    Finding(
        code="slots-dead", severity="warning", message=f"Only the first slot is used {SCRIPT}", fix="fewer latents"
    ),
    Finding(code="made-up", severity="note", message="A code that the table does not have."),
]


def make_full_results(pictures: Path, count: int = 40, **changes: Any) -> Results:
    """Every section filled; pictures under `pictures`."""
    config = copy.deepcopy(RUN_SETTINGS)
    config["data"]["image_root"] = str(pictures)
    steps = [0, 5, 20, 80, 320, 1225, 3675]
    training = Training(
        step=3675,
        updates=921,
        epochs=3,
        train_samples=4900,
        eval_samples=100,
        trained_parameters=156_992,
        train_loss=0.164,
        eval_loss=0.167,
        seconds=75.1,
        samples_per_second=195.7,
        peak_memory_gb=0.63,
        curve=[
            LossPoint(step=1225 * (i + 1), train=t, eval=e)
            for i, (t, e) in enumerate([(0.67, 0.3), (0.22, 0.2), (0.16, 0.17)])
        ],
        looks=[
            Look(
                step=s,
                correct=4.0 / (1 + i),
                gap_shuffled=(gap := max(0.0, 0.6 * (i - 2))),
                gap_zero=0.2 * i,
                se_shuffled=0.01,
                shuffled="costs" if gap else "ruled out",
                zero="costs" if i else "open",
                lower_shuffled=gap - 0.04,
                upper_shuffled=gap + 0.04,
                r_at_1=0.5,
                k=8,
            )
            for i, s in enumerate(steps)
        ],
    )
    lengths = {length: int(900 * math.exp(-(((length - 24) / 4) ** 2))) + 1 for length in range(14, 60)}
    fields: dict[str, Any] = {
        "reasons": ["gap(shuffled) is above the margin", "see /home/someone/secret/results.json"],
        "training": training,
        "ablation": make_full_ablation(),
        "coverage": make_coverage(lengths=lengths, max_seq_len=48, truncated_pct=0.4, rejected={"caption blank": 3}),
        "scored": make_scored(count),
        "diagnosis": FINDINGS,
        "config": config,
    }
    return make_results(**{**fields, **changes})


def sees(pictures: Path, count: int = 20) -> Results:
    """A connector that carries the picture."""
    return make_full_results(pictures, count, diagnosis=[])


def undecided(**changes: Any) -> Ablation:
    """Every gate's interval lies around its margin."""
    conditions = {
        name: condition(name, loss, None if gap is None else 0.03, half=0.2) for name, (loss, gap) in CONDITIONS.items()
    }
    return make_full_ablation(**{"verdict": "INCONCLUSIVE", "conditions": conditions, **changes})


def without_shuffled(pictures: Path, **changes: Any) -> Results:
    """As `--conditions blind` of an older version leaves it: no gap of shuffled, rows in no order of their own."""
    nothing = Estimated(value=None)
    ablation = make_full_ablation(
        verdict="INCONCLUSIVE",
        conditions={name: condition(name, *CONDITIONS[name]) for name in ("correct", "blind")},
        order=["correct", "blind"],
        words=None,
        matching=None,
        decomposition=Decomposition(information=estimate(0.63), shock=nothing, misdirection=nothing),
    )
    scored = [
        sample(number, f"a small red cross number {number}", 0.0).model_copy(
            update={"losses": {"correct": 3.0, "blind": 12.0}, "pieces": []}
        )
        for number in (7, 2, 9, 5)
    ]
    fields = {"ablation": ablation, "scored": scored, "diagnosis": []}
    return make_full_results(pictures, **{**fields, **changes})


def style_only(pictures: Path, count: int = 20) -> Results:
    """One trained on mismatched pairs: zero and noise significant, shuffled nothing, R@1 at chance."""
    gaps = {"shuffled": (-0.001, 0.002), "zero": (0.032, 0.009), "noise": (0.009, 0.003)}
    conditions = {"correct": condition("correct", 0.9, None)} | {
        name: condition(name, 0.9 + gap, gap, half) for name, (gap, half) in gaps.items()
    }
    reason = "gap(shuffled) -0.0010 +- 0.0005 nats/token: its upper bound +0.0010 is not above the margin 0.05"
    ablation = make_full_ablation(
        verdict="FAIL",
        reasons=[reason],
        conditions=conditions,
        order=["shuffled", "correct", "noise", "zero"],
        matching=matching(0.08),
        words=words(0.001),
        decomposition=None,
    )
    scored = [sample(number, f"a small red cross number {number}", 0.02 - 0.002 * number) for number in range(count)]
    return make_full_results(
        pictures, count, verdict="FAIL", reasons=[reason], ablation=ablation, scored=scored, diagnosis=[]
    )
