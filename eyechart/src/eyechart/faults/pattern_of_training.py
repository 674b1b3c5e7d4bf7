"""Findings from check 1 and the training log: a loss that differs from the log, has levelled off, or was still falling.

A gap is the loss under a condition of check 1 (such as no image) minus the loss with the right image. Losses and gaps
are in nats per label token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eyechart.faults.rivals import Rivals
from eyechart.faults.table import finding
from eyechart.results import Ablation, Finding, Training
from eyechart.verdict.gaps import costs, harmful

# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_STALLED = 0.005
"""If the loss fell by at most this fraction between two logged points, it counts as not falling."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79 (it gives only notes)
_STILL_FALLING = 0.03
"""If the loss fell by more than this fraction between the last two logged points, the connector was still improving."""


@dataclass(frozen=True)
class RunContext:
    """What is known about the run apart from check 1; any part may be missing."""

    training: Training | None = None
    step: int | None = None
    """Training step of the checkpoint; the scored loss is only comparable with a loss that was logged at this step."""
    vocabulary: int | None = None
    """Number of tokens in the language model's vocabulary."""
    exact: bool = False
    """Whether the model was trained and scored in float32. If so, logged and scored losses differ only because of the
    order of summation."""
    rivals: Rivals | None = None
    """Losses with the visual tokens of untrained connectors or of an average image; None if not needed or not
    available."""
    horizon: int | None = None
    """Distance from the last token that a prediction uses to the token that it predicts, from the probes
    (`TextRoutes.horizon`); 1 is next-token prediction."""


def diagnose_training(ablation: Ablation, known: RunContext) -> list[Finding]:
    """Return findings from comparing check 1 with the training log, including a note if more training may help."""
    found = []
    if ablation.conditions["correct"].loss is not None:
        found += [*_reproduced(ablation, known), *_stuck(ablation, known)]
    return [*found, *_more_training(ablation, known)]


def _reproduced(ablation: Ablation, known: RunContext) -> Iterator[Finding]:
    """Yield a finding if scoring does not reproduce the held-out loss that was logged for this checkpoint."""
    training, correct = known.training, ablation.conditions["correct"].loss
    logged = _logged(ablation, training) if training is not None and training.step == known.step else None
    if correct is None or logged is None:
        return
    allowed = (1e-3 if known.exact else 0.02) * (1 + correct)  # on the same rows, only rounding may make a difference
    if abs(correct - logged) > allowed:
        yield finding(
            "loss-not-reproduced",
            f"training logged a held-out loss of {logged:.4f} at this checkpoint, but scoring gives {correct:.4f} on "
            f"the same {ablation.samples} held-out rows (nats/token): the model, the data or the scoring differs from "
            "that of the training",
            "first score once in the training process, right after saving: if that gives the logged loss, the loaded "
            "model differs (connector, backbones, precision); if not, compare image preprocessing, the prompt with "
            "its image block, and how labels are shifted",
            logged=logged,
            scored=correct,
            allowed=allowed,
        )


def _logged(ablation: Ablation, training: Training) -> float | None:
    """Return the loss that training logged for exactly the scored rows; None if it logged no loss for them.

    Losses on different rows are not comparable. Even captions of the same style differ by one nat per caption, and
    captions of different styles can differ by any amount.
    """
    if ablation.samples == training.eval_samples:
        return training.eval_loss
    part, asked = training.eval_part, min(ablation.requested, ablation.available or ablation.requested)
    same = part is not None and (part.rows, part.samples) == (asked, ablation.samples)
    return part.loss if part is not None and same else None


def _stuck(ablation: Ablation, known: RunContext) -> Iterator[Finding]:
    """Yield a finding if the loss is higher with the right image than without an image, and has levelled off.

    At the beginning of training, the loss is always higher with the right image. This is not a fault while the loss is
    falling.
    """
    curve = _curve(known.training)
    drops = [1 - after / before for before, after in zip(curve, curve[1:], strict=False) if before > 0][-2:]
    if not harmful(ablation.conditions) or len(drops) < 2 or max(drops) > _STALLED:
        return
    gap = ablation.conditions["no-image"].gap
    assert gap is not None and known.training is not None
    yield finding(
        "picture-harmful",
        f"held-out captions are likelier without any image than with their own, by {-gap:.3f} nats/token, and the "
        f"{_which(known.training)} loss has levelled off ({curve[-3]:.3f}, {curve[-2]:.3f}, {curve[-1]:.3f} at the "
        f"last points; training loss {known.training.train_loss:.3f}): what the connector has learnt does not help "
        "on these captions",
        "check that captions belong to their images, and that training and scoring use the same labels, prompt, images "
        "and backbones; if so, and the held-out loss is far above the training loss, use more data; if both losses "
        "are high, try a lower train.lr, then a higher one",
        gap_no_image=gap,
        curve=curve,
    )


def _more_training(ablation: Ablation, known: RunContext) -> Iterator[Finding]:
    """Yield a note that more training may help, if the loss was still falling or the log has only one point.

    The function yields no note if the loss is constant or rising, or if there is no training log.
    """
    conditions, passed = ablation.conditions, ablation.verdict == "PASS"
    shuffled = conditions.get("shuffled")
    if known.training is None or shuffled is None or shuffled.gap is None:
        return
    curve, fallen = _curve(known.training), _fallen(known.training)
    falling = fallen is not None and fallen > _STILL_FALLING
    beyond = ablation.shuffled_beyond.get("no-image")
    below_none = costs(shuffled) and beyond is not None and beyond.standing == "ruled out"
    failed = ablation.verdict == "FAIL"
    little, worse = failed and costs(shuffled), failed and harmful(conditions)
    if not (falling and (below_none or not passed)) and not (fallen is None and (little or worse)):
        return
    signs = []
    if little:
        signs.append(f"another sample's image costs {shuffled.gap:+.4f} nats/token, so the image is partly read")
    if falling and below_none:
        signs.append("a wrong image costs less than no image")
    if worse:
        assert conditions["no-image"].gap is not None
        signs.append(f"the right image raises the loss by {-conditions['no-image'].gap:.3f} nats/token")
    if falling:
        told = f"the {_which(known.training)} loss was still falling at the end ({curve[-2]:.3f}, then {curve[-1]:.3f})"
    else:
        told = "training may have ended too early; one logged point does not show whether the loss was still falling"
    yield finding(
        "under-trained",
        f"{told}{': ' if signs else ''}{'; '.join(signs)}",
        "train longer (more epochs or rows), as long as the held-out loss falls",
        gap_shuffled=shuffled.gap,
        falling=fallen if falling else None,
    )


def _fallen(training: Training | None) -> float | None:
    """Return the relative decrease of the loss between the last two logged points; None with fewer than two points."""
    curve = _curve(training)
    return 1 - curve[-1] / curve[-2] if len(curve) > 1 and curve[-2] > 0 else None


def _curve(training: Training | None) -> list[float]:
    """Return the logged losses in order: the held-out loss if every point has it, otherwise the training loss."""
    points = training.curve if training else []
    held_out = [point.eval for point in points if point.eval is not None]
    return held_out if len(held_out) == len(points) else [point.train for point in points]


def _which(training: Training | None) -> str:
    """Return which of the two losses `_curve` returns, as a word for messages."""
    return "held-out" if training and all(point.eval is not None for point in training.curve) else "training"
