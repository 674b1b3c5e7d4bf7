"""Samples as they leave the collator, each with its row of the file and the separately tokenised caption."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from eyechart.faults.known_answer import Answered
from eyechart.rows import Row as FileRow
from eyechart.seam import Batch, Sample
from qwen3_vlm.data.prompt import END, PATCH, START


@dataclass(frozen=True)
class Row(Answered):
    """One sample as it leaves the collator, with its row of the file."""

    sample: Sample
    raw: FileRow


class Tokens:
    """The tokenizer, used without the pipeline's code, and the ids that it gives to the image block."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Look up the ids of the image block. A list in `ids` has several entries if the string is not one token."""
        self.tokenizer = tokenizer
        self.eos = int(tokenizer.eos_token_id)
        self.ids = {text: self.encode(text) for text in (START, PATCH, END)}

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Return the ids of a text. Without `special`, strings of special tokens are ordinary text, as in a caption."""
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not special)
        return [int(i) for i in found["input_ids"]]

    def answer(self, caption: str) -> list[int]:
        """Return the ids of a caption, followed by EOS."""
        return [*self.encode(caption, special=False), self.eos]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, including special tokens."""
        known = [i for i in ids if 0 <= i < len(self.tokenizer)]
        return str(self.tokenizer.decode(known, skip_special_tokens=False))


def rows_of(batch: Batch, raw: dict[int, FileRow], tokens: Tokens, limit: int) -> list[Row]:
    """Return the samples of a batch with their rows of the file.

    A sample is left out if the independent reader cannot read its row.
    """
    rows = []
    for b, sample in enumerate(batch.samples):
        if sample.row in raw:
            length = int(batch.lengths_B[b])
            marked = batch.block_BT[b].nonzero().flatten().tolist()
            block = (marked[0], marked[-1] + 1) if marked else (0, 0)
            ids, labels = batch.ids_BT[b, :length].tolist(), batch.labels_BT[b].tolist()
            reference = raw[sample.row]
            answer = tokens.answer(reference.caption)
            rows.append(Row(sample.row, ids, labels, block, answer, len(ids) >= limit, sample, reference))
    return rows


def not_in_front(batch: Batch) -> list[int]:
    """Return the rows whose ids are complete in the batch but not at its left edge, which means padding on the left."""
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
    """Rows grouped by their fault, with an example of each fault for the message."""

    rows: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    shown: dict[str, str] = field(default_factory=dict)

    def add(self, code: str, row: Row, example: str) -> None:
        """Add a row to the fault `code`. Only the example of the first row is kept."""
        self.rows[code].append(row.row)
        self.shown.setdefault(code, f"row {row.row}: {example}")
