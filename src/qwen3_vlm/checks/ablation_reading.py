"""Which fault does the pattern of check 1 show?

The verdict says whether the picture is used; this says what it looks like when it is not. Different faults can leave
one pattern, so every message names what else could have made it, and `probes` look at the paths themselves. Losses and
gaps are in nats per label token. "Costs" means that the 99% lower bound of a gap is above 0, "helps" that its 99%
upper bound is below, "nothing" that it is neither and the upper bound is not above the margin of `shuffled`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen3_vlm.checks.verdict import PASS_LEVEL
from qwen3_vlm.faults import agree, finding
from qwen3_vlm.results import Ablation, Condition, Finding, Matching, Training

_ROUNDING = 1e-7
"""A gap and a standard error below this are no difference at all."""
_COPIED = 0.05
"""Nats per label token below which no caption of a language is predicted: the answer is seen."""
_SHOCK = 0.1
"""Nats per label token by which a picture that does not belong to its caption makes it less likely than none."""
_BLIND = ("zero", "noise", "no-image", "mean-token", "blind")
_PLAIN = {
    "correct": "the right image",
    "shuffled": "another sample's image",
    "zero": "zeroed visual tokens",
    "noise": "noise in place of the visual tokens",
    "noise-per-dim": "noise of each dimension's own size",
    "no-image": "no image positions at all",
    "mean-token": "the mean of all images' visual tokens",
    "blind": "a trained constant prompt",
    "slot-mix": "visual tokens mixed from many images",
    "grey": "a grey image",
    "blurred": "a blurred image",
}
"""Conditions in words, for readers who have only the message."""
_STALLED = 0.005
"""Part of the loss below which a stretch of training took nothing off."""
_STILL_FALLING = 0.03
"""Part of the loss that the last stretch of training took off when the connector was still improving."""


@dataclass(frozen=True)
class Circumstance:
    """What else is known when the pattern is read; all of it may be missing."""

    training: Training | None = None
    step: int | None = None
    """Of the checkpoint: the log speaks for it only at this very step."""
    vocabulary: int | None = None
    """Tokens the language model chooses from."""
    exact: bool = False
    """Trained and scored in float32: then a loss comes out the same again but for the order of sums."""
    horizon: int | None = None
    """From the probes: 1 where labels are the next token."""


def diagnose_ablation(ablation: Ablation, known: Circumstance | None = None) -> list[Finding]:
    """Name what the pattern of check 1 means; nothing but notes on a run that sees, however little it was trained."""
    known = known or Circumstance()
    conditions = ablation.conditions
    if not ablation.samples or "correct" not in conditions:
        return []
    found = [*_non_finite(conditions)]
    if conditions["correct"].loss is not None:
        found += [*_bit_equal(conditions)] or [*_content(ablation, known)]
        found += [*_level(ablation, known), *_reproduced(ablation, known), *_stuck(ablation, known)]
    return [*found, *_more_samples(ablation), *_more_training(ablation, known)]


def _non_finite(conditions: dict[str, Condition]) -> Iterator[Finding]:
    lost = [name for name, condition in conditions.items() if condition.loss is None]
    if lost:
        yield finding(
            "non-finite",
            f"the loss is NaN or infinite with {_worded(lost)}: "
            + (
                "weights, features or visual tokens are not finite, or a sum overflows in this precision"
                if "correct" in lost
                else "with the right image it is finite, so the language model cannot compute with these values in "
                "this precision"
            ),
            "look for NaN in the checkpoint's weights, then in the tower's features; if both are finite, score with "
            "model.precision fp32: a loss that is finite there is a matter of precision"
            if "correct" in lost
            else "score with model.precision fp32; if it stays, look for NaN in the weights of model.llm",
            conditions=lost,
        )


def _bit_equal(conditions: dict[str, Condition]) -> Iterator[Finding]:
    """Changes of the visual tokens that move no loss at all: none of them does, or some do not."""
    changed = {n: c for n, c in conditions.items() if n not in ("correct", "no-image") and c.gap is not None}
    unmoved = [name for name, condition in changed.items() if _is_nothing_at_all(condition)]
    if len(changed) >= 2 and len(unmoved) == len(changed):
        yield finding(
            "not-injected",
            f"{_worded(list(changed))} all give exactly the loss of the right image, "
            f"{conditions['correct'].loss:.4f} nats/token: what is put into the image positions does not reach the "
            "loss, because it is never placed there or because a mask hides it",
            "put the visual tokens into the embeddings at the image positions, hand those on as `inputs_embeds`, and "
            "let the attention mask be 1 at the image positions",
            conditions=sorted(changed),
        )
        return
    destroyed = [name for name in unmoved if name in ("zero", "noise", "mean-token", "noise-per-dim")]
    moving = [n for n, c in changed.items() if n not in destroyed and _costs(c)]
    if destroyed and moving:
        yield finding(
            "leak",
            f"{_worded(destroyed)} {agree(len(destroyed), 'changes', 'change')} no loss, but "
            f"{_worded(moving)} {agree(len(moving), 'does', 'do')}: image features reach the language model by another "
            "way than the visual tokens, such as features that are added to deeper layers or cross-attention",
            "send every feature of the image through the visual tokens, or switch the second path from image to "
            "language model off (features added to deeper layers, cross-attention)",
            conditions=destroyed,
        )


def _content(ablation: Ablation, known: Circumstance) -> Iterator[Finding]:
    """The picture's content plays no part, though the image positions do."""
    conditions, shuffled = ablation.conditions, ablation.conditions.get("shuffled")
    if shuffled is None or shuffled.gap is None or not _nothing(shuffled):
        return
    by = {name: c for name, c in conditions.items() if name in _BLIND and c.gap is not None}
    gaps = {name: condition.gap for name, condition in by.items()}
    told = f"{shuffled.gap:+.4f} nats/token, standard error {shuffled.se or 0:.4f}"
    matching = _matching(ablation.matching)
    if _strangers(ablation, known):
        assert conditions["zero"].gap is not None and known.training is not None
        yield finding(
            "pairs-mismatched",
            f"on held-out captions another sample's image is as good as the right one ({told}){matching}, and zeroed "
            f"visual tokens are better by {-conditions['zero'].gap:.2f} nats/token, while the loss is "
            f"{known.training.train_loss:.2f} in training and {conditions['correct'].loss:.2f} here: most likely the "
            "held-out captions stand with other images, or the connector learnt its training rows by heart",
            "check how the held-out file pairs captions with images (its order, its paths, off by one row), and that "
            "scoring keeps the order of the batch; if both are right, train on more rows",
            shuffled=shuffled.gap,
            gaps=gaps,
            train_loss=known.training.train_loss,
        )
        return
    costly = [name for name, condition in by.items() if _costs(condition)]
    # A prompt that works is at least as good as none. Behind one that is worse, the connector has hardly begun.
    if costly and not _harmful(conditions):
        yield finding(
            "constant-prompt",
            f"taking the visual tokens away costs ({_listed(by, costly)} nats/token), but another sample's image costs "
            f"nothing ({told}){matching}: the visual tokens act as one fixed prompt, and what is in the image is "
            "ignored",
            "first check that training captions belong to their images (order, paths, off by one row), and that "
            "different images give different tower features; only if both are right, train longer or at a higher "
            "train.lr",
            shuffled=shuffled.gap,
            se=shuffled.se,
            gaps=gaps,
        )


def _strangers(ablation: Ablation, known: Circumstance) -> bool:
    """Whether a connector that learnt to read pictures is now shown the wrong ones.

    No picture at all is then far better, and training got much further. Without the second, an untrained connector
    would look the same. Where the held-out loss was as low as that when this checkpoint was made, it is not the
    pairs: they are the same as then.
    """
    zero, loss = ablation.conditions.get("zero"), ablation.conditions["correct"].loss
    training = known.training
    if zero is None or zero.gap is None or loss is None or training is None:
        return False
    low = loss - max(0.3, 0.2 * loss)
    was_right = training.step == known.step and training.eval_loss is not None and training.eval_loss < low
    return zero.gap < -_SHOCK and _helps(zero) and training.train_loss < low and not was_right


def _level(ablation: Ablation, known: Circumstance) -> Iterator[Finding]:
    """Losses that no sound language model has, high or low."""
    losses = {name: c.loss for name, c in ablation.conditions.items() if c.loss is not None}
    correct = losses["correct"]
    if len(losses) > 2 and max(losses.values()) < _COPIED:
        copied = known.horizon != 1
        why = {
            0: "changing a token changes its own loss, so each token is predicted from itself",
            1: "labels are shifted by one as they should be, so it is visible elsewhere: most likely in the prompt",
            None: "most likely because each token is predicted from itself (the shift of the labels is not known)",
        }.get(known.horizon, f"labels are {known.horizon} places ahead of the last token seen, where 1 is right")
        yield finding(
            "labels-unshifted" if copied else "leak",
            f"captions are predicted almost perfectly, with {correct:.4f} nats/token, and no worse than "
            f"{max(losses.values()):.4f} with {_worded(sorted(losses.keys() - {'correct'}), 'or')}: the answer is "
            "visible; "
            f"{why}",
            "compare the logits at position t-1 with the label at position t, exactly once; then look for the caption "
            "in the prompt"
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
            f"with their own images captions are predicted worse than by blind guessing ({correct:.2f} nats/token; "
            f"guessing among {known.vocabulary} tokens costs {guess:.2f}), and without any image far better "
            f"({text:.2f}): the visual tokens disturb more than they tell",
            "look at the training loss: if it rises, check the sign of the loss and of the optimizer's step "
            "(`maximize`), then lower train.lr; if it falls, scoring differs from training: check what is loaded, the "
            "preprocessing and the prompt",
            losses=losses,
            guess=guess,
        )
    elif known.horizon == 1 and text is not None and ablation.verdict != "PASS":
        yield finding(
            "tower-uninitialised",
            f"captions are predicted worse than by blind guessing, with the image ({correct:.2f} nats/token) and "
            f"without any ({text:.2f}; guessing among {known.vocabulary} tokens costs {guess:.2f}), though labels are "
            "shifted by one as they should be: most likely the language model's weights are not trained, or its "
            "tokenizer is another model's",
            "name a language model in model.llm whose weights load completely, with the tokenizer that belongs to it",
            losses=losses,
            guess=guess,
        )
    elif known.horizon != 1:
        yield finding(
            "labels-shifted",
            f"captions are predicted worse than by blind guessing ({correct:.2f} nats/token; guessing among "
            f"{known.vocabulary} tokens costs {guess:.2f}), "
            + (
                "and the shift of the labels is not known: they may be shifted twice, or the language model may be "
                "untrained or have another model's tokenizer"
                if known.horizon is None
                else f"and labels are {known.horizon} places ahead of the last token seen, where 1 is right: the model "
                "is scored on other tokens than those it predicts"
            ),
            "compare the logits at position t-1 with the label at position t, once: shift in the model or in the data, "
            "not in both; if that is right, look at model.llm and its tokenizer",
            losses=losses,
            guess=guess,
        )


def _reproduced(ablation: Ablation, known: Circumstance) -> Iterator[Finding]:
    """The log of the very checkpoint says what its held-out loss is; scoring must find that again."""
    training, correct = known.training, ablation.conditions["correct"].loss
    if training is None or training.eval_loss is None or correct is None or training.step != known.step:
        return
    whole = ablation.samples == training.eval_samples
    # On the whole split only rounding may differ. On a part of it the mean of n captions does: one nat per caption.
    rounding = 1e-3 if known.exact else 0.02
    allowed = rounding * (1 + correct) if whole else 4 / math.sqrt(ablation.samples)
    if abs(correct - training.eval_loss) > allowed:
        part = f"the same {ablation.samples}" if whole else f"{ablation.samples} of the same {training.eval_samples}"
        yield finding(
            "loss-not-reproduced",
            f"training logged a held-out loss of {training.eval_loss:.4f} at this checkpoint, and scoring finds "
            f"{correct:.4f} on {part} held-out rows (nats/token): model, data or scoring differ from training's",
            "first score once in the training process, right after saving: if that gives the logged loss, what is "
            "loaded differs (connector, backbones, precision); if not, compare image preprocessing, the prompt with "
            "its image block, and how labels are shifted",
            logged=training.eval_loss,
            scored=correct,
            allowed=allowed,
        )


def _stuck(ablation: Ablation, known: Circumstance) -> Iterator[Finding]:
    """Worse than no picture is where every connector starts, so only one that no longer moves is at fault."""
    curve = _curve(known.training)
    drops = [1 - after / before for before, after in zip(curve, curve[1:], strict=False) if before > 0][-2:]
    if not _harmful(ablation.conditions) or len(drops) < 2 or max(drops) > _STALLED:
        return
    gap = ablation.conditions["no-image"].gap
    assert gap is not None
    yield finding(
        "picture-harmful",
        f"held-out captions are likelier without any image than with their own, by {-gap:.3f} nats/token, and the "
        f"{_which(known.training)} loss has levelled off ({curve[-3]:.3f}, {curve[-2]:.3f}, {curve[-1]:.3f} at the "
        "last points): what training taught the connector does not help here",
        "check that training and scoring use the same labels, prompt, images and backbones; if they do and the "
        "held-out loss is far above that of training, take an earlier checkpoint or more data; if both are high, try a "
        "lower, then a higher train.lr",
        gap_no_image=gap,
        curve=curve,
    )


def _more_samples(ablation: Ablation) -> Iterator[Finding]:
    needed = ablation.needed_samples
    if ablation.verdict == "INCONCLUSIVE" and needed is not None and needed > ablation.samples:
        yield finding(
            "eval-too-small",
            f"{ablation.samples} samples are too few to say whether the right image beats a wrong one or none; about "
            f"{needed} would be enough if the differences stay as they are",
            f"score more held-out samples (--num_samples {needed}); if the split has fewer, train again with a larger "
            "data.eval_ratio",
            samples=ablation.samples,
            needed=needed,
        )


def _more_training(ablation: Ablation, known: Circumstance) -> Iterator[Finding]:
    falling = _falling(known.training)
    conditions = ablation.conditions
    shuffled, zero, noise = (conditions.get(name) for name in ("shuffled", "zero", "noise"))
    if shuffled is None or shuffled.gap is None:
        return
    little = ablation.verdict != "PASS" and _costs(shuffled)
    harmful = ablation.verdict != "PASS" and _harmful(conditions)
    others = [c.gap for c in (zero, noise) if c is not None and c.gap is not None]
    runbook_order = _costs(shuffled) and bool(others) and shuffled.gap < min(others)
    if not (little or harmful or (falling is not None and (runbook_order or ablation.verdict != "PASS"))):
        return
    signs = []
    if little:
        signs.append(
            f"another sample's image costs {shuffled.gap:+.4f} nats/token, so the image is read, but not enough for a "
            f"PASS ({ablation.reasons[0] if ablation.reasons else ablation.verdict})"
        )
    if runbook_order:
        signs.append("a wrong image costs less than none, as early in training")
    if harmful:
        assert conditions["no-image"].gap is not None
        signs.append(f"the right image is still worse than none, by {-conditions['no-image'].gap:.3f} nats/token")
    if falling is not None:
        signs.append(f"the loss was still falling, by {falling:.0%} from the second-last to the last logged point")
    sure = "had not finished learning" if falling is not None else "has probably not finished learning"
    yield finding(
        "under-trained",
        f"the connector {sure}: {'; '.join(signs)}",
        "train longer (more epochs or rows), or at a higher learning rate",
        gap_shuffled=shuffled.gap,
        falling=falling,
    )


def _falling(training: Training | None) -> float | None:
    """Part of the loss that the last stretch of training took off, if that is more than little."""
    curve = _curve(training)
    if len(curve) < 2 or not curve[-2] > 0:
        return None
    fallen = 1 - curve[-1] / curve[-2]
    return fallen if fallen > _STILL_FALLING else None


def _curve(training: Training | None) -> list[float]:
    """The loss over training: held-out where all of it is, else that of training."""
    points = training.curve if training else []
    held_out = [point.eval for point in points if point.eval is not None]
    return held_out if len(held_out) == len(points) else [point.train for point in points]


def _matching(matching: Matching | None) -> str:
    if matching is None or matching.r_at_1.value is None or matching.r_at_1.ci95 is None:
        return ""
    chance = 1 / matching.k
    if matching.r_at_1.ci95[0] > chance:
        return ""
    found = f"{matching.r_at_1.value:.0%}"
    return f", and among {matching.k} images captions find their own no better than by chance ({found})"


def _is_nothing_at_all(condition: Condition) -> bool:
    return abs(condition.gap or 0.0) < _ROUNDING and (condition.se or 0.0) < _ROUNDING


def _costs(condition: Condition) -> bool:
    return condition.lower99 is not None and condition.lower99 > 0 and not _is_nothing_at_all(condition)


def _upper99(condition: Condition) -> float | None:
    """The bound mirrors the lower one: both are gap -+ t(0.99) * SE."""
    assert PASS_LEVEL == 0.99, "`lower99` is the lower bound at this level"
    if condition.gap is None or condition.lower99 is None:
        return None
    return 2 * condition.gap - condition.lower99


def _helps(condition: Condition) -> bool:
    upper = _upper99(condition)
    return upper is not None and upper < 0


def _harmful(conditions: dict[str, Condition]) -> bool:
    """Whether the right picture is surely worse than none at all."""
    return "no-image" in conditions and _helps(conditions["no-image"])


def _nothing(condition: Condition) -> bool:
    upper = _upper99(condition)
    return upper is not None and not _costs(condition) and upper <= (condition.margin or 0.0)


def _listed(conditions: dict[str, Condition], names: Sequence[str]) -> str:
    return ", ".join(f"{_PLAIN.get(name, name)} {conditions[name].gap:+.3f}" for name in names)


def _worded(names: Sequence[str], join: str = "and") -> str:
    """Conditions in words, as a list in a sentence."""
    words = [_PLAIN.get(name, name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {join} {words[-1]}"


def _which(training: Training | None) -> str:
    """Whose loss `_curve` gives."""
    return "held-out" if training and all(point.eval is not None for point in training.curve) else "training"
