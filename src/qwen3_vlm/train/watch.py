"""Checks for faults that appear only during training: between updates, after an epoch, and at the end of the run.

A look is a quick measurement during training: a few held-out samples are scored with their own pictures, with wrong
pictures, and with zeroed visual tokens. A gap is the increase of the loss that such a replacement causes. Check 1 is
the full test after training of whether the model uses the picture. A fresh connector is one with newly initialised
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eyechart.faults.learning_rate import diagnose_step, typical_size
from eyechart.faults.rivals import gap_between
from eyechart.faults.table import agree, finding
from eyechart.faults.weights import distance
from eyechart.results import Finding, Look
from eyechart.scoring.batching import collate
from eyechart.seam import Batch, VisualTokens
from eyechart.verdict.standing import stand_gap
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.frozen import Frozen
from qwen3_vlm.train.untrained import fresh_rivals
from qwen3_vlm.train.update import SampleSource

# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
FIRST_UPDATES = 3
"""Number of updates after which every trained parameter must have changed."""
# size: held-out samples that are scored at the end of the run
_TEXT_SAMPLES = 64
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_SMALL_RATE = 0.01
"""Share of the peak learning rate. Updates whose rate is below this share are not expected to change parameters."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_STILL = 3e-7
"""Relative distance of a parameter tensor from its initial values below which rounding in float32 explains it.

The shrinking of a tensor by weight decay is not part of this distance."""
_TOO_FINE = 10 * _STILL
"""Share of the RMS of a parameter tensor. If the sum of the first learning rates is not above it, the updates have no
effect, because they are smaller than the rounding of the weights."""


@dataclass
class Watch:
    """Checks the parts of the model between updates. Each process of a run has one object of this class."""

    vlm: VLM
    peak_lr: float
    """Peak learning rate. Updates with a far lower rate (at the end of a schedule) need not change parameters."""
    force: bool = False
    """Whether the run records errors and continues, instead of stopping."""
    start: dict[str, Tensor] = field(init=False)
    frozen: Frozen = field(init=False)
    largest_norm: float = 0.0
    updates: int = 0
    summed_rate: float = 0.0
    """Sum of the learning rates of all updates so far. AdamW cannot have changed any weight by much more than this."""
    judged_rate: float = 0.0
    """The highest learning rate so far for which there was a finding; 0 if there was none.

    The peak rate is not included, because it is judged before the first update."""
    typical_weight: float | None = field(init=False)

    def __post_init__(self) -> None:
        """Record the initial values of all parts."""
        self.start = {name: p.detach().clone() for name, p in self.vlm.connector.named_parameters()}
        self.typical_weight = typical_size(self.start)
        self.frozen = Frozen(self.vlm)

    def after_update(self, grad_norm: float, learning_rate: float) -> list[Finding]:
        """Check the learning rate, and whether the updates have an effect.

        After the first `FIRST_UPDATES` updates, the method checks once whether every trained parameter has changed.

        Args:
            grad_norm: gradient norm of this update before gradient clipping.
            learning_rate: learning rate of this update.
        """
        self.largest_norm = max(self.largest_norm, grad_norm)
        self.updates += learning_rate >= _SMALL_RATE * self.peak_lr
        self.summed_rate += learning_rate
        return [*self._rate(learning_rate), *self._unmoved(learning_rate)]

    def _rate(self, learning_rate: float) -> list[Finding]:
        """Judge a learning rate that is more than twice the peak rate and more than twice any rate reported before.

        Such a rate occurs only if something other than the schedule in the config sets it.
        """
        if learning_rate <= 2 * max(self.judged_rate, self.peak_lr):
            return []
        found = diagnose_step(learning_rate, self.typical_weight)
        self.judged_rate = learning_rate if found else 0.0
        return found

    def _unmoved(self, learning_rate: float) -> list[Finding]:
        if self.updates != FIRST_UPDATES or not self.start:
            return []
        still, start = unmoved(self.vlm.connector, self.start), self.start
        of, self.start = len(self.start), {}
        if not still:
            return []
        if self.largest_norm and 0 < self.summed_rate <= _TOO_FINE * min(_size(start[name]) or 1.0 for name in still):
            return [self._too_slow(len(still), of, learning_rate)]
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

    def _too_slow(self, still: int, of: int, learning_rate: float) -> Finding:
        return finding(
            "learning-rate-too-low",
            f"after {self.updates} updates {still} of the connector's {of} parameter tensors have not moved, although "
            f"they get gradients (largest gradient norm {self.largest_norm:.3g}): the learning rate is "
            f"{learning_rate:.3g}, so low that updates are lost in the rounding of float32",
            "raise train.lr by some powers of ten (a thirtieth of the typical weight is usual), and check the schedule "
            "and the groups of the optimizer for a rate that the config does not have",
            unmoved=still,
            of=of,
            learning_rate=learning_rate,
            peak_learning_rate=self.peak_lr,
            typical_weight=self.typical_weight,
        )

    def after_epoch(self) -> list[Finding]:
        """Check that the weights of the frozen parts have not changed."""
        return self.frozen.findings("while training")


def unmoved(connector: nn.Module, start: dict[str, Tensor]) -> list[str]:
    """Return the names of parameters that have not changed since the start, except for shrinking by weight decay."""
    return [name for name, p in connector.named_parameters() if distance(p.detach(), start[name]) < _STILL]


def _size(value: Tensor) -> float:
    """Return the RMS of a tensor; 0 if all its values are 0.

    A tensor of zeros needs no comparison with the size of updates: any update, however small, changes it.
    """
    return float(value.float().pow(2).mean().sqrt())


@torch.no_grad()
def end_findings(vlm: VLM, held_out: SampleSource, pad_id: int, looks: Sequence[Look], seed: int = 0) -> list[Finding]:
    """Check at the end of a run whether images lower the loss, and whether wrong images raise it.

    The loss with images is compared with the loss of the text alone. The looks show the effect of wrong images.

    Args:
        vlm: the trained model.
        held_out: the held-out set. Its first 64 samples are scored with and without their images.
        pad_id: id of the token with which sequences are padded on the right.
        looks: the looks that were taken during training, if any.
        seed: seed of the run, from which the fresh connectors for comparison are initialised.
    """
    batch = collate([held_out[p] for p in range(min(_TEXT_SAMPLES, len(held_out)))], pad_id)
    return [
        *_no_better_than_text(vlm, batch, looks),
        *never_opened(looks, lambda: not len(batch) or beats_fresh(vlm, batch, seed)),
    ]


def beats_fresh(vlm: VLM, batch: Batch, seed: int) -> bool:
    """Return whether these samples have a lower loss with the connector's tokens than with any fresh connector's."""
    rivals = fresh_rivals(vlm, batch, seed)
    return rivals is not None and rivals.beats_fresh


def _no_better_than_text(vlm: VLM, batch: Batch, looks: Sequence[Look]) -> list[Finding]:
    """Report a model whose loss with images is no lower than its loss without images.

    There is a finding only if an increase of the loss without images is ruled out with 99% confidence.
    """
    if not batch.stats.label_tokens:
        return []
    seeing = vlm.nll(batch, VisualTokens((vlm.visual(vlm.features(batch)),)))
    text_only = vlm.nll(batch, None)
    means = [float(made.nll_N.double().mean()) for made in (seeing, text_only)]
    gap = gap_between(seeing, text_only, batch)
    if gap is None or stand_gap(gap).standing != "ruled out":
        return []
    return [
        finding(
            "under-trained",
            f"{gap.samples} held-out captions cost {means[0]:.3f} nats/token with their images and {means[1]:.3f} "
            "without, which rules out (99%) that the images help: the connector adds no information to the text yet",
            "check that visual tokens reach the language model and that captions belong to their images (`qwen3-vlm "
            f"diagnose`), then {_next_run(looks)}",
            loss=round(means[0], 4),
            text_only=round(means[1], 4),
            gap=round(gap.gap, 4),
            se=None if gap.se is None else round(gap.se, 4),
            samples=gap.samples,
        )
    ]


def never_opened(looks: Sequence[Look], learnt: Callable[[], bool]) -> list[Finding]:
    """Report a run in which wrong pictures have not raised the loss.

    The run must have at least three looks. The last two looks must rule out that wrong pictures increase the loss by
    more than the margin of check 1. The effect of zeroed visual tokens decides which fault is reported:

    - If zeros increase the loss in both looks, and `learnt` returns True, the fault is `constant-prompt`.
    - If zeros increase the loss in both looks, and `learnt` returns False, the fault is `under-trained`.
    - If both looks rule out that zeros increase the loss, the fault is `under-trained`.

    In all other cases, the looks do not decide the question, and there is no finding.

    Args:
        looks: the looks of the run so far.
        learnt: measures whether the visual tokens give a lower loss than those of fresh connectors. It is called only
            if zeros increase the loss. Tokens of any connector can be better than zeros, so an increase alone does not
            show that the connector has learnt a constant prompt.
    """
    if len(looks) < 3:
        return []
    before, last = looks[-2:]
    closed = before.shuffled == last.shuffled == "ruled out"
    if not closed or before.zero != last.zero or last.zero == "open":
        return []
    constant, zeros = last.zero == "costs" and learnt(), last.gap_zero
    assert zeros is not None, "the looks of a run score zeros"
    if constant:
        shown = f"though zeroed visual tokens cost {zeros:+.4f}: the visual tokens act nearly as one fixed prompt"
    elif last.zero == "costs":
        shown = (
            f"and though zeroed visual tokens cost {zeros:+.4f}, those of newly initialised connectors are not "
            "shown to be worse: nothing that the connector learnt is visible yet"
        )
    else:
        shown = f"and that zeroed visual tokens cost anything ({zeros:+.4f}): the visual tokens are not used yet"
    return [
        finding(
            "constant-prompt" if constant else "under-trained",
            f"at steps {before.step} and {last.step} it is ruled out that another sample's image costs more than the "
            f"margin of check 1 ({last.gap_shuffled:+.4f} nats/token at the last), {shown}",
            (
                "check that captions belong to their images and that different images give different tower features"
                if constant
                else "check that visual tokens reach the language model and get a gradient (`qwen3-vlm diagnose`)"
            )
            + f", then {_next_run(looks)}",
            "warning" if constant else "note",
            gaps_shuffled=[round(look.gap_shuffled, 4) for look in looks],
            gap_zero=zeros,
            step=last.step,
        )
    ]


def _next_run(looks: Sequence[Look]) -> str:
    """Return advice for the next run.

    Longer training is not advised if the last look has a higher held-out loss than an earlier one.
    """
    best = min(looks, key=lambda look: look.correct, default=None)
    if best is None or round(looks[-1].correct, 3) <= round(best.correct, 3):
        return "train longer or with a higher train.lr"
    return (
        "train on more rows or with a lower train.lr; not longer, because the held-out loss of the looks has not "
        f"fallen since step {best.step} ({best.correct:.3f} there, {looks[-1].correct:.3f} at step {looks[-1].step})"
    )
