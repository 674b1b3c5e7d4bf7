"""Finds the answer tokens of each row of a batch dict, regardless of which tokens the trainer has labelled.

Trainers differ in which tokens they label, that is, count in the loss: by default, TRL also labels the prompt and all
image placeholders. A gap (the rise in loss when the picture is replaced) over all these tokens is not comparable with
a gap over the answer tokens. Answer tokens are found in one of the following ways, which are tried in this order:

1. by the processor's chat template: in every turn of the assistant, the tokens after the ids that precede an answer, up
   to and including the token that ends it;
2. by the token types, if the processor marks the answer with them (PaliGemma);
3. by the labels: all labelled tokens except image positions and padding.

    answers = find_answers(batch, geometry, processor)
    answers.answer_BT      True at the positions of answer tokens (unshifted, as labels are)
    answers.way            how the answer tokens were found

The suffixes of array names give their dimensions: B rows, T token positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from eyechart.exits import InputError
from eyechart.processors.arrays import AnyArray, matrix_of
from eyechart.processors.geometry import Geometry
from eyechart.processors.turns import Ids, Turns, learn_turns

IGNORED = -100
"""The value in `labels` at a position that does not count in the loss."""


class Way(Enum):
    """The ways in which the answer tokens of a batch can be found."""

    TEMPLATE = "by the chat template"
    """The answer is between the ids that the template writes before an answer and the token that ends it."""
    TOKEN_TYPES = "by the token types"
    """The processor marks the answer by a token type, as PaliGemma's processor marks its suffix."""
    LABELS = "by the labels"
    """All labelled positions except image positions count as answers, even if prompts are labelled too."""
    NONE = "not found"
    """No answer was found: the batch contains neither what a template writes around an answer nor labels."""


@dataclass(frozen=True)
class Span:
    """The positions of one answer in one row."""

    start: int
    """The position of the first token of the answer."""
    stop: int
    """The position after the last token of the answer. If `ended` is True, this last token is the end token."""
    ended: bool | None
    """Whether the answer ends with the end token; None if the template writes no such token or is unknown."""


@dataclass(frozen=True)
class Answers:
    """The answers in a batch, and how they were found."""

    way: Way
    """How the answer tokens were found."""
    answer_BT: AnyArray
    """True at the positions of answer tokens, including the token that ends an answer, bool [B, T]."""
    spans: tuple[tuple[Span, ...], ...]
    """The answers of each row in their order; a row with several turns has several answers."""
    labels_BT: AnyArray | None
    """The labels of the batch, int64 [B, T]; None if the batch has no labels."""
    turns: Turns | None
    """The token ids that the template writes before and after an answer; None if there is no template."""

    @property
    def tokens_B(self) -> AnyArray:
        """The number of answer tokens in each row, int64 [B]."""
        return np.asarray(self.answer_BT.sum(axis=1))


def find_answers(batch: Mapping[str, Any], geometry: Geometry, processor: Any = None) -> Answers:
    """Find the answer tokens of a batch.

    Args:
        batch: the batch as the collator returns it.
        geometry: the rows and image positions of the batch, as `read_geometry` returns them.
        processor: the model's processor or tokenizer; without it, only token types and labels can be used.

    Raises:
        InputError: the shapes of labels and ids differ.
    """
    labels_BT = labels_of(batch, geometry)
    turns = learn_turns(processor) if processor is not None else None
    if turns is not None:
        ends = _ends(turns, processor)
        spans = tuple(
            tuple(_spans(row_T.tolist(), attended_T, turns, ends))
            for row_T, attended_T in zip(geometry.ids_BT, geometry.attended_BT, strict=True)
        )
        if any(spans):
            return Answers(Way.TEMPLATE, _marked(spans, geometry), spans, labels_BT, turns)
    return _without_template(batch, geometry, labels_BT, turns)


def labels_of(batch: Mapping[str, Any], geometry: Geometry) -> AnyArray | None:
    """Return the labels of a batch, int64 [B, T]; None if the batch has no labels.

    Raises:
        InputError: the shapes of labels and ids differ.
    """
    labels = matrix_of(batch, "labels")
    if labels is None:
        return None
    if labels.shape != geometry.ids_BT.shape:
        raise InputError(
            f"batch['labels']: expected the shape of input_ids, {list(geometry.ids_BT.shape)}, got "
            f"{list(labels.shape)}",
            "pad and truncate ids and labels together",
        )
    return labels.astype(np.int64)


def _ends(turns: Turns, processor: Any) -> set[int]:
    """Return the ids of the tokens that end an answer: the one that the template writes, and EOS."""
    eos = getattr(getattr(processor, "tokenizer", processor), "eos_token_id", None)
    return {token for token in (turns.end_id, eos) if isinstance(token, int)}


def _spans(ids: list[int], attended_T: AnyArray, turns: Turns, ends: set[int]) -> Iterator[Span]:
    """Yield the answers of one row; each ends at an end token, before the next turn, or at the end of the row."""
    last = int(np.flatnonzero(attended_T)[-1]) + 1 if attended_T.any() else 0
    place = 0
    while place < last:
        opening = next((found for found in turns.openings if _at(ids, place, found)), None)
        if opening is None:
            place += 1
            continue
        start = place + len(opening)
        stop, ended = _end_of(ids, start, last, turns, ends)
        yield Span(start, stop, ended)
        place = max(stop, start)


def _end_of(ids: list[int], start: int, last: int, turns: Turns, ends: set[int]) -> tuple[int, bool | None]:
    for place in range(start, last):
        if ids[place] in ends:
            return place + 1, True
        if turns.end_id is None and turns.next_turn and _at(ids, place, turns.next_turn):
            return place, None
    return last, None if turns.end_id is None else False


def _at(ids: list[int], place: int, wanted: Ids) -> bool:
    return ids[place] == wanted[0] and tuple(ids[place : place + len(wanted)]) == wanted


def _marked(spans: tuple[tuple[Span, ...], ...], geometry: Geometry) -> AnyArray:
    answer_BT = np.zeros(geometry.ids_BT.shape, dtype=bool)
    for row, found in enumerate(spans):
        for span in found:
            answer_BT[row, span.start : span.stop] = True
    return np.asarray(answer_BT & geometry.attended_BT & ~geometry.image_BT)


def _without_template(
    batch: Mapping[str, Any], geometry: Geometry, labels_BT: AnyArray | None, turns: Turns | None
) -> Answers:
    text_BT = geometry.attended_BT & ~geometry.image_BT
    types_BT = matrix_of(batch, "token_type_ids")
    if types_BT is not None and types_BT.shape == text_BT.shape:
        marked_BT = types_BT == 1
        # If no image position has type 1, this type marks the answer; in Gemma 3, type 1 marks image positions.
        if (marked_BT & text_BT).any() and not (marked_BT & geometry.image_BT).any():
            answer_BT = marked_BT & text_BT
            return Answers(Way.TOKEN_TYPES, answer_BT, _runs(answer_BT), labels_BT, turns)
    if labels_BT is not None:
        answer_BT = (labels_BT != IGNORED) & text_BT
        return Answers(Way.LABELS, answer_BT, _runs(answer_BT), labels_BT, turns)
    nothing_BT = np.zeros(text_BT.shape, dtype=bool)
    return Answers(Way.NONE, nothing_BT, ((),) * geometry.rows, None, turns)


def _runs(marked_BT: AnyArray) -> tuple[tuple[Span, ...], ...]:
    found = []
    for marked_T in marked_BT:
        edges = np.flatnonzero(np.diff(np.r_[0, marked_T.astype(np.int8), 0]))
        found.append(tuple(Span(int(a), int(b), None) for a, b in zip(edges[::2], edges[1::2], strict=True)))
    return tuple(found)
