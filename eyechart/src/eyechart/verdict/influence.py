"""Tests whether a single image causes the gap of `shuffled`, by leaving out each image in turn.

Under `shuffled`, every caption gets the picture of another sample. The gap is the resulting rise of the loss. Its
standing says whether the gap exceeds the margin. No formula for a standard error shows that a gap depends on one image.

An image contributes to the gap in two roles: as the picture of its own captions, and as the wrong picture of other
captions. It is left out in both roles. This is the delete-one jackknife over images, of which only the largest term is
used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyechart.results import Reason, Standing
from eyechart.verdict.standing import stand_gap
from eyechart.verdict.statistics import Estimate, Pairs
from eyechart.verdict.verdict import Gate

_MOST = 0.5
"""If more than this share of the gap is due to one image, the gap is reported as depending on this image."""


@dataclass(frozen=True)
class Influence:
    """The image whose removal changes the gap most."""

    image: int
    """Index of the image."""
    without: Estimate
    """The gap over the (caption, picture) pairs in which the image does not occur."""
    before: Standing
    after: Standing
    """Standing of the gate without this image; `before` is the standing with all images."""
    share: float
    """Share of the gap that is due to the image."""

    @property
    def decides(self) -> bool:
        """Whether leaving out the image changes the standing of the gate."""
        return self.before != self.after


def one_image(pairs: Pairs, gate: Gate) -> Influence | None:
    """Return the single image that accounts for most of the gap, or without which the standing would change.

    The result is None if there is no such image. A gap within the margin is close to noise, so a share of it is
    meaningless. For such a gap, only a change of the standing counts.

    Args:
        pairs: differences between the losses under `shuffled` and `correct`, by caption and picture.
        gate: the gate `shuffled`, with the estimate over all pairs. A gate is a condition that decides the verdict.
    """
    gaps_G = pairs.gaps_without_each()
    if len(gaps_G) < 3 or not np.isfinite(gaps_G).all():
        return None
    gap, margin = gate.estimate.gap, gate.stand.margin
    image = int(np.abs(gap - gaps_G).argmax())
    if gaps_G[image] == gap:
        return None
    without = pairs.without(image).estimate()
    share = (gap - without.gap) / gap if gap > margin else 0.0
    after = stand_gap(without, margin, gate.stand.upper_level).standing
    found = Influence(image, without, gate.stand.standing, after, share)
    return found if found.decides or share > _MOST else None


def warning(found: Influence, gate: Gate, row: int, image: str) -> Reason:
    """Return a warning that names the image by the row and the path of its first caption."""
    return Reason(
        code="one-image-carries" if found.share > _MOST else "one-image-decides",
        effect="warns",
        about=gate.name,
        figures={
            "row": row,
            "image": image,
            "gap": gate.estimate.gap,
            "gap_without": found.without.gap,
            "standing": found.before,
            "standing_without": found.after,
        },
    )
