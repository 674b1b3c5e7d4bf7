"""Findings from the visual tokens themselves: their scale, how much they differ between images, and unused slots."""

from __future__ import annotations

from collections.abc import Iterator

from eyechart.faults.slots import SlotUse
from eyechart.faults.table import agree, finding
from eyechart.results import Finding, Internals, Verdict
from eyechart.scoring.internals import OUTPUT, TOWER

SCALE = (0.1, 10.0)
"""Accepted range of the RMS of the visual tokens divided by the RMS of the text embeddings."""
COLLAPSED = 1e-4
"""A stage counts as collapsed if its share of variance between images is below this fraction of the tower's share. On
the tiny test data, the value is 1.5e-3 for an untrained connector, 9e-3 for one trained on mismatched pairs, and 0.3
for a trained one."""
_LOST = 0.01
"""A projector dominated by its bias has less than this fraction of the resampler's share. Correct projectors, trained
or not, keep the share within a factor of ten, because they only mix values within a token."""
_ALIKE = 1e-3
"""If the tower's share is below this, the images themselves are almost equal, and no later stage can be judged."""
_ONE_DIRECTION = 1.05
"""If the effective rank is below this, all visual tokens of an image are copies of one token, up to scale."""
_DEAD = 0.01
"""If the loss added by a group of slots is below this fraction of the whole picture's, the group has no information."""
_CARRIES = 0.05
"""Slots are only compared if the whole picture lowers the loss by at least this many nats per label token."""
_MILD = 3
"""Factor by which a passing run may exceed `SCALE` without a warning; a healthy run without output norm had a ratio of
12."""
_HELPS = 0.05
"""If rescaling the visual tokens to the text's RMS lowers the loss by more than this many nats per label token, their
own scale is harmful."""


def diagnose_visual(
    internals: Internals | None, slots: SlotUse | None = None, verdict: Verdict | None = None
) -> list[Finding]:
    """Return findings about the visual tokens.

    The list is empty if the tokens differ between images and have the scale of the text, and if all slots carry
    information.

    Args:
        internals: figures of the connector's stages, if measured.
        slots: the contribution of each group of slots, if measured.
        verdict: the verdict of check 1, if known: a connector that passes may use a scale other than the text's.
    """
    found = [*_slots(internals, slots)]
    if internals is not None:
        found += [*_scale(internals, slots, verdict), *_collapse(internals, verdict)]
    return found


def _scale(internals: Internals, slots: SlotUse | None, verdict: Verdict | None) -> Iterator[Finding]:
    ratio, (low, high) = internals.rms_ratio, SCALE
    if low <= ratio <= high:
        return
    rescaled = None if slots is None else slots.rescaled
    helps = rescaled is not None and rescaled < -_HELPS
    sound = verdict == "PASS" and not helps
    size = f"{ratio:.3g} times as large as" if ratio > 1 else f"only {ratio:.2g} of"
    told = f"; at the text's scale the loss is lower by {-rescaled:.3f} nats/token" if helps and rescaled else ""
    lives = "; check 1 passes nevertheless, so this scale does not prevent the use of the picture" if sound else ""
    yield finding(
        "scale-mismatch",
        f"the visual tokens' RMS is {size} the text embeddings' RMS (expected {low:g} to {high:g} times), so their "
        f"scale is far from what the language model was trained on{told}{lives}",
        "train with connector.output_norm true, or remove the code that scales the connector's output",
        severity=None if not sound else "note" if low / _MILD <= ratio <= high * _MILD else "warning",
        rms_ratio=ratio,
        rescaled_loss_change=rescaled,
    )


def _collapse(internals: Internals, verdict: Verdict | None) -> Iterator[Finding]:
    shares = internals.variance_share
    tower = shares.get(TOWER)
    if tower is None or tower < _ALIKE or internals.images < 2:
        return  # the images themselves are almost equal, so no stage after the tower can be judged
    advice = "an activation that is always 0, an average over the batch, or divergence at a high learning rate"
    before, had = TOWER, tower
    for stage, share in shares.items():
        if share < COLLAPSED * tower or (stage == OUTPUT and share < _LOST * had):
            yield finding(
                "collapsed",
                f"the {stage}'s output is nearly the same for all {internals.images} images: only {share:.2g} of its "
                f"variance is between images, compared with {had:.2g} for its input (from the {before})",
                f"check the {stage} for weights at zero, {advice}; fix that or lower train.lr, and train again",
                stage=stage,
                variance_share=dict(shares),
                images=internals.images,
            )
            return
        before, had = stage, share
    if OUTPUT not in shares and internals.effective_rank_of > 1:
        # No share is reported if there is no variance, or if there is only one slot.
        yield finding(
            "collapsed",
            f"the projector outputs the same vector for all visual tokens of all {internals.images} images, although "
            f"the tower's output differs between images (share of variance between images {tower:.2g})",
            f"check the projector for weights at zero, {advice}; fix that or lower train.lr, and train again",
            stage=OUTPUT,
            variance_share=dict(shares),
            images=internals.images,
        )
        return
    parts, before = internals.image_share, TOWER
    for stage, part in parts.items():
        if verdict != "PASS" and (
            part < COLLAPSED * parts[TOWER] or (stage == OUTPUT and part < _LOST * parts[before])
        ):
            yield finding(
                "collapsed",
                f"the {stage}'s output is nearly constant: only {part:.2g} of its mean square differs between the "
                f"{internals.images} images, compared with {parts[before]:.2g} for its input (from the {before})",
                f"check the {stage} for weights near zero together with a large bias, {advice}; fix that or lower "
                "train.lr, and train again",
                stage=stage,
                image_share=dict(parts),
                images=internals.images,
            )
            return
        before = stage


def _slots(internals: Internals | None, slots: SlotUse | None) -> Iterator[Finding]:
    if internals is not None and internals.effective_rank_of > 1 and 0 < internals.effective_rank < _ONE_DIRECTION:
        yield finding(
            "slots-dead",
            f"all visual tokens of an image point in one direction (effective rank {internals.effective_rank:.2f} of "
            f"{internals.effective_rank_of}): they are copies of each other apart from their scale",
            "check that the latents are initialised to different vectors (random, not one vector repeated) and that "
            "nothing averages over them; if one visual token is enough, set connector.latents to 1",
            effective_rank=internals.effective_rank,
            effective_rank_of=internals.effective_rank_of,
        )
        return
    if slots is None or slots.whole < _CARRIES:
        return
    bar = _DEAD * slots.whole
    dead = [
        slot
        for group, without, alone in zip(slots.groups, slots.without, slots.alone, strict=True)
        if without < bar and alone < bar
        for slot in group
    ]
    total = sum(map(len, slots.groups))
    if len(dead) > total / 2:
        alive = [slot for group in slots.groups for slot in group if slot not in dead]
        yield finding(
            "slots-dead",
            f"{len(dead)} of {total} visual tokens carry almost no information: each changes the loss by less than "
            f"{_DEAD:.0%} of the right image's {slots.whole:.2f} nats/token, both if only this token is replaced with "
            f"another image's and if only this token is kept; the information is in {_listed(alive)}",
            "check that every latent attends to the patches and gets a gradient; if so few visual tokens are enough, "
            "lower connector.latents",
            dead=dead,
            whole=slots.whole,
            without=list(slots.without),
            alone=list(slots.alone),
        )


def _listed(slots: list[int]) -> str:
    shown = ", ".join(map(str, slots[:6]))
    if not slots:
        return "no token alone"
    more = " and others" if len(slots) > 6 else ""
    return f"{agree(len(slots), 'token', 'tokens')} {shown}{more} (counted from 0)"
