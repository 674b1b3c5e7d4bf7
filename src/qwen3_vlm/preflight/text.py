"""Samples as they leave the collator, each with its row of the file and its caption tokenised by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from eyechart.seam import IGNORE_INDEX, Batch, Sample
from qwen3_vlm.data.prompt import END, PATCH, START
from qwen3_vlm.preflight.rows import RawRow

_SHORT = 60


@dataclass(frozen=True)
class Row:
    """One sample as it leaves the collator, with the content of the file."""

    sample: Sample
    raw: RawRow
    ids: list[int]
    """Without padding."""
    labels: list[int]
    """With padding: there may wrongly be labels there."""
    block: tuple[int, int]
    """Position of the image block according to the batch."""
    answer: list[int]
    """The raw caption's tokens and EOS, tokenised by themselves."""
    at_limit: bool
    """Truncated to max_seq_len."""

    @property
    def labelled(self) -> list[int]:
        """Positions with a label."""
        return [t for t, label in enumerate(self.labels) if label != IGNORE_INDEX]

    @property
    def targets(self) -> list[int]:
        """The labels there."""
        return [self.labels[t] for t in self.labelled]

    def answer_start(self) -> int | None:
        """Where the answer begins in `ids`, possibly truncated or without its EOS; None if it is not found."""
        # Below the limit nothing is cut: a last token equal to the caption's first token is not the caption.
        fewest = 1 if self.at_limit else max(1, len(self.answer) - 1)
        for kept in range(min(len(self.answer), len(self.ids)), fewest - 1, -1):
            if self.ids[len(self.ids) - kept :] == self.answer[:kept]:
                return len(self.ids) - kept
        # Cut off completely: then everything is prompt.
        return len(self.ids) if not self.labelled else None


class Tokens:
    """The tokenizer used by itself, and the ids of the image block as it gives them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Look the block's ids up; `ids` has more than one if a string is not one token."""
        self.tokenizer = tokenizer
        self.eos = int(tokenizer.eos_token_id)
        self.ids = {text: self.encode(text) for text in (START, PATCH, END)}

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text; without `special`, special tokens' strings are ordinary text, as in a caption."""
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not special)
        return [int(i) for i in found["input_ids"]]

    def answer(self, caption: str) -> list[int]:
        """A caption's ids and EOS."""
        return [*self.encode(caption, special=False), self.eos]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        known = [i for i in ids if 0 <= i < len(self.tokenizer)]
        return str(self.tokenizer.decode(known, skip_special_tokens=False))


def rows_of(batch: Batch, raw: dict[int, RawRow], tokens: Tokens, limit: int) -> list[Row]:
    """The batch's samples with their references; samples of rows that cannot be read plainly are left out."""
    rows = []
    for b, sample in enumerate(batch.samples):
        if sample.row in raw:
            length = int(batch.lengths_B[b])
            marked = batch.block_BT[b].nonzero().flatten().tolist()
            block = (marked[0], marked[-1] + 1) if marked else (0, 0)
            ids, labels = batch.ids_BT[b, :length].tolist(), batch.labels_BT[b].tolist()
            reference = raw[sample.row]
            answer = tokens.answer(reference.caption)
            rows.append(Row(sample, reference, ids, labels, block, answer, len(ids) >= limit))
    return rows


def not_in_front(batch: Batch) -> list[int]:
    """Rows of the data file whose ids are complete in the batch, but not at its left edge: padded on the left."""
    moved = []
    for b, sample in enumerate(batch.samples):
        ids, whole = [int(i) for i in sample.ids_T], batch.ids_BT[b].tolist()
        if whole[: len(ids)] != ids and any(
            whole[o : o + len(ids)] == ids for o in range(1, len(whole) - len(ids) + 1)
        ):
            moved.append(sample.row)
    return moved


@dataclass
class Cases:
    """Rows by what is wrong with them, with an example for the message."""

    rows: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    shown: dict[str, str] = field(default_factory=dict)

    def add(self, code: str, row: Row, example: str) -> None:
        """Count a row under `code`; the first one's example is kept."""
        self.rows[code].append(row.sample.row)
        self.shown.setdefault(code, f"row {row.sample.row}: {example}")


def short(text: str) -> str:
    """A text quoted, its end cut off where it is long."""
    shown = repr(text)
    return shown if len(shown) <= _SHORT else f"{shown[: _SHORT - 3]}..."
