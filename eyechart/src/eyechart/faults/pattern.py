"""Findings from the pattern of the results of check 1.

Check 1 scores captions with the right image and under other conditions, such as another sample's image. A gap is the
loss under a condition minus the loss with the right image. Its standing is `costs` (shown to exceed its margin), `ruled
out` or `open`; it is read from the results (`verdict.standing`). Losses and gaps are in nats per label token.

The verdict states whether the model uses the image. If it does not, this module finds the faults that the pattern of
gaps indicates. Different faults can cause the same pattern, so every message names the other possible causes. The
module `probes` tests the paths through the model directly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from eyechart.faults.condition_words import listed, worded
from eyechart.faults.pattern_of_text import diagnose_text
from eyechart.faults.pattern_of_training import RunContext, diagnose_training
from eyechart.faults.rivals import beaten_by
from eyechart.faults.table import agree, finding
from eyechart.results import Ablation, Condition, Finding, Matching
from eyechart.verdict.gaps import costs, costs_nothing, harmful, helps, unchanged

# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
_COPIED = 0.05
"""A loss below this, in nats per label token, is too low for any text: the answer must be visible to the model."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_MUCH_LOWER, _MUCH_LOWER_SHARE = 0.3, 0.2
"""The training loss counts as much lower if it is below the scored loss by more than 0.3 nats per label token, and by
more than a fifth of the scored loss."""
_BLIND = ("zero", "noise", "no-image", "mean-token", "blind")
_RANDOM = ("noise", "noise-per-dim")
"""Conditions with random visual tokens of the right scale. A language model may have a lower loss with any visual
tokens than with none. If so, only these conditions are comparable with an untrained connector."""
_AVERAGE = ("mean-token", "blind", "no-image", "zero")
"""Conditions that do not show any particular image. If a connector reads images, the loss with a wrong image is higher
than under these conditions."""


def diagnose_ablation(ablation: Ablation, known: RunContext | None = None) -> list[Finding]:
    """Return findings from the results of check 1 and from what else is known about the run."""
    known = known or RunContext()
    conditions = ablation.conditions
    if not ablation.samples or "correct" not in conditions:
        return []
    found = [*_non_finite(conditions)]
    if conditions["correct"].loss is not None:
        found += [*_bit_equal(conditions)] or [*_content(ablation, known)]
        found += [*_level(ablation, known), *diagnose_text(ablation)]
    return [*found, *_more_samples(ablation), *diagnose_training(ablation, known)]


def _non_finite(conditions: dict[str, Condition]) -> Iterator[Finding]:
    lost = [name for name, condition in conditions.items() if condition.loss is None]
    if lost:
        yield finding(
            "non-finite",
            f"the loss is NaN or infinite with {worded(lost)}: "
            + (
                "weights, features or visual tokens are not finite, or a sum overflows in this precision"
                if "correct" in lost
                else "with the right image it is finite, so the language model cannot compute with these values in "
                "this precision"
            ),
            "look for NaN in the checkpoint's weights, then in the tower's features; if both are finite, score with "
            "model.precision fp32: if the loss is finite there, the precision is the cause"
            if "correct" in lost
            else "score with model.precision fp32; if the loss is still not finite, look for a division by the norm "
            "of visual tokens (the norm of zeros is 0)",
            conditions=lost,
        )


def _bit_equal(conditions: dict[str, Condition]) -> Iterator[Finding]:
    """Yield a finding if the losses under all or some conditions equal those with the right image, up to rounding."""
    changed = {n: c for n, c in conditions.items() if n not in ("correct", "no-image") and c.gap is not None}
    unmoved = [name for name, condition in changed.items() if unchanged(condition)]
    if len(changed) >= 2 and len(unmoved) == len(changed):
        yield finding(
            "not-injected",
            f"{worded(list(changed))} all give exactly the loss of the right image, "
            f"{conditions['correct'].loss:.4f} nats/token: visual tokens do not affect the loss, because they are "
            "never placed at the image positions or because a mask hides them",
            "put the visual tokens into the embeddings at the image positions, pass those embeddings "
            "(`inputs_embeds`) to the language model, and set the attention mask to 1 at the image positions",
            conditions=sorted(changed),
        )
        return
    destroyed = [name for name in unmoved if name in ("zero", "noise", "mean-token", "noise-per-dim")]
    moving = [n for n, c in changed.items() if n not in destroyed and costs(c)]
    if destroyed and moving:
        yield finding(
            "leak",
            f"{worded(destroyed)} {agree(len(destroyed), 'changes', 'change')} no loss, but "
            f"{worded(moving)} {agree(len(moving), 'does', 'do')}: image features reach the language model by a path "
            "other than the visual tokens, such as cross-attention or features added to deeper layers",
            "send every feature of the image through the visual tokens, or turn off the second path from image to "
            "language model (features added to deeper layers, cross-attention)",
            conditions=destroyed,
        )


def _content(ablation: Ablation, known: RunContext) -> Iterator[Finding]:
    """Yield a finding if the content of the image has no effect on the loss, although the visual tokens have one."""
    conditions, shuffled = ablation.conditions, ablation.conditions.get("shuffled")
    if shuffled is None or shuffled.gap is None or costs(shuffled):
        return
    by = {name: c for name, c in conditions.items() if name in (*_BLIND, *_RANDOM) and c.gap is not None}
    gaps = {name: condition.gap for name, condition in by.items()}
    told = f"{shuffled.gap:+.4f} nats/token, standard error {shuffled.se or 0:.4f}"
    matching = _matching(ablation.matching)
    if _unlike_training(ablation, known):
        assert known.training is not None
        yield finding(
            "pairs-mismatched",
            f"on held-out captions another sample's image is as good as the right one ({told}){matching}, and "
            f"{_better_than_right(ablation, known)} nats/token; the loss is "
            f"{known.training.train_loss:.2f} in training and {conditions['correct'].loss:.2f} here: most likely the "
            "held-out captions are paired with the wrong images, or the connector memorised its training rows",
            "check how the held-out file pairs captions with images (its order, its paths, off by one row), and that "
            "scoring keeps the order of the batch; if both are right, train on more rows",
            shuffled=shuffled.gap,
            gaps=gaps,
            train_loss=known.training.train_loss,
            average=None if known.rivals is None or known.rivals.average is None else known.rivals.average.gap,
        )
        return
    # A learnt constant prompt does not raise the loss. If visual tokens raise it, the connector has learnt very little.
    if costs_nothing(shuffled) and not harmful(conditions):
        yield from _constant(ablation, known, told)


def _constant(ablation: Ablation, known: RunContext, told: str) -> Iterator[Finding]:
    """Yield a finding if the visual tokens lower the loss, although those of a wrong image do not raise it.

    This alone does not show that the visual tokens are a learnt constant prompt, because a language model may have a
    lower loss with any visual tokens than with none. The loss must also be lower than with the tokens of newly
    initialised connectors. If it is not, the finding is `under-trained`. If no such connectors are available (a model
    that is only scored), the loss must be lower than with random tokens, and the finding is only a warning.
    """
    conditions, shuffled, rivals = ablation.conditions, ablation.conditions["shuffled"], known.rivals
    compared = _RANDOM if rivals is None else (*_BLIND, *_RANDOM)
    by = {name: c for name, c in conditions.items() if name in compared and c.gap is not None}
    costly = [name for name, condition in by.items() if costs(condition)]
    if not costly:
        return
    if rivals is not None and not rivals.beats_fresh:
        yield finding(
            "under-trained",
            f"another sample's image does not raise the loss by more than the margin of {shuffled.margin:g} ({told}), "
            "and the visual tokens are not shown to be better than those of newly initialised connectors "
            f"({_spans([fresh.gap for fresh in rivals.fresh])} nats/token): nothing that they learnt is visible here",
            "check that training reached the connector (its loss fell, its weights moved) and that captions belong to "
            "their images",
            gap_shuffled=shuffled.gap,
            gaps_fresh=[fresh.gap for fresh in rivals.fresh],
        )
        return
    basis = (
        "; no untrained connector was available for comparison, so this is based on random tokens alone"
        if rivals is None
        else f"; those of newly initialised connectors cost {_spans([fresh.gap for fresh in rivals.fresh])}"
    )
    yield finding(
        "constant-prompt",
        f"removing the visual tokens raises the loss ({listed(by, costly)} nats/token{basis}), but another sample's "
        f"image does not raise it by more than the margin of {shuffled.margin:g} ({told})"
        f"{_matching(ablation.matching)}: the visual tokens act as one fixed prompt, and the content of the image is "
        "ignored",
        "first check that training captions belong to their images (order, paths, off by one row), and that "
        "different images give different tower features; if both are right, try a higher train.lr, and "
        "continue training only while the held-out loss falls",
        "warning" if rivals is None else None,
        shuffled=shuffled.gap,
        se=shuffled.se,
        gaps={name: condition.gap for name, condition in by.items()},
        gaps_fresh=None if rivals is None else [fresh.gap for fresh in rivals.fresh],
    )


def asks_for_rivals(ablation: Ablation) -> bool:
    """Return whether losses with other visual tokens (`rivals`) are needed to interpret the results of check 1."""
    shuffled = ablation.conditions.get("shuffled")
    return ablation.verdict != "PASS" and shuffled is not None and shuffled.gap is not None and not costs(shuffled)


def _unlike_training(ablation: Ablation, known: RunContext) -> bool:
    """Return whether a connector that learnt to read images seems to be scored with mismatched images.

    Two signs are required. First, the loss with the average of many images, or without an image, is lower than with the
    right image, with 99% confidence. Second, the training loss was much lower than the scored loss. Without the second
    sign, the connector could be untrained. If the held-out loss was also much lower when this checkpoint was saved,
    mismatched pairs are not the cause, because the pairs have not changed since.
    """
    loss, training = ablation.conditions["correct"].loss, known.training
    if loss is None or training is None or not _better_than_right(ablation, known):
        return False
    low = loss - max(_MUCH_LOWER, _MUCH_LOWER_SHARE * loss)
    was_right = training.step == known.step and training.eval_loss is not None and training.eval_loss < low
    return training.train_loss < low and not was_right


def _better_than_right(ablation: Ablation, known: RunContext) -> str:
    """Describe visual tokens without image content whose loss is lower than with the right image; "" if none exist."""
    average = None if known.rivals is None else known.rivals.average
    if average is not None and beaten_by(average):
        return f"the mean of training images' visual tokens is better by {-average.gap:.2f}"
    name = next((name for name in _AVERAGE if helps(ablation.conditions.get(name))), None)
    return (
        ""
        if name is None
        else f"with {worded([name])} the loss is lower by {-(ablation.conditions[name].gap or 0):.2f}"
    )


def _spans(gaps: Sequence[float]) -> str:
    return f"{min(gaps):+.3f} to {max(gaps):+.3f}"


def _level(ablation: Ablation, known: RunContext) -> Iterator[Finding]:
    """Yield findings about losses that are too low or too high for a correct setup."""
    losses = {name: c.loss for name, c in ablation.conditions.items() if c.loss is not None}
    correct = losses["correct"]
    if len(losses) > 2 and max(losses.values()) < _COPIED:
        copied = known.horizon != 1
        why = {
            0: "changing a token changes its own loss, so each token is predicted from itself",
            1: "labels are correctly shifted by one, so the answer is visible elsewhere, most likely in the prompt",
            None: "most likely because each token is predicted from itself (the shift of the labels is not known)",
        }.get(known.horizon, f"labels are {known.horizon} positions after the last token seen, and 1 is correct")
        yield finding(
            "labels-unshifted" if copied else "leak",
            f"captions are predicted almost perfectly, at {correct:.4f} nats/token with the right image and at most "
            f"{max(losses.values()):.4f} with {worded(sorted(losses.keys() - {'correct'}), 'or')}: the answer is "
            "visible; "
            f"{why}",
            "make sure labels are shifted exactly once (the logits at t-1 against the label at t); then look for the "
            "caption in the prompt, and for attention that is not causal"
            if copied
            else "look for the caption in the prompt, then for attention that is not causal, then for captions that "
            "are all the same",
            losses=losses,
        )
    if known.vocabulary is None or correct <= math.log(known.vocabulary):
        return
    guess = math.log(known.vocabulary)
    text = losses.get("no-image")
    if known.horizon == 1 and text is not None and text <= guess:
        yield finding(
            "picture-harmful",
            f"with their own images, captions are predicted worse than by random guessing ({correct:.2f} nats/token; "
            f"guessing among {known.vocabulary} tokens costs {guess:.2f}), but without any image far better "
            f"({text:.2f}): the visual tokens do more harm than good",
            "look at the training loss: if it rises, check the sign of the loss and of the optimizer's step "
            "(`maximize`), then lower train.lr; if it falls, scoring differs from training: check the loaded "
            "weights, the preprocessing and the prompt",
            losses=losses,
            guess=guess,
        )
    elif known.horizon == 1 and text is not None and ablation.verdict != "PASS":
        yield finding(
            "captions-unread",
            f"captions are predicted worse than by random guessing, with the image ({correct:.2f} nats/token) and "
            f"without any ({text:.2f}; guessing among {known.vocabulary} tokens costs {guess:.2f}), though labels are "
            "shifted by one as they should be: the language model was never trained on text like this (another "
            "language, another case), its tokenizer is another model's, or its weights are not trained",
            "score captions in the language and the case that the language model knows; if they already are, set "
            "model.llm to a model whose weights load completely, with the tokenizer that belongs to it",
            losses=losses,
            guess=guess,
        )
    elif known.horizon != 1:
        yield finding(
            "labels-shifted",
            f"captions are predicted worse than by random guessing ({correct:.2f} nats/token; guessing among "
            f"{known.vocabulary} tokens costs {guess:.2f}), "
            + (
                "and the shift of the labels is not known: they may be shifted twice, or the language model may be "
                "untrained or have another model's tokenizer"
                if known.horizon is None
                else f"and labels are {known.horizon} positions after the last token seen, while 1 is correct: the "
                "model is scored on tokens other than those that it predicts"
            ),
            "compute the loss at position t from the logits at position t-1, and shift the labels only "
            "once, in the model or in the data; if that is already so, check model.llm and its tokenizer",
            losses=losses,
            guess=guess,
        )


def _more_samples(ablation: Ablation) -> Iterator[Finding]:
    needed, available = ablation.needed_samples, ablation.available
    if ablation.verdict != "INCONCLUSIVE" or needed is None or needed <= ablation.samples:
        return
    exist = available is None or needed <= available
    yield finding(
        "eval-too-small",
        f"{ablation.samples} samples are too few to decide whether the right image is better than a wrong one or none; "
        f"about {needed} would be enough if the differences stay the same"
        + ("" if exist else f", but only {available} are available"),
        f"score more samples (--num_samples {needed})"
        if exist
        else "hold out more rows (a larger data.eval_ratio and a new training run), or score rows from another file "
        "that was not used for training",
        samples=ablation.samples,
        needed=needed,
        available=available,
    )


def _matching(matching: Matching | None) -> str:
    if matching is None or matching.r_at_1.value is None or matching.r_at_1.standing == "costs":
        return ""
    found = f"{matching.r_at_1.value:.0%}"
    return f", and matching does not show that captions identify their own among {matching.k} images (R@1 {found})"
