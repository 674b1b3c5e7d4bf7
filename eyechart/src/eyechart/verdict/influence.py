"""A test of whether one image causes the gap of `shuffled`, made by leaving out each image in turn.

No formula for a standard error covers this case.

An image contributes to the gap in two roles, as the picture of its own captions and as the wrong picture of others. It
is left out in both. This is the delete-one jackknife over images, of which only the largest term is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eyechart.results import Reason, Standing
from eyechart.verdict.standing import stand_gap
from eyechart.verdict.statistics import Estimate, Pairs
from eyechart.verdict.verdict import Gate

_MOST = 0.5
"""If at least this share of the gap is due to one image, the gap depends on this image."""


@dataclass(frozen=True)
class Influence:
    """The image without which the gap changes most."""

    image: int
    """Number of the image."""
    without: Estimate
    """The gap over the pairs in which the image does not occur."""
    before: Standing
    after: Standing
    """Standing of the gate without this image; `before` is the standing with all images."""
    share: float
    """Share of the gap that is due to the image."""

    @property
    def decides(self) -> bool:
        """Whether the gate would have another standing if the image were left out."""
        return self.before != self.after


def one_image(pairs: Pairs, gate: Gate) -> Influence | None:
    """Return the image on which the gap or the standing of its gate depends; None if there is no such image.

    A gap within the margin is close to noise, and a share of it is meaningless. In this case, only a change of the
    gate's standing counts.

    Args:
        pairs: differences between `shuffled` and `correct`.
        gate: the gate of `shuffled`, with the estimate over all pairs.
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
    """Return the warning, which names the image by the row and path of its first caption."""
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
