"""Findings from the visual tokens themselves: their scale, how much they differ between images, and unused slots.

A slot is the place of one visual token of an image. The shares, the RMS ratio and the effective rank are defined in
`scoring.internals`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eyechart.faults.slots import SlotUse
from eyechart.faults.table import agree, finding
from eyechart.results import Finding, Internals, Verdict
from eyechart.scoring.internals import OUTPUT, TOWER

# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
SCALE = (0.1, 10.0)
"""Accepted range of the RMS ratio of visual tokens to text embeddings, as multiples of its reference (`_reference`)."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 18
OF_FRESH = 0.1
"""A stage has lost the differences between images if its variance share is below this fraction of the share in a newly
initialised connector."""
# exact: the rounding of bfloat16, whatever the data
ROUNDING = 2**-18 / 3
"""Mean square of the relative rounding error of bfloat16 (uniform within 2**-9). If the variance share or image share
of a stage is below this, the differences between images are smaller than the rounding errors of a language model in
bfloat16."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 21
_LOST = 0.01
"""If the share of the projector is below this fraction of the resampler's, its bias dominates its output. Correct
projectors, trained or not, change the share by less than a factor of ten, because they only mix values within a
token."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
_ALIKE = 1e-3
"""If the tower's variance share is below this, the images themselves are almost equal, and later stages cannot be
judged."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 9
_ONE_DIRECTION = 1.05
"""If the effective rank is below this, all visual tokens of an image are copies of one token, up to scale."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
_DEAD = 0.01
"""A group of slots contains no information if both of its effects on the loss (`SlotUse.without` and `SlotUse.alone`)
are below this fraction of an equal share. An equal share is the effect of the whole image divided by the number of
groups. In some healthy runs, two of eight slots have nearly all of the effect, and each of the others has 2 to 8% of an
equal share."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_HALF = 0.5
"""Minimum share of dead slots for a finding. In the fault benchmark (the demo data sets scenes and digits), none of the
7 healthy set-ups with 8 visual tokens that were run has this finding. A set-up in which two of eight visual tokens are
set to zero does not have it either."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_CARRIES = 0.05
"""Slots are compared only if swapping the whole image raises the loss by at least this, in nats per label token."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_MILD = 3
"""Factor by which the ratio of a run that passes check 1 may lie outside the accepted range without a warning. One
healthy run without an output norm had a ratio of 12."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
_HELPS = 0.05
"""If rescaling the visual tokens to the RMS of the text embeddings lowers the loss by more than this, in nats per label
token, the original scale is harmful."""


@dataclass(frozen=True)
class Untrained:
    """A newly initialised connector of the same shape on the same images: the reference for scale and for collapse."""

    internals: Internals
    scaled: bool
    """Whether the connector scales its output to the text embeddings by construction."""


def diagnose_visual(
    internals: Internals | None,
    slots: SlotUse | None = None,
    verdict: Verdict | None = None,
    untrained: Untrained | None = None,
) -> list[Finding]:
    """Return findings about the visual tokens.

    The list is empty if the tokens differ between images, have the scale of the text embeddings, and contain
    information in more than half of the slots.

    Args:
        internals: the measurements at the connector's stages, if available.
        slots: the contribution of each group of slots, if measured.
        verdict: the verdict of check 1, if known. If it is PASS, a scale other than the text's is not an error.
        untrained: the reference, if known. Without it, shares are compared with the rounding error of bfloat16, and the
            scale with that of the text embeddings.
    """
    found = [*_slots(internals, slots)]
    if internals is not None:
        found += [*_scale(internals, slots, verdict, untrained), *_collapse(internals, verdict, untrained)]
    return found


def _reference(untrained: Untrained | None) -> tuple[float, float]:
    """Return the lowest and the highest RMS ratio that a correct connector can have, before or after training.

    Both are 1 if the connector scales its output to the text embeddings. A newly initialised connector with another
    ratio then has a fault in its code and is not used as a reference. Otherwise, the ratio starts at that of a newly
    initialised connector, which depends only on the initialisation, and training moves it towards 1.
    """
    if untrained is None or untrained.scaled:
        return 1.0, 1.0
    return min(1.0, untrained.internals.rms_ratio), max(1.0, untrained.internals.rms_ratio)


def _scale(
    internals: Internals, slots: SlotUse | None, verdict: Verdict | None, untrained: Untrained | None
) -> Iterator[Finding]:
    ratio, least, most = internals.rms_ratio, *_reference(untrained)
    low, high = SCALE[0] * least, SCALE[1] * most
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


def _collapse(internals: Internals, verdict: Verdict | None, untrained: Untrained | None) -> Iterator[Finding]:
    shares = internals.variance_share
    fresh = untrained.internals.variance_share if untrained else {}
    tower = shares.get(TOWER)
    if tower is None or tower < _ALIKE or internals.images < 2:
        return  # the images themselves are almost equal, so no stage after the tower can be judged
    advice = "an activation that is always 0, an average over the batch, or divergence at a high learning rate"
    before, had = TOWER, tower
    for stage, share in shares.items():
        bar = max(ROUNDING, OF_FRESH * fresh.get(stage, 0.0)) * (stage != TOWER)
        if share < bar or (stage == OUTPUT and share < _LOST * had):
            yield finding(
                "collapsed",
                f"the {stage}'s output is nearly the same for all {internals.images} images: only {share:.2g} of its "
                f"variance is between images, compared with {had:.2g} for its input (from the {before})"
                + (f" and {fresh[stage]:.2g} for a newly initialised connector" if stage in fresh else ""),
                f"check the {stage} for weights at zero, {advice}; fix that or lower train.lr, and train again",
                stage=stage,
                variance_share=dict(shares),
                images=internals.images,
            )
            return
        before, had = stage, share
    if OUTPUT not in shares and internals.effective_rank_of > 1:
        # The variance share is not reported for a stage without variance or with only one slot.
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
        if verdict != "PASS" and (part < ROUNDING or (stage == OUTPUT and part < _LOST * parts[before])):
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
    bar = _DEAD * slots.whole / len(slots.groups)
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
            f"{len(dead)} of {total} visual tokens contain almost no information: each changes the loss by less than "
            f"{_DEAD:.0%} of an equal share of the right image's {slots.whole:.2f} nats/token, both if only this "
            "token is replaced with "
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
