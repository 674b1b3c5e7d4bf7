"""Is a model's loss the cross-entropy of its logits, and of the right ones? Only tensors are needed.

The loss of the token at position t is compared with the cross-entropy of this token and the logits at t - distance. A
distance of 1 is correct. A training step gives only the mean over its labels (`distance_of`); a model used through the
scoring interface gives the loss of every token (`own_losses`).

Dimension suffixes as in `seam`; in addition, N: the label tokens of one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.faults.label_text import label_places
from eyechart.seam import Batch

# size: distances that are tried
_DISTANCES = (1, 0, 2, -1, 3)
# size: positions by which labels may be moved in the data
_MOVED = range(-2, 3)
# measured: benchmarks/threads.py on healthy set-ups of Trainer, TRL and a loop: 0 of 25
_EQUAL = 0.01
"""Largest difference of two mean losses that are the same, as a share."""
# size: tokens needed for a comparison
_FEWEST = 8


@dataclass(frozen=True)
class OwnLosses:
    """How the losses of tokens are related to independent cross-entropies."""

    agreement: Mapping[int, float]
    """By distance, the share of the losses that equal the cross-entropy at this distance."""
    likeness: float
    """Correlation of the losses with the cross-entropies at the right distance; 0 if it cannot be measured."""


def cross_entropies(logits_TK: Tensor, ids_T: Tensor, places: Sequence[int], distance: int) -> Tensor:
    """Return the cross-entropies [N] of the tokens at `places` and the logits `distance` positions before them.

    They are NaN where the text has no such token or no such logits.
    """
    found_N = torch.full((len(places),), torch.nan)
    inside = [
        (n, place)
        for n, place in enumerate(places)
        if 0 <= place < len(ids_T) and 0 <= place - distance < len(logits_TK)
    ]
    if inside:
        rows, tokens = (list(each) for each in zip(*inside, strict=True))
        logits_NK = logits_TK[[token - distance for token in tokens]].float()
        found_N[rows] = F.cross_entropy(logits_NK, ids_T[tokens].to(logits_NK.device), reduction="none").cpu()
    return found_N


def distance_of(own: float, by_distance: Mapping[int, float]) -> int | None:
    """Return the distance whose mean cross-entropy is closest to the model's own loss; None if none is equal to it.

    Before training, the losses at different distances are often equal to within a percent, so the first one that is
    equal is not always the right one.
    """
    distance = min(by_distance, key=lambda one: abs(by_distance[one] - own))
    return distance if abs(by_distance[distance] - own) <= _EQUAL * max(abs(own), 0.01) else None


def own_losses(losses: Sequence[Tensor], logits_BTK: Tensor, text: Batch) -> OwnLosses:
    """Compare the losses of label tokens with cross-entropies.

    The tokens are those of the text, and labels only say where they are: a label may hold the token of another place.

    Args:
        losses: the model's losses [N] of the labels of each row.
        logits_BTK: the model's logits; those of the last positions may be missing.
        text: the ids and labels that the losses belong to.
    """
    equal, got, wanted, total = dict.fromkeys(_DISTANCES, 0), list[float](), list[float](), 0
    for row, losses_N in enumerate(losses):
        ids_T = text.ids_BT[row, : int(text.lengths_B[row])]
        places = [place for place in label_places(text.labels_BT[row], len(losses_N)) if place < len(ids_T)]
        own_N = losses_N[: len(places)]  # without those of labels in the padding, which is another fault
        for distance in _DISTANCES:
            tried = (
                cross_entropies(logits_BTK[row], ids_T, [place + moved for place in places], distance)
                for moved in _MOVED
            )
            equal[distance] += max(_equal(own_N, tried_N) for tried_N in tried)
        right_N = cross_entropies(logits_BTK[row], ids_T, places, 1)
        got += own_N[~right_N.isnan()].tolist()
        wanted += right_N[~right_N.isnan()].tolist()
        total += len(places)
    agreement = {distance: count / total if total else 0.0 for distance, count in equal.items()}
    measurable = len(got) >= _FEWEST and np.ptp(got) > 0 and np.ptp(wanted) > 0
    return OwnLosses(agreement, float(np.corrcoef(got, wanted)[0, 1]) if measurable else 0.0)


def _equal(own_N: Tensor, tried_N: Tensor) -> int:
    # A bfloat16 model rounds logits to 8 bits, so two computations with the same weights differ in the second digit.
    return int(((own_N - tried_N).abs() <= 2e-3 + 0.02 * tried_N.abs()).sum())
