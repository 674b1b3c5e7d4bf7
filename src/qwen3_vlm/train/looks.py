"""Looks during training: a few fixed held-out samples, scored with their own pictures, with others, with zeros.

A look shows when the connector begins to carry the picture, long before the loss shows it. It is an indication, not
check 1: 16 samples, and no verdict. The standing of its two gaps is decided here, once, when it is taken: that of
shuffled against the margin of check 1, that of zeros against 0, with bounds at a level that all looks of the run share.
How reliable that bound on errors is with 16 samples: `onset`.

No look changes a weight or uses a random generator of the training, so that a run with looks is bitwise equal to the
run without. Only the main process takes them; the others wait at the next sum over processes.

Cost. A look scores each of 16 captions with 8 pictures, every picture read once, and once with zeros: for the
embedded trial about 2,450 tokens forward, the work of 40 trained samples (24 tokens forward and back each, and the
connector). `log` takes one look per 1,000 trained samples at most, so that looks stay below a twentieth of a run.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from eyechart.files import Log
from eyechart.results import Look
from eyechart.scoring.batching import collate
from eyechart.scoring.matching import recall_at_1
from eyechart.scoring.pairs import Captions, draw_candidates, score_pairs
from eyechart.seam import Batch, IntArray, Sample, VisualTokens
from eyechart.verdict.standing import Stand, shared_level, stand_gap
from eyechart.verdict.statistics import Estimate, FloatArray, Pairs, clusters_of, estimate
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.update import SampleSource

LOOKS_NAME = "looks.jsonl"
SAMPLES, IMAGES, MOST_LOOKS = 16, 8, 7
TRAINED_PER_LOOK = 1000
_SEARCHED = 64
"""Number of held-out samples among which 16 with a readable image are searched."""
_PAIRS_AT_ONCE = 64
_LAST_DIGITS = 1e-5
"""Share of a caption's loss: a smaller difference is rounding between `pair_nll` and `nll` in float32 (measured
3e-8)."""


def look_steps(every: str | int, total_steps: int, samples: int) -> list[int]:
    """At or after which steps to look.

    Args:
        every: `train.ablate_every`: off, log, or a number of steps.
        total_steps: the last step of the run.
        samples: samples trained over all epochs.

    Returns:
        Increasing steps; with `log` each is half of the next, the last is the end.
    """
    if every == "off":
        return []
    if isinstance(every, int):
        return list(range(every, total_steps + 1, every))
    count = min(MOST_LOOKS, samples // TRAINED_PER_LOOK)
    return sorted({math.ceil(total_steps / 2**halvings) for halvings in range(count)})


@dataclass(frozen=True)
class Looking:
    """The samples and steps of the looks of a run."""

    steps: list[int]
    batch: Batch
    """The samples, with the frozen tower's features."""
    donors_SK: IntArray
    """The other pictures that each caption is scored with."""
    pairs_P2: IntArray
    images_S: IntArray
    """A number for each distinct picture among the samples: the clusters of both gaps."""
    margin: float
    """What the gap to wrong pictures must exceed, nats per label token: that of check 1."""

    @property
    def k(self) -> int:
        """Pictures per caption, the own one included."""
        return int(self.donors_SK.shape[1]) + 1

    def due(self, before: int, step: int) -> bool:
        """Whether an update that led from step `before` to `step` passed a step to look at."""
        return any(before < wanted <= step for wanted in self.steps)

    @torch.no_grad()
    def look(self, vlm: VLM, step: int) -> Look | None:
        """Score the samples; None if a loss is not finite."""
        began = time.monotonic()
        visual = vlm.encode(self.batch)
        samples = self.batch.samples
        scores = score_pairs(vlm, Captions(samples, visual), self.pairs_P2, _PAIRS_AT_ONCE)
        zeros = VisualTokens(tuple(torch.zeros_like(layer) for layer in visual.layers))
        blind = vlm.nll(self.batch, zeros)
        zero = float(blind.nll_N.double().sum())
        captions_S = np.arange(len(samples))
        own_S = scores.of(captions_S, captions_S)
        others_SK = scores.of(captions_S[:, None], self.donors_SK)
        if not (np.isfinite(scores.scores_P).all() and math.isfinite(zero)):
            return None
        tokens_S = np.array([sample.label_tokens for sample in samples], dtype=np.int64)
        tokens = int(tokens_S.sum())
        wrong_SK = own_S[:, None] - others_SK
        wrong, stood = shuffled_gap(wrong_SK, tokens_S, self.images_S, self.donors_SK, self.margin, len(self.steps))
        zero_S = np.array([float(nll_T.double().sum()) for nll_T in blind.per_sample()])
        gained_S = np.where(np.abs(zero_S + own_S) < _LAST_DIGITS * np.abs(own_S), 0.0, zero_S + own_S)
        zeroed = estimate(gained_S[:, None], tokens_S, self.images_S)
        level = shared_level(len(self.steps))
        return Look(
            step=step,
            correct=-float(own_S.sum()) / tokens,
            gap_shuffled=float(wrong_SK.mean(axis=1).sum()) / tokens,
            gap_zero=(zero + float(own_S.sum())) / tokens,
            se_shuffled=wrong.se,
            se_zero=zeroed.se,
            shuffled=stood.standing,
            zero=stand_gap(zeroed, 0.0, level, level).standing,
            lower_shuffled=stood.lower,
            upper_shuffled=stood.upper,
            r_at_1=float(recall_at_1(own_S, others_SK).mean()),
            k=self.k,
            seconds=time.monotonic() - began,
        )


def shuffled_gap(
    differences_SK: FloatArray,
    tokens_S: IntArray,
    images_S: IntArray,
    donors_SK: IntArray,
    margin: float,
    looks: int,
) -> tuple[Estimate, Stand]:
    """The gap to wrong pictures at one look, and its standing.

    Args:
        differences_SK: loss with each wrong picture minus that with the own one, nats per caption.
        tokens_S: label tokens of each caption.
        images_S: a number for each distinct picture.
        donors_SK: whose pictures the wrong ones are.
        margin: nats per label token.
        looks: of the whole run; each bound is at the level that they share.
    """
    found = Pairs.of(differences_SK, tokens_S, images_S, donors_SK).estimate()
    level = shared_level(looks)
    return found, stand_gap(found, margin, level, level)


def start_looking(steps: list[int], vlm: VLM, source: SampleSource, margin: float, seed: int) -> Looking | None:
    """Choose the samples of a run's looks; None if there are no samples or no steps.

    Args:
        steps: after which to look.
        vlm: the model; its tower runs once over the samples.
        source: the held-out set.
        margin: `ablation.margin_shuffled`.
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
    return Looking(steps, batch, found.random_SK, found.pairs(), images_S, margin)


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
    """Lines about the looks of a run before it starts; none if they are turned off."""
    if every == "off":
        return []
    if looking is None:
        return [
            f"looks: none (with train.ablate_every log there is one per {TRAINED_PER_LOOK} trained samples, and any "
            "look needs held-out samples that differ in image and caption)"
        ]
    steps = ", ".join(map(str, looking.steps[:MOST_LOOKS])) + (", ..." if len(looking.steps) > MOST_LOOKS else "")
    return [f"looks: at {len(looking.batch)} held-out samples, {len(looking.steps)} times, at step {steps}"]


_LOG = Log(LOOKS_NAME, "a look", Look, lambda look: look.step)
append_look, read_looks, forget_looks = _LOG.append, _LOG.read, _LOG.forget
