"""Checks for faults that appear only during training: between updates, after an epoch, and at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from eyechart.faults.table import agree, finding
from eyechart.faults.weights import distance
from eyechart.results import Finding, Look
from eyechart.scoring.batching import collate
from eyechart.seam import Batch, TokenNLL, VisualTokens
from eyechart.verdict.standing import stand_gap
from eyechart.verdict.statistics import FloatArray, clusters_of, estimate
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.frozen import Frozen
from qwen3_vlm.train.update import SampleSource

FIRST_UPDATES = 3
"""Number of updates after which every trained parameter must have changed."""
_TEXT_SAMPLES = 64
_SMALL_RATE = 0.01
"""Share of the peak learning rate. Updates with a lower rate are not expected to change parameters."""
_STILL = 3e-7
"""Relative distance from the initial values that float32 rounding can explain, not counting weight decay."""


@dataclass
class Watch:
    """Checks the parts of the model between updates; there is one object per run and process."""

    vlm: VLM
    peak_lr: float
    """Peak learning rate. Updates with a far lower rate (the end of a schedule) need not change parameters."""
    force: bool = False
    """Whether to record errors and continue."""
    start: dict[str, Tensor] = field(init=False)
    frozen: Frozen = field(init=False)
    largest_norm: float = 0.0
    updates: int = 0

    def __post_init__(self) -> None:
        """Record the initial values of all parts."""
        self.start = {name: p.detach().clone() for name, p in self.vlm.connector.named_parameters()}
        self.frozen = Frozen(self.vlm)

    def after_update(self, grad_norm: float, learning_rate: float) -> list[Finding]:
        """Check once, after the first few updates, whether every trained parameter has changed.

        Args:
            grad_norm: gradient norm of this update, before clipping.
            learning_rate: learning rate of this update.
        """
        self.largest_norm = max(self.largest_norm, grad_norm)
        self.updates += learning_rate >= _SMALL_RATE * self.peak_lr
        if self.updates != FIRST_UPDATES or not self.start:
            return []
        still = unmoved(self.vlm.connector, self.start)
        of, self.start = len(self.start), {}
        if not still:
            return []
        whole = len(still) == of
        return [
            finding(
                "no-gradient",
                f"after {self.updates} updates "
                + (
                    f"none of the connector's {of} parameter tensors has changed"
                    if whole
                    else f"{len(still)} of the connector's {of} parameter tensors "
                    f"{agree(len(still), 'has', 'have')} not changed, first {still[0]}"
                )
                + f" (largest gradient norm of the whole connector {self.largest_norm:.3g}, learning rate "
                f"{learning_rate:.3g})",
                "give the optimizer every parameter of the connector; if it has them, keep the path from the loss to "
                "them differentiable (no detach), their weights in float32, and train.lr and train.clip large enough",
                unmoved=still[:8],
                count=len(still),
                of=of,
                largest_gradient_norm=self.largest_norm,
                learning_rate=learning_rate,
            )
        ]

    def after_epoch(self) -> list[Finding]:
        """Check that the frozen parts have not changed."""
        return self.frozen.findings("while training")


def unmoved(connector: nn.Module, start: dict[str, Tensor]) -> list[str]:
    """Return names of parameters that have not changed since the start, or only shrunk by weight decay."""
    return [name for name, p in connector.named_parameters() if distance(p.detach(), start[name]) < _STILL]


@torch.no_grad()
def end_findings(vlm: VLM, held_out: SampleSource, pad_id: int, looks: Sequence[Look]) -> list[Finding]:
    """At the end of a run, check the loss against that of the text alone, and the gap to wrong pictures.

    Args:
        vlm: the trained model.
        held_out: the held-out set; its first samples are scored with and without their image.
        pad_id: id of the token that pads sequences on the right.
        looks: the looks taken during training, if any.
    """
    batch = collate([held_out[p] for p in range(min(_TEXT_SAMPLES, len(held_out)))], pad_id)
    return [*_no_better_than_text(vlm, batch, looks), *never_opened(looks)]


def _no_better_than_text(vlm: VLM, batch: Batch, looks: Sequence[Look]) -> list[Finding]:
    """Report a loss that is no better than the loss without the image.

    There is a finding only if it is ruled out with 99% confidence that leaving out the image increases the loss.
    """
    if not batch.stats.label_tokens:
        return []
    seeing = vlm.nll(batch, VisualTokens((vlm.visual(vlm.features(batch)),)))
    text_only = vlm.nll(batch, None)
    means = [float(made.nll_N.double().mean()) for made in (seeing, text_only)]
    if not all(map(math.isfinite, means)):
        return []
    scored = [place for place, sample in enumerate(batch.samples) if sample.label_tokens]
    tokens_S = np.array([batch.samples[place].label_tokens for place in scored], dtype=np.int64)
    images_S = clusters_of([batch.samples[place].image_hash for place in scored])
    gap = estimate((_sums(text_only, scored) - _sums(seeing, scored))[:, None], tokens_S, images_S)
    if stand_gap(gap).standing != "ruled out":
        return []
    return [
        finding(
            "under-trained",
            f"{len(scored)} held-out captions cost {means[0]:.3f} nats/token with their images and {means[1]:.3f} "
            "without, which rules out (99%) that the images help: the connector adds no information to the text yet",
            "check that visual tokens reach the language model and that captions belong to their images (`qwen3-vlm "
            f"diagnose`), then {_next_run(looks)}",
            loss=round(means[0], 4),
            text_only=round(means[1], 4),
            gap=round(gap.gap, 4),
            se=None if gap.se is None else round(gap.se, 4),
            samples=len(scored),
        )
    ]


def _sums(made: TokenNLL, places: Sequence[int]) -> FloatArray:
    """Return the summed loss of each of the samples at `places` in a batch, in nats."""
    nlls = made.per_sample()
    return np.array([float(nlls[place].double().sum()) for place in places])


def never_opened(looks: Sequence[Look]) -> list[Finding]:
    """Report that the gap to wrong pictures never opened.

    A finding needs at least three looks. The last two must rule out that wrong pictures increase the loss by more than
    the margin of check 1. The gap to zeros decides which fault it is: zeros increase the loss at both looks, or both
    looks rule out that zeros increase it. If a standing is open, there is no finding.
    """
    if len(looks) < 3:
        return []
    before, last = looks[-2:]
    closed = before.shuffled == last.shuffled == "ruled out"
    if not closed or before.zero != last.zero or last.zero == "open":
        return []
    constant = last.zero == "costs"
    return [
        finding(
            "constant-prompt" if constant else "under-trained",
            f"at steps {before.step} and {last.step} it is ruled out that another sample's image costs more than the "
            f"margin of check 1 ({last.gap_shuffled:+.4f} nats/token at the last), "
            + (
                f"though zeroed visual tokens cost {last.gap_zero:+.4f}: the visual tokens act nearly as one fixed "
                "prompt"
                if constant
                else f"and that zeroed visual tokens cost anything ({last.gap_zero:+.4f}): the visual tokens are not "
                "used yet"
            ),
            (
                "check that captions belong to their images and that different images give different tower features"
                if constant
                else "check that visual tokens reach the language model and get a gradient (`qwen3-vlm diagnose`)"
            )
            + f", then {_next_run(looks)}",
            "warning" if constant else "note",
            gaps_shuffled=[round(look.gap_shuffled, 4) for look in looks],
            gap_zero=last.gap_zero,
            step=last.step,
        )
    ]


def _next_run(looks: Sequence[Look]) -> str:
    """Return advice for the next run: do not train longer if the held-out loss of the looks no longer falls."""
    best = min(looks, key=lambda look: look.correct, default=None)
    if best is None or round(looks[-1].correct, 3) <= round(best.correct, 3):
        return "train longer or with a higher train.lr"
    return (
        "train on more rows or with a lower train.lr; not longer, because the held-out loss of the looks has not "
        f"fallen since step {best.step} ({best.correct:.3f} there, {looks[-1].correct:.3f} at step {looks[-1].step})"
    )
