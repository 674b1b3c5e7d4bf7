"""Looks during training: a few fixed held-out samples are scored with their own pictures, other pictures, and zeros.

A look shows when the connector begins to pass on the picture, long before this is visible in the loss. It is only an
indication and does not replace check 1, because it uses 16 samples and gives no verdict. The standing of its two gaps
is decided here, once, when the look is taken. The gap to shuffled pictures is compared with the margin of check 1 and
the gap to zeros with 0, with bounds at a confidence level that all looks of the run share. `onset` describes how
reliable these bounds are with 16 samples.

A look changes no weight and does not use the random number generators of the training, so a run with looks is bitwise
equal to the same run without them. Only the main process takes looks; the others wait at the next sum over processes.

Cost: a look scores each of 16 captions with 8 pictures and once with zeros. Every picture is read only once. In the
embedded trial this is a forward pass of about 2,450 tokens, as much work as training on 40 samples (a forward and a
backward pass of 24 tokens each, and the connector). With `log` there is at most one look per 1,000 trained samples, so
that looks take less than a twentieth of a run.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

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
"""Number of held-out samples that are searched for 16 with a readable image."""
_PAIRS_AT_ONCE = 64
_LAST_DIGITS = 1e-5
"""Relative difference between `pair_nll` and `nll` of a caption below which it counts as float32 rounding (measured:
3e-8)."""


def look_steps(every: str | int, total_steps: int, samples: int) -> Sequence[int]:
    """Return the steps at which looks are due; a look is taken at the end of the update that reaches the step.

    Args:
        every: `train.ablate_every`: off, log, or a number of steps.
        total_steps: the last step of the run.
        samples: number of samples trained on over all epochs.

    Returns:
        Steps in increasing order. With `log`, each step is half of the next one, and the last one is `total_steps`.
    """
    if every == "off":
        return []
    if isinstance(every, int):
        return range(every, total_steps + 1, every)
    count = min(MOST_LOOKS, samples // TRAINED_PER_LOOK)
    return sorted({math.ceil(total_steps / 2**halvings) for halvings in range(count)})


@dataclass(frozen=True)
class Looking:
    """The samples and steps of the looks of a run."""

    steps: Sequence[int]
    batch: Batch
    """The samples, with the features of the frozen tower."""
    donors_SK: IntArray
    """For each caption, the samples whose pictures it is also scored with."""
    pairs_P2: IntArray
    images_S: IntArray
    """For each sample, a number that identifies its picture. Samples with one picture form a cluster in both gaps."""
    margin: float
    """Margin of check 1 in nats per label token, which the gap to wrong pictures must exceed."""

    @property
    def k(self) -> int:
        """Number of pictures per caption, including its own."""
        return int(self.donors_SK.shape[1]) + 1

    def due(self, before: int, step: int) -> bool:
        """Whether a look is due after an update that led from step `before` to `step`."""
        return bisect.bisect_right(self.steps, step) > bisect.bisect_right(self.steps, before)

    @torch.no_grad()
    def look(self, vlm: VLM, step: int) -> Look | None:
        """Score the samples and return the look; None if a loss is not finite."""
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
    """Return the gap to wrong pictures at one look, and its standing.

    Args:
        differences_SK: loss with each wrong picture minus the loss with the caption's own picture, nats per caption.
        tokens_S: number of label tokens of each caption.
        images_S: for each sample, a number that identifies its picture.
        donors_SK: the samples that the wrong pictures belong to.
        margin: the margin in nats per label token.
        looks: number of looks in the whole run, which share the confidence level of the bounds.
    """
    found = Pairs.of(differences_SK, tokens_S, images_S, donors_SK).estimate()
    level = shared_level(looks)
    return found, stand_gap(found, margin, level, level)


def start_looking(steps: Sequence[int], vlm: VLM, source: SampleSource, margin: float, seed: int) -> Looking | None:
    """Choose the samples of a run's looks; None if there are no samples or no steps.

    Args:
        steps: the steps at which looks are due.
        vlm: the model; its tower runs once over the samples.
        source: the held-out set.
        margin: `ablation.margin_shuffled`.
        seed: the seed for drawing the other pictures.
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
    """Return the first held-out samples that can be scored."""
    items = (source[position] for position in range(min(_SEARCHED, len(source))))
    return list(islice((item for item in items if isinstance(item, Sample) and item.label_tokens), SAMPLES))


def plan_line(looking: Looking | None, every: str | int) -> list[str]:
    """Return lines that describe the planned looks of a run; an empty list if looks are turned off."""
    if every == "off":
        return []
    if looking is None:
        return [
            f"looks: none (with train.ablate_every log there is one per {TRAINED_PER_LOOK} trained samples, and any "
            "look needs held-out samples that differ in image and caption)"
        ]
    steps = ", ".join(map(str, looking.steps[:MOST_LOOKS])) + (", ..." if len(looking.steps) > MOST_LOOKS else "")
    return [f"looks: {len(looking.steps)}, each at {len(looking.batch)} held-out samples, at step {steps}"]


LOOKS_LOG = Log(LOOKS_NAME, "a look", Look, lambda look: look.step)
append_look, read_looks, forget_looks = LOOKS_LOG.append, LOOKS_LOG.read, LOOKS_LOG.forget
