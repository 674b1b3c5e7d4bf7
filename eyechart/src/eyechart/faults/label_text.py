"""Checks of a batch's ids and labels; they need no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from eyechart.seam import IGNORE_INDEX, Batch

if TYPE_CHECKING:
    from torch import Tensor

# size: shorter captions are not checked
MIN_LABELS = 4
"""Minimum number of label tokens that a caption needs to be checked."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_NEARLY_ALL = 0.9
"""If at least this share of a caption's tokens is in its prompt, the caption can be predicted without the picture."""
# size: shifts that are tried
SHIFTS = (0, 1, -1, 2, -2)


def label_places(labels_T: Tensor, losses: int | None = None) -> list[int]:
    """Return the positions of a row's labels; with a number of losses, of those that the losses belong to.

    These are the last ones: a model may leave out a label at position 0, which no token precedes.
    """
    places: list[int] = (labels_T != IGNORE_INDEX).nonzero()[:, 0].tolist()
    return places if losses is None else places[len(places) - min(losses, len(places)) :]


def alignment_of(text: Batch) -> int | None:
    """Return the shift at which the labels equal the ids of the text, trying 0 first; None if no shift fits."""
    ids_and_labels = zip(text.ids_BT.tolist(), text.labels_BT.tolist(), text.lengths_B.tolist(), strict=True)
    rows = [(ids[:length], labels) for ids, labels, length in ids_and_labels]
    shares = {shift: agreement(rows, shift) for shift in SHIFTS}
    best = max(SHIFTS, key=lambda shift: shares[shift])
    return best if shares[best] > 0.8 else None


def agreement(rows: Iterable[tuple[Sequence[int], Sequence[int]]], shift: int) -> float:
    """Return the share of labels that equal the id `shift` positions later; 0 if no label has an id there.

    Args:
        rows: the ids of each row without padding, and its labels.
        shift: number of positions; negative for ids before their label.
    """
    pairs = [
        (ids[place + shift], label)
        for ids, labels in rows
        for place, label in enumerate(labels)
        if label != IGNORE_INDEX and 0 <= place + shift < len(ids)
    ]
    return sum(id_ == label for id_, label in pairs) / len(pairs) if pairs else 0.0


def answers_in_prompt(text: Batch) -> float:
    """Return the share of the samples whose prompt contains the caption, or nearly all of its tokens."""
    pairs = []
    for ids_T, labels_T in zip(text.ids_BT.tolist(), text.labels_BT.tolist(), strict=True):
        first = next(i for i, label in enumerate(labels_T) if label != IGNORE_INDEX)
        answer = [label for label in labels_T if label != IGNORE_INDEX][:-1]  # without EOS
        pairs.append((ids_T[:first], answer))
    prompts = [set(prompt) for prompt, _ in pairs]
    found = [
        len(answer) >= MIN_LABELS and (_stands_in(answer, prompt) or _listed_in(answer, row, prompts))
        for row, (prompt, answer) in enumerate(pairs)
    ]
    return sum(found) / len(found)


def _stands_in(answer: list[int], prompt: list[int]) -> bool:
    return any(prompt[i : i + len(answer)] == answer for i in range(len(prompt)))


def _listed_in(answer: list[int], row: int, prompts: list[set[int]]) -> bool:
    """Return whether nearly all of a caption's tokens are in its own prompt, in any order, but not in other prompts.

    The other prompts are compared because a request that is the same for all rows may share words with every caption.
    """
    shares = [len(set(answer) & prompt) / len(set(answer)) for prompt in prompts]
    others = [share for other, share in enumerate(shares) if other != row]
    return bool(others) and shares[row] >= _NEARLY_ALL and sum(others) / len(others) <= shares[row] / 2
