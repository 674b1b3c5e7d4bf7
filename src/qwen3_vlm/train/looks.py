"""Looks while training: a fixed handful of held-out samples, scored with their own pictures, with others, with zeros.

A look tells when the connector begins to carry the picture, long before the loss says so. It is an indication, not
check 1: 16 samples, no interval, no verdict.

No look changes a weight or draws from a generator of the training, so that a run with looks is bit for bit the run
without. The main process takes them alone; the others wait at the next sum over processes.

Cost. A look scores each of 16 captions behind 8 pictures, every picture read once, and once behind zeros: for the
embedded trial about 2,450 tokens forward, the work of 40 trained samples (24 tokens forward and back each, and the
connector). `log` takes one look per 1,000 trained samples at most, so that looks stay below a twentieth of a run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from eyechart.files import Log
from eyechart.results import Look
from eyechart.scoring.batching import collate
from eyechart.scoring.matching import recall_at_1
from eyechart.scoring.pairs import Captions, draw_candidates, score_pairs
from eyechart.seam import Batch, IntArray, Sample, VisualTokens
from eyechart.verdict.onset import onset
from eyechart.verdict.statistics import clusters_of
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.update import SampleSource

LOOKS_NAME = "looks.jsonl"
SAMPLES, IMAGES, MOST_LOOKS = 16, 8, 7
TRAINED_PER_LOOK = 1000
_SEARCHED = 64
"""Held-out samples among which 16 are sought whose image can be read."""
_PAIRS_AT_ONCE = 64


def look_steps(every: str | int, total_steps: int, samples: int) -> list[int]:
    """At or behind which steps to look.

    Args:
        every: `train.ablate_every`: off, log, or a number of steps.
        total_steps: the last step of the run.
        samples: samples trained over all epochs.

    Returns:
        Rising steps; with `log` each is half of the next, the last is the end.
    """
    if every == "off":
        return []
    if isinstance(every, int):
        return list(range(every, total_steps + 1, every))
    count = min(MOST_LOOKS, samples // TRAINED_PER_LOOK)
    return sorted({math.ceil(total_steps / 2**halvings) for halvings in range(count)})


@dataclass(frozen=True)
class Looking:
    """What every look of a run looks at, and when."""

    steps: list[int]
    batch: Batch
    """The samples, with the frozen tower's features."""
    donors_SK: IntArray
    """The other pictures that each caption is tried with."""
    pairs_P2: IntArray

    @property
    def k(self) -> int:
        """Pictures per caption, the own one included."""
        return int(self.donors_SK.shape[1]) + 1

    def due(self, before: int, step: int) -> bool:
        """Whether an update that led from step `before` to `step` passed a step to look at."""
        return any(before < wanted <= step for wanted in self.steps)

    @torch.no_grad()
    def look(self, vlm: VLM, step: int) -> Look | None:
        """Score the samples; None where a loss is not finite."""
        began = time.monotonic()
        visual = vlm.encode(self.batch)
        samples = self.batch.samples
        scores = score_pairs(vlm, Captions(samples, visual), self.pairs_P2, _PAIRS_AT_ONCE)
        zeros = VisualTokens(tuple(torch.zeros_like(layer) for layer in visual.layers))
        zero = float(vlm.nll(self.batch, zeros).nll_N.double().sum())
        captions_S = np.arange(len(samples))
        own_S = scores.of(captions_S, captions_S)
        others_SK = scores.of(captions_S[:, None], self.donors_SK)
        if not (np.isfinite(scores.scores_P).all() and math.isfinite(zero)):
            return None
        tokens = sum(sample.label_tokens for sample in samples)
        return Look(
            step=step,
            correct=-float(own_S.sum()) / tokens,
            gap_shuffled=float((own_S[:, None] - others_SK).mean(axis=1).sum()) / tokens,
            gap_zero=(zero + float(own_S.sum())) / tokens,
            r_at_1=float(recall_at_1(own_S, others_SK).mean()),
            k=self.k,
            seconds=time.monotonic() - began,
        )


def start_looking(steps: list[int], vlm: VLM, source: SampleSource, seed: int) -> Looking | None:
    """Choose the samples of a run's looks; None where there is nothing to look at or no step to do it.

    Args:
        steps: after which to look.
        vlm: the model; its tower runs once over the samples.
        source: the held-out set.
        seed: draws the other pictures.
    """
    chosen = _choose(source) if steps else []
    if not chosen:
        return None
    images_S = clusters_of([sample.image_hash for sample in chosen])
    texts_S = clusters_of([sample.caption for sample in chosen])
    found = draw_candidates(images_S, texts_S, None, IMAGES, 0, seed)
    if found.k < 2:
        return None
    batch = collate(chosen, pad_id=0)
    with torch.no_grad():
        features_BPV = vlm.features(batch)
    batch = replace(batch, pixels_BCHW=None, features_BPV=features_BPV)
    return Looking(steps, batch, found.random_SK, found.pairs())


def _choose(source: SampleSource) -> list[Sample]:
    """The first held-out samples that can be scored."""
    chosen: list[Sample] = []
    for position in range(min(_SEARCHED, len(source))):
        if len(chosen) == SAMPLES:
            break
        sample = source[position]
        if isinstance(sample, Sample) and sample.label_tokens:
            chosen.append(sample)
    return chosen


def plan_line(looking: Looking | None, every: str | int) -> list[str]:
    """What a run says about its looks before it starts; nothing where they were turned off."""
    if every == "off":
        return []
    if looking is None:
        return [
            f"looks: none (with train.ablate_every log there is one per {TRAINED_PER_LOOK} trained samples, and any "
            "look needs held-out samples that differ in image and caption)"
        ]
    steps = ", ".join(map(str, looking.steps[:MOST_LOOKS])) + (", ..." if len(looking.steps) > MOST_LOOKS else "")
    return [f"looks: at {len(looking.batch)} held-out samples, {len(looking.steps)} times, at step {steps}"]


def look_line(look: Look) -> str:
    """One look for people."""
    share = "" if look.r_at_1 is None else f" | own picture first of {look.k}: {look.r_at_1:.0%}"
    return (
        f"look at step {look.step} | loss {look.correct:.3f} | wrong picture {look.gap_shuffled:+.3f} | "
        f"zeros {look.gap_zero:+.3f}{share}"
    )


def read_onset(looks: Sequence[Look], margin: float) -> str:
    """At which step the connector began to look (see `onset`), in a sentence; empty without looks."""
    if not looks:
        return ""
    last = looks[-1]
    seen = f"at step {last.step} a wrong picture costs {last.gap_shuffled:+.3f} nats per token"
    if last.r_at_1 is not None:
        seen += f", and a caption prefers its own among {last.k} pictures in {last.r_at_1:.0%} of cases"
        seen += f" (guessing: {1 / last.k:.0%})"
    first = onset(looks, margin)
    if first == len(looks):
        return f"The connector had not begun to look at the picture: {seen}."
    since = f"before the first look, at step {looks[0].step}"
    if first:
        since = f"between step {looks[first - 1].step} and step {looks[first].step}"
    return f"The connector began to look at the picture {since}; {seen}."


_LOG = Log(LOOKS_NAME, "a look", Look, lambda look: look.step)
append_look, read_looks, forget_looks = _LOG.append, _LOG.read, _LOG.forget
