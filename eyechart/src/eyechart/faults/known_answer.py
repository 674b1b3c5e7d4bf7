"""Compares the labels of a row with the answer that it should teach, where this answer is known.

`batch_labels` judges batches whose answers have to be found in their ids; there, a trainer's documented defaults are no
errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from eyechart.faults.label_text import SHIFTS, agreement
from eyechart.faults.table import agree
from eyechart.outside.shown import short
from eyechart.seam import IGNORE_INDEX

# size: letters in a message
SHORT = 60
"""Maximum number of characters of a decoded text in a message."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_ALIKE = 0.8
"""Similarity of two texts, 0 to 1 (difflib), above which one is taken for an edited version of the other."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_SHIFTED = 0.9
"""Share of labels that have to equal the id at another position for the labels to count as shifted."""


@dataclass(frozen=True)
class Answered:
    """A row of a batch, and the answer that it should teach."""

    row: int
    ids: list[int]
    """Token ids without padding."""
    labels: list[int]
    """Labels including those of the padding, where a fault may have put labels."""
    block: tuple[int, int]
    """Start and end (exclusive) of the image block according to the batch."""
    answer: list[int]
    """Token ids of the answer and EOS, tokenised separately."""
    at_limit: bool
    """Whether the sequence has reached the limit on tokens and may be truncated."""

    @property
    def labelled(self) -> list[int]:
        """The positions that have a label."""
        return [t for t, label in enumerate(self.labels) if label != IGNORE_INDEX]

    @property
    def targets(self) -> list[int]:
        """The labels at the positions that have one."""
        return [self.labels[t] for t in self.labelled]

    def answer_start(self) -> int | None:
        """Return the position in `ids` where the answer begins; None if it is not found.

        The answer may be truncated or lack its EOS.
        """
        # Below the limit nothing is truncated, so a last token equal to the answer's first one is not the answer.
        fewest = 1 if self.at_limit else max(1, len(self.answer) - 1)
        for kept in range(min(len(self.answer), len(self.ids)), fewest - 1, -1):
            if self.ids[len(self.ids) - kept :] == self.answer[:kept]:
                return len(self.ids) - kept
        # If there are no labels, the answer was cut off completely and all ids are prompt.
        return len(self.ids) if not self.labelled else None


Judged = tuple[str, str]
"""The code of a fault, and an example that shows it."""
Decode = Callable[[Sequence[int]], str]
"""Returns the text of ids."""


def judge_answer(row: Answered, answers: Mapping[tuple[int, ...], int], decode: Decode, eos: int) -> Judged | None:
    """Return the code of the fault in one row's labels and an example that shows it; None if there is no fault.

    Args:
        row: the row.
        answers: the row of every answer, by its ids without EOS.
        decode: returns the text of ids.
        eos: id of the token that ends an answer.
    """

    def text(ids: Sequence[int]) -> str:
        return short(decode(ids), SHORT)

    if not row.targets:
        return _without_labels(row)
    if shift := label_shift(row):
        side = "right" if shift > 0 else "left"
        return "labels-shifted", f"the label at each position is the token {abs(shift)} to the {side} of it"
    # Check positions first: in a truncated sample, targets alone do not distinguish a masked start from a cut end.
    if found := _misplaced(row, text):
        return found
    if row.targets != row.answer:
        return _other_text(row, answers, text, eos) or _edited(row, decode, eos)
    at = [t for t in row.labelled if t < len(row.ids)]
    if all(row.ids[t] == row.labels[t] for t in at):
        return None
    read = text([row.ids[t] for t in at])
    return "loss-altered", f"the model reads {read}, and its labels say {text(row.answer)}"


def _without_labels(row: Answered) -> Judged:
    start = row.answer_start()
    if start is not None and start < len(row.ids):
        there = f"the caption of {len(row.answer)} tokens is in the text and all labels are {IGNORE_INDEX}"
        return "no-labels", there
    why = f"max_seq_len cuts it off after {len(row.ids)} tokens" if row.at_limit else "other code removed it"
    return "no-labels", f"the caption is not in the text ({why})"


def _misplaced(row: Answered, text: Decode) -> Judged | None:
    """Judge labels on the image block, before the answer and in the padding."""
    start = row.answer_start()
    inside = [t for t in row.labelled if row.block[0] <= t < row.block[1]]
    if inside:
        return "image-labelled", f"{len(inside)} labels on image positions {row.block[0]} to {row.block[1] - 1}"
    early = [t for t in row.labelled if start is not None and t < start]
    extra = early or [t for t in row.labelled if t >= len(row.ids)]
    if not extra:
        return None
    where = "before the caption" if early else "in the padding"
    return "prompt-labelled", f"{len(extra)} labels {where}: {text([row.labels[t] for t in extra])}"


def _other_text(row: Answered, answers: Mapping[tuple[int, ...], int], text: Decode, eos: int) -> Judged | None:
    """Judge labels that are part of the row's own answer, or the answer of another row."""
    answer, targets, start = row.answer, row.targets, row.answer_start()
    said = _said(row, text)
    if targets[:-1] == answer[:-1] or targets == answer[:-1]:
        # If the length limit is just before EOS, truncation has removed EOS; otherwise it was never added.
        cut = targets == answer[:-1] and row.at_limit and row.ids == row.ids[: start or 0] + answer[:-1]
        return ("answer-truncated" if cut else "eos-unlabelled"), said
    ended = targets[:-1] if targets[-1] == eos else targets
    if ended == answer[: len(ended)]:
        hidden = start is not None and row.ids[start:] == answer
        return ("answer-partly-labelled" if hidden else "answer-truncated"), said
    other = answers.get(tuple(ended))
    if other is not None:
        return (
            "pairs-mismatched",
            f"labelled with the caption of row {other}, {text(targets)}, its own is {text(answer)}",
        )
    return ("answer-partly-labelled", said) if _is_subsequence(targets, answer) else None


def _edited(row: Answered, decode: Decode, eos: int) -> Judged:
    """Judge labels of a text that no row has as its answer."""
    got = decode(row.targets[:-1] if row.targets[-1] == eos else row.targets)
    own = decode(row.answer[:-1])
    if SequenceMatcher(None, got.casefold(), own.casefold(), autojunk=False).ratio() > _ALIKE:
        shown = f"the labels are {short(got, SHORT)}, but the caption is {short(own, SHORT)}: it was changed"
        return "answer-partly-labelled", shown
    code = "pairs-mismatched" if row.answer_start() is None else "answer-partly-labelled"
    return code, _said(row, lambda ids: short(decode(ids), SHORT))


def _said(row: Answered, text: Decode) -> str:
    """Describe labels and answer, and how much of the answer's start has no label."""
    answer, targets = row.answer, row.targets
    said = f"the labels are {text(targets)}, the caption is {text(answer)}"
    lost = len(answer) - len(targets)
    if answer[-len(targets) :] != targets:
        return said
    first = f"the caption's first {lost} {agree(lost, 'token', 'tokens')} {text(answer[:lost])}"
    return f"{first} {agree(lost, 'has', 'have')} no label; {said}"


def label_shift(row: Answered) -> int:
    """Return by how many positions labels are shifted from their tokens; 0 if no shift was found."""
    shares = {shift: agreement([(row.ids, row.labels)], shift) for shift in SHIFTS}
    best = max(SHIFTS, key=lambda shift: shares[shift])
    return best if shares[best] > _SHIFTED else 0


def _is_subsequence(part: Sequence[int], whole: Sequence[int]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)
