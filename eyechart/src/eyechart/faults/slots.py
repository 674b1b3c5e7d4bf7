"""Measures how much information each visual token of an image contains, by swapping it with another image's token.

A slot is the place of one visual token. A donor is a sample with another image and another caption. Let swap(G) be the
loss when the tokens in the set of slots G are those of a donor, and let `all` be the set of all slots:

    whole      = swap(all) - swap(nothing)              the loss added when the whole picture is swapped
    without[G] = swap(G) - swap(nothing)                the loss added when only G is swapped
    alone[G]   = swap(all) - swap(all but G)            the loss removed when only G is right

A group of slots is dead, that is, contains no information, if `without` and `alone` are both almost 0. If only
`without` were used, two slots with the same information would count as dead. If slots were set to zero instead of
swapped, a slot with the same token for every image would not count as dead. All three differences are in nats per label
token. If there are more than 16 slots, neighbouring slots are combined into 16 groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eyechart.faults.changes import select, with_slots, without_images
from eyechart.seam import IGNORE_INDEX, Batch, ScorerOfBatches, VisualTokens

# size: groups of slots that are swapped
_GROUPS = 16


@dataclass(frozen=True)
class SlotUse:
    """How much each group of slots contributes to the loss, by the formulas at the top of this file."""

    samples: int
    groups: tuple[tuple[int, ...], ...]
    whole: float
    without: tuple[float, ...]
    alone: tuple[float, ...]
    rescaled: float | None = None
    """Loss with the visual tokens rescaled to the RMS of the text embeddings, minus the loss without rescaling;
    negative if rescaling helps. None if the RMS ratio is not known."""


@torch.no_grad()
def measure_slots(scorer: ScorerOfBatches, batch: Batch, rms_ratio: float | None = None) -> SlotUse | None:
    """Measure the contribution of each group of slots, by swapping tokens between the samples of one batch.

    Args:
        scorer: the model, adapted to the scoring interface.
        batch: about 32 samples with their images.
        rms_ratio: RMS of the visual tokens divided by the RMS of the text embeddings, if known.

    Returns:
        The contribution of each group; None if fewer than two samples have both label tokens and a donor.
    """
    donors = _donors(batch)
    if len(donors) < 2:
        return None
    visual = scorer.encode(batch).map(lambda layer: layer.detach().cpu())
    own, other = visual.rows(list(donors)), visual.rows(list(donors.values()))
    text = without_images(select(batch, list(donors)))

    def loss(seen: VisualTokens) -> float:
        return float(scorer.nll(text, seen).nll_N.double().mean())

    slots = own.layers[0].shape[1]
    groups = [tuple(part.tolist()) for part in torch.arange(slots).tensor_split(min(slots, _GROUPS))]
    correct, wrong = loss(own), loss(other)
    return SlotUse(
        samples=len(donors),
        groups=tuple(groups),
        whole=wrong - correct,
        without=tuple(loss(with_slots(own, other, group)) - correct for group in groups),
        alone=tuple(wrong - loss(with_slots(other, own, group)) for group in groups),
        rescaled=loss(own.map(lambda layer: layer / rms_ratio)) - correct if rms_ratio else None,
    )


def _donors(batch: Batch) -> dict[int, int]:
    """Return, for each sample with labels, the next sample of the batch that has another image and another caption."""
    count, found = len(batch), {}
    for i in range(count):
        if not bool((batch.labels_BT[i] != IGNORE_INDEX).any()):
            continue
        own = batch.samples[i]
        for j in (*range(i + 1, count), *range(i)):
            if batch.samples[j].image_hash != own.image_hash and batch.samples[j].caption != own.caption:
                found[i] = j
                break
    return found
