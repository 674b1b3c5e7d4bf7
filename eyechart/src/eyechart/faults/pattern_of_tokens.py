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
"""A stage has lost the images if its share of variance between images is below this fraction of the tower's share. On
the tiny world, an untrained connector has 1.5e-3, one trained on mismatched pairs 9e-3, and a trained one 0.3."""
_LOST = 0.01
"""A projector dominated by its bias passes on less than this fraction of the resampler's share. Correct projectors,
trained or not, keep the share within a factor of ten: they only mix values within a token."""
_ALIKE = 1e-3
"""If the tower's share is below this, the images themselves are almost equal, and no later stage can be judged."""
_ONE_DIRECTION = 1.05
"""If the effective rank is below this, all visual tokens of an image are copies of one token, up to scale."""
_DEAD = 0.01
"""If a group of slots is worth less than this fraction of the whole picture, it carries no information."""
_HALF = 0.5
"""Share of dead slots from which there is a finding, this share included. In the fault benchmark the healthy set-ups
with 4, 8, 16 and 64 visual tokens stay below it, and so does one with two of eight zeroed."""
_CARRIES = 0.05
"""Slots are only compared if the whole picture is worth at least this many nats per label token."""
_MILD = 3
"""Factor by which a passing run may exceed `SCALE` without a warning; a healthy run without output norm had 12."""
_HELPS = 0.05
"""If the text's scale lowers the loss by more than this, in nats per label token, the scale matters."""


def diagnose_visual(
    internals: Internals | None, slots: SlotUse | None = None, verdict: Verdict | None = None
) -> list[Finding]:
    """Return findings about the visual tokens.

    The list is empty if tokens differ between images, have the scale of the text, and all slots carry information.

    Args:
        internals: figures of the connector's stages, if measured.
        slots: the worth of each group of slots, if measured.
        verdict: the verdict of check 1, if known: a connector that passes may have a scale of its own.
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
    lives = "; check 1 passes all the same, so this run can live with it" if sound else ""
    yield finding(
        "scale-mismatch",
        f"the visual tokens' RMS is {size} the text embeddings' RMS (expected {low:g} to {high:g} times): the "
        f"language model reads them far off the scale of its words{told}{lives}",
        "train with connector.output_norm true, or take out whatever scales the connector's output",
        severity=None if not sound else "note" if low / _MILD <= ratio <= high * _MILD else "warning",
        rms_ratio=ratio,
        rescaled_loss_change=rescaled,
    )


def _collapse(internals: Internals, verdict: Verdict | None) -> Iterator[Finding]:
    shares = internals.variance_share
    tower = shares.get(TOWER)
    if tower is None or tower < _ALIKE or internals.images < 2:
        return  # the images themselves are almost equal, so no stage after the tower can be judged
    advice = "an activation that is always off, an average over the batch, or a learning rate that blew it up"
    before, had = TOWER, tower
    for stage, share in shares.items():
        if share < COLLAPSED * tower or (stage == OUTPUT and share < _LOST * had):
            yield finding(
                "collapsed",
                f"the {stage}'s output is nearly the same for all {internals.images} images: only {share:.2g} of its "
                f"variance lies between images, where {had:.2g} of its input's does (from the {before})",
                f"look at the {stage} for weights at zero, {advice}; fix that or lower train.lr, and train again",
                stage=stage,
                variance_share=dict(shares),
                images=internals.images,
            )
            return
        before, had = stage, share
    if OUTPUT not in shares and internals.effective_rank_of > 1:
        # No share is reported if there is no variance at all, or only one slot and so nothing to compare with.
        yield finding(
            "collapsed",
            f"the projector gives all visual tokens of all {internals.images} images one and the same vector, though "
            f"the tower tells the images apart (share of its variance between images {tower:.2g})",
            f"look at the projector for weights at zero, {advice}; fix that or lower train.lr, and train again",
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
                f"the {stage}'s output is nearly one constant: only {part:.2g} of its mean square differs between the "
                f"{internals.images} images, where {parts[before]:.2g} of its input's does (from the {before})",
                f"look at the {stage} for weights near zero beside a large bias, {advice}; fix that or lower "
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
            f"{internals.effective_rank_of}): they are copies of each other up to their scale",
            "check that connector.latents start different from each other (random, not one vector repeated) and that "
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
    if len(dead) >= _HALF * total:
        alive = [slot for group in slots.groups for slot in group if slot not in dead]
        yield finding(
            "slots-dead",
            f"{len(dead)} of {total} visual tokens carry next to nothing: each is worth less than {_DEAD:.0%} of the "
            f"right image's {slots.whole:.2f} nats/token, whether it alone is swapped for another image's or it alone "
            f"is kept; what is carried is in {_listed(alive)}",
            "check that every latent attends to the patches and gets a gradient; if so few are enough, lower "
            "connector.latents",
            dead=dead,
            whole=slots.whole,
            without=list(slots.without),
            alone=list(slots.alone),
        )


def _listed(slots: list[int]) -> str:
    shown = ", ".join(map(str, slots[:6]))
    if not slots:
        return "none of them alone"
    more = " and others" if len(slots) > 6 else ""
    return f"{agree(len(slots), 'token', 'tokens')} {shown}{more} (counted from 0)"
