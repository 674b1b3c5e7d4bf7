"""Made-up results in which every section of report.html has something to show, and captions that try to break it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eyechart.results import (
    END,
    Ablation,
    Condition,
    Decile,
    Finding,
    Internals,
    Look,
    LossPoint,
    Matching,
    Piece,
    Remark,
    Results,
    ScoredSample,
    Training,
    WordGap,
    Words,
)
from eyechart.verdict.standing import shared_level, stand_gap
from eyechart.verdict.statistics import Estimate
from report_data import RUN_SETTINGS, make_coverage, make_results
from standings import Gap, checked, estimated, share, split_of

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
CORRECT = 0.22
GAPS: dict[str, Gap] = {
    "shuffled": (2.25, 0.03),
    "zero": (0.66, 0.03),
    "noise": (1.13, 0.03),
    "no-image": (0.64, 0.03),
    "mean-token": (1.10, 0.03),
    "slot-mix": (1.39, 0.03),
    "blind": (0.63, 0.03),
}
"""Of a connector that carries the picture: gaps with their standard errors, in nats per token."""
RTL_WORDS = ("\u05d0\u05d3\u05d5\u05dd", "\u05ea\u05e8\u05e9\u05d9\u05dd")
"""The words that rely most on the picture."""


def words(scale: float = 1.0, shared: bool = True) -> Words:
    """Reliance of words; `shared` where the gap of shuffled is surely above 0, so that there is something to share."""

    def table(*names: str, most: float = 4.0) -> list[WordGap]:
        gaps = [scale * (most - 0.7 * i) for i in range(len(names))]
        return [
            WordGap(word=name, count=60 - 7 * i, gap=gap, share=0.3 / (i + 1) if shared else None)
            for i, (name, gap) in enumerate(zip(names, gaps, strict=True))
        ]

    return Words(
        most_reliant=table(*RTL_WORDS, "striped", "x" * 150),
        least_reliant=table("a", "on", "and", most=0.1),
        largest_share=table("purple", "small", "<script>alert(1)</script>", RTL_WORDS[0]) if shared else [],
        min_count=5,
        distinct_words=48,
        first_content_word=estimated(2.1 * scale, 0.02),
        eos=estimated(0.02, 0.02),
        gap_with_eos=2.25 * scale,
        gap_without_eos=2.41 * scale,
        captions=100,
        half_of_gap=4 if shared else None,
    )


def matching(r_at_1: float = 0.97, k: int = 12, scale: float = 1.0) -> Matching:
    """Captions that find their own among `k` images so often; `scale` of everything in nats."""
    return Matching(
        k=k,
        wanted_k=k,
        captions=100,
        r_at_1=share(r_at_1, 0.015, 1 / k),
        mrr=share(min(0.98, r_at_1 + 0.2)),
        hard_r_at_1=share(0.75 * r_at_1, 0.03, 1 / k),
        image_specific_gain=estimated(31.4 * scale, 1.0),
        emap_gain=estimated(15.2 * scale, 0.5),
        infonce=estimated(2.3 * scale, 0.03),
        infonce_saturated=scale > 0.9,
        temperature=1.4,
        deciles=[
            Decile(similarity=(i / 10 - 0.2, i / 10 - 0.1), pairs=40, gap=estimated(scale * (2.9 - 0.18 * i), 0.15))
            for i in range(10)
        ],
    )


def make_full_ablation(gaps: dict[str, Gap] | None = None, correct: float = CORRECT, **changes: Any) -> Ablation:
    """Check 1 with every part measured; what `gaps` say, everything else is consistent with."""
    gaps = gaps or GAPS
    rivals = [name for name in ("no-image", "mean-token", "blind") if name in gaps and "shuffled" in gaps]
    fields: dict[str, Any] = {
        "requested": 128,
        "label_tokens": 1420,
        "clusters": 99,
        "seed": 42,
        "beyond": {name: (gaps["shuffled"][0] - gaps[name][0], 0.03) for name in rivals},
        "remarks": [
            Remark(code="donors-from-all-samples", about="shuffled", figures={"derangements": 4}),
            Remark(code="noise-of-scalar-moments", about="noise"),
            Remark(code="no-pixels", about="grey", left_out=True),
        ],
        "decomposition": split_of(gaps) if "blind" in gaps else None,
        "matching": matching(),
        "words": words(),
        "connector": Internals(
            variance_share={"tower": 0.71, "resampler": 0.64, "projector": 0.66},
            rms_ratio=1.02,
            effective_rank=5.1,
            effective_rank_of=8,
            knn_overlap=0.42,
            compared=100,
            images=100,
            stages=["tower", "resampler", "projector"],
        ),
    }
    made = checked(gaps, correct, **{**fields, **changes})
    return made.model_copy(
        update={
            "conditions": {
                name: condition.model_copy(
                    update={
                        "loss_per_caption": None if condition.loss is None else 14 * condition.loss,
                        "win_rate": None if condition.gap is None else 0.97 if condition.gap > 0.1 else 0.5,
                        "gap_without_eos": None if condition.gap is None else 1.05 * condition.gap,
                    }
                )
                for name, condition in made.conditions.items()
            }
        }
    )


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


def look(step: int, shuffled: float, zero: float, looks: int = 1) -> Look:
    """A look at one of several steps; gaps in nats per token."""
    level, se = shared_level(looks), 0.05
    found = [stand_gap(Estimate(gap, se, 8, 8), margin, level, level) for gap, margin in ((shuffled, 0.05), (zero, 0))]
    return Look(
        step=step,
        correct=4.0 / (1 + shuffled),
        gap_shuffled=shuffled,
        gap_zero=zero,
        se_shuffled=se,
        se_zero=se,
        shuffled=found[0].standing,
        zero=found[1].standing,
        lower_shuffled=found[0].lower,
        upper_shuffled=found[0].upper,
        r_at_1=0.5,
        k=8,
    )


def looks_towards(conditions: Mapping[str, Condition]) -> list[Look]:
    """Looks of a run that ends near these gaps; where they were not scored, near those of a connector that sees."""
    steps = [0, 5, 20, 80, 320, 1225, 3675]
    ends = [conditions[name].gap or 0.0 if name in conditions else GAPS[name][0] for name in ("shuffled", "zero")]
    return [
        look(step, ends[0] * max(0, place - 2) / 4, ends[1] * place / 6, len(steps)) for place, step in enumerate(steps)
    ]


def make_full_results(pictures: Path, count: int = 40, **changes: Any) -> Results:
    """Every section filled; pictures under `pictures`."""
    config = copy.deepcopy(RUN_SETTINGS)
    config["data"]["image_root"] = str(pictures)
    ablation: Ablation | None = changes.get("ablation", make_full_ablation())
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
        looks=looks_towards(ablation.conditions if ablation else {}),
    )
    lengths = {length: int(680 * math.exp(-(((length - 24) / 4) ** 2))) + 1 for length in range(14, 60)}
    lengths[24] += training.train_samples - sum(lengths.values())
    fields: dict[str, Any] = {
        "training": training,
        "ablation": ablation,
        "coverage": make_coverage(lengths=lengths, max_seq_len=48, block=10, rejected={"caption blank": 3}),
        "scored": make_scored(count),
        "diagnosis": FINDINGS,
        "config": config,
    }
    return make_results(**{**fields, **changes})


def sees(pictures: Path, count: int = 20) -> Results:
    """A connector that carries the picture."""
    return make_full_results(pictures, count, diagnosis=[])


def undecided(**changes: Any) -> Ablation:
    """Every gate's bounds lie around its margin."""
    return make_full_ablation(
        dict.fromkeys(GAPS, (0.03, 0.1)),
        **{"matching": matching(0.09, scale=0.01), "words": words(0.01, False), **changes},
    )


def without_shuffled(pictures: Path, **changes: Any) -> Results:
    """As `--conditions blind` of an older version leaves it: no gap of shuffled, rows in no order of their own."""
    ablation = make_full_ablation({"blind": GAPS["blind"]}, words=None, matching=None)
    scored = [
        sample(number, f"a small red cross number {number}", 0.0).model_copy(
            update={"losses": {"correct": 3.0, "blind": 12.0}, "pieces": []}
        )
        for number in (7, 2, 9, 5)
    ]
    fields = {"ablation": ablation, "scored": scored, "diagnosis": []}
    return make_full_results(pictures, **{**fields, **changes})


STYLE: dict[str, Gap] = {"shuffled": (-0.001, 0.001), "zero": (0.032, 0.0045), "noise": (0.009, 0.0015)}
"""Of one trained on mismatched pairs: zero and noise surely cost something, another picture nothing."""


def style_only(pictures: Path, count: int = 20) -> Results:
    """One trained on mismatched pairs, R@1 at chance."""
    ablation = make_full_ablation(STYLE, 0.9, matching=matching(0.08, scale=0.0), words=words(0.001, False))
    scored = [sample(number, f"a small red cross number {number}", 0.02 - 0.002 * number) for number in range(count)]
    return make_full_results(pictures, count, ablation=ablation, scored=scored, diagnosis=[])
