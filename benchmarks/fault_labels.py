"""Faults of the code that decides which tokens of a sequence have a label."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eyechart.data.encoded import Encoded
from eyechart.seam import IGNORE_INDEX, IntArray
from fault_edits import caption, each, in_turn, with_text
from fault_site import Case, Change, human_turns, swap, take_base


def _labels(change: Callable[[Encoded, IntArray], IntArray]) -> Change:
    """Change the labels of every row after the package's own masking."""
    return swap("eyechart.data.encoded.Encoded.labels_T", lambda raw: property(lambda row: change(row, raw.fget(row))))


def _masked(where: Callable[[Encoded], slice | IntArray]) -> Callable[[Encoded, IntArray], IntArray]:
    def change(row: Encoded, labels_T: IntArray) -> IntArray:
        labels_T[where(row)] = IGNORE_INDEX
        return labels_T

    return change


def _unmasked(where: Callable[[Encoded], slice]) -> Callable[[Encoded, IntArray], IntArray]:
    def change(row: Encoded, labels_T: IntArray) -> IntArray:
        labels_T[where(row)] = row.ids_T[where(row)]
        return labels_T

    return change


def _moved(by: int) -> Callable[[Encoded, IntArray], IntArray]:
    def change(row: Encoded, labels_T: IntArray) -> IntArray:
        moved_T = np.roll(labels_T, by)
        moved_T[: max(by, 0)] = IGNORE_INDEX
        moved_T[len(moved_T) + min(by, 0) :] = IGNORE_INDEX
        return moved_T

    return change


def _marker_not_found(row: Encoded, labels_T: IntArray) -> IntArray:
    """Mask one row in five, like a collator that searches for the answer's first tokens and does not find them."""
    if int(row.answer_N.sum()) % 5 == 0:
        labels_T[:] = IGNORE_INDEX
    return labels_T


def _whole_prompt_but_image(row: Encoded, labels_T: IntArray) -> IntArray:
    start, end = row.block
    labels_T[1:start] = row.ids_T[1:start]
    labels_T[end:] = row.ids_T[end:]
    return labels_T


def _inverted(row: Encoded, labels_T: IntArray) -> IntArray:
    prompt = len(row.prompt.ids_T)
    labels_T[1:prompt] = row.ids_T[1:prompt]
    labels_T[prompt:] = IGNORE_INDEX
    return labels_T


def _up_to_the_last_newline(row: Encoded) -> slice:
    """Return the positions up to the last newline, as if the newline after the request were searched for."""
    newline = row.prompt.ids_T[-1]
    return slice(0, int(np.flatnonzero(row.ids_T == newline)[-1]) + 1)


@functools.cache
def _comma() -> int:
    """Return the id of a comma in the tokenizer that comes with the repository."""
    tree = json.loads(Path("assets/tiny/llm/tokenizer.json").read_text(encoding="utf-8"))
    return int(tree["model"]["vocab"][","])


def _behind_the_comma(row: Encoded) -> slice:
    """Return the positions from the first separator `, ` of the answer to the end; none without a separator."""
    commas = np.flatnonzero(row.answer_N == _comma())
    return slice(len(row.prompt.ids_T) + int(commas[0]) if len(commas) else len(row.ids_T), None)


def _as_the_first_row() -> Callable[[Encoded, IntArray], IntArray]:
    """Return a change that masks as many tokens of every row as the prompt of the first row has."""
    first: list[int] = []

    def change(row: Encoded, labels_T: IntArray) -> IntArray:
        if not first:
            first.append(len(row.prompt.ids_T))
        labels_T[: first[0]] = IGNORE_INDEX
        labels_T[first[0] :] = row.ids_T[first[0] :]
        return labels_T

    return change


LABELS = (
    Case(
        "all-labels-masked",
        "no-labels",
        "every label is masked: the loss is 0",
        change=_labels(_masked(lambda row: slice(None))),
    ),
    Case(
        "marker-not-found",
        "no-labels",
        "one row in five is masked entirely",
        change=_labels(_marker_not_found),
    ),
    Case(
        "eos-masked-as-pad",
        "eos-unlabelled",
        "labels equal to the pad id are masked, and pad is EOS",
        change=_labels(_masked(lambda row: np.flatnonzero(row.ids_T == row.answer_N[-1]))),
    ),
    Case(
        "prompt-not-masked",
        "prompt-labelled",
        "the whole text prompt carries labels, the image does not",
        set_up=human_turns,
        change=_labels(_whole_prompt_but_image),
    ),
    Case(
        "prompt-not-masked-when-evaluated",
        "prompt-labelled",
        "the whole text prompt carries labels, for a healthy connector",
        "evaluation",
        take_base,
        _labels(_whole_prompt_but_image),
    ),
    Case(
        "text-behind-image-labelled",
        "prompt-labelled",
        "the mask ends at the image block",
        world="digits",
        change=_labels(_unmasked(lambda row: slice(row.block[1], None))),
    ),
    Case(
        "mask-inverted",
        "prompt-labelled",
        "the label mask is inverted: prompt and image carry labels, the caption carries none",
        set_up=human_turns,
        change=_labels(_inverted),
        also=("image-labelled",),
    ),
    Case(
        "one-mask-for-all-rows",
        "prompt-labelled",
        "the prompt length of the first row masks every row, while human turns differ in length",
        set_up=human_turns,
        change=_labels(_as_the_first_row()),
        also=("image-labelled", "answer-partly-labelled"),
    ),
    Case(
        "image-not-masked",
        "image-labelled",
        "the patch positions carry labels",
        change=_labels(_unmasked(lambda row: slice(row.block[0] + 1, row.block[1] - 1))),
    ),
    Case(
        "labels-are-the-ids",
        "image-labelled",
        "labels are a copy of the ids, prompt and image included",
        set_up=human_turns,
        change=_labels(_unmasked(lambda row: slice(1, None))),
        also=("prompt-labelled",),
    ),
    Case(
        "first-three-masked",
        "answer-partly-labelled",
        "the mask reaches three tokens into the answer",
        change=_labels(_masked(lambda row: slice(len(row.prompt.ids_T), len(row.prompt.ids_T) + 3))),
    ),
    Case(
        "first-token-masked",
        "answer-partly-labelled",
        "the mask is one token too long",
        world="digits",
        change=_labels(_masked(lambda row: slice(len(row.prompt.ids_T), len(row.prompt.ids_T) + 1))),
    ),
    Case(
        "masked-to-the-last-newline",
        "answer-partly-labelled",
        "the mask ends at the last newline; one caption in three has two lines",
        set_up=in_turn(
            human_turns,
            each(lambda i, row: row if i % 3 else with_text(row, answer=f"{caption(row)}\nA plain picture")),
        ),
        change=_labels(_masked(_up_to_the_last_newline)),
    ),
    Case(
        "behind-the-comma-masked",
        "answer-partly-labelled",
        "the preprocess splits at the separator `, `: of a caption with a comma the first part alone is labelled",
        change=_labels(_masked(_behind_the_comma)),
    ),
    Case(
        "labels-moved-right",
        "labels-unshifted",
        "labels are shifted right in the data: with the shift in the loss, each token is predicted from itself",
        change=_labels(_moved(1)),
    ),
    Case(
        "shifted-twice",
        "labels-shifted",
        "labels are shifted left in the data, and again in the loss",
        change=_labels(_moved(-1)),
        set_up=human_turns,
    ),
)
