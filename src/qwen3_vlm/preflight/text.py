"""What is labelled, and what surrounds it: every sample's ids and labels against the caption tokenised by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qwen3_vlm.batch import IGNORE_INDEX, Batch, Sample
from qwen3_vlm.build import Prepared
from qwen3_vlm.data.llava_pretrain import PLACEHOLDER
from qwen3_vlm.data.prompt import END, PATCH, START
from qwen3_vlm.faults import agree, finding
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.rows import SHOWN, RawRow, by_share
from qwen3_vlm.results import Finding

_SHIFTS = (1, -1, 2, -2)
_SHORT = 60


@dataclass(frozen=True)
class Row:
    """One sample as it leaves the collator, beside what the file says."""

    sample: Sample
    raw: RawRow
    ids: list[int]
    """Without padding."""
    labels: list[int]
    """With padding: labels may stand there too, and should not."""
    block: tuple[int, int]
    """Where the batch says the image block is."""
    answer: list[int]
    """The raw caption's tokens and EOS, tokenised by themselves."""
    at_limit: bool
    """As long as max_seq_len allows."""

    @property
    def labelled(self) -> list[int]:
        """Positions that carry a label."""
        return [t for t, label in enumerate(self.labels) if label != IGNORE_INDEX]

    @property
    def targets(self) -> list[int]:
        """The labels there."""
        return [self.labels[t] for t in self.labelled]

    def answer_start(self) -> int | None:
        """Where the answer begins in `ids`; cut at the end or without its EOS perhaps, None if it is not there."""
        # Short of the limit nothing is cut: a last token that happens to begin the caption is not the caption.
        fewest = 1 if self.at_limit else max(1, len(self.answer) - 1)
        for kept in range(min(len(self.answer), len(self.ids)), fewest - 1, -1):
            if self.ids[len(self.ids) - kept :] == self.answer[:kept]:
                return len(self.ids) - kept
        # Cut away as a whole: then everything is prompt.
        return len(self.ids) if not self.labelled else None


class Tokens:
    """The tokenizer used by itself, and the ids of the image block as it gives them."""

    def __init__(self, tokenizer: Any) -> None:
        """Look the block's ids up; `ids` has more than one where a string is not one token."""
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


@dataclass
class _Cases:
    """Rows by what is wrong with them, with an example for the message."""

    rows: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    shown: dict[str, str] = field(default_factory=dict)

    def add(self, code: str, row: Row, example: str) -> None:
        self.rows[code].append(row.sample.row)
        self.shown.setdefault(code, f"row {row.sample.row}: {example}")


def label_findings(rows: Sequence[Row], prepared: Prepared, tokens: Tokens) -> list[Finding]:
    """What the labels teach, row by row."""
    cases = _Cases()
    captions = {tuple(row.answer[:-1]): row.raw.row for row in rows}
    for row in rows:
        judged = _judge_labels(row, captions, tokens)
        # Captions that say themselves that max_seq_len has cut them are counted over all rows elsewhere.
        if judged and not (judged[0] == "answer-truncated" and row.sample.truncated):
            cases.add(judged[0], row, judged[1])
    return [_label_finding(code, cases, len(rows), prepared) for code in cases.rows]


def _judge_labels(row: Row, captions: dict[tuple[int, ...], int], tokens: Tokens) -> tuple[str, str] | None:
    """The fault of one row's labels and what shows it, or None."""
    answer, targets, count = row.answer, row.targets, len(row.answer)
    start = row.answer_start()
    if not targets:
        there = start is not None and start < len(row.ids)
        why = f"the caption of {count} tokens is in the text and" if there else "the caption is not in the text"
        full = f"max_seq_len cuts it off after {len(row.ids)} tokens" if row.at_limit else "something took it out"
        return "no-labels", f"{why} {f'all labels are {IGNORE_INDEX}' if there else f'({full})'}"
    shift = label_shift(row)
    if shift:
        return "labels-shifted", f"the label at each position is the token {abs(shift)} to the {_side(shift)} of it"
    # Positions first: with truncation the targets alone would not tell a masked start from a cut end.
    inside = [t for t in row.labelled if row.block[0] <= t < row.block[1]]
    if inside:
        return "image-labelled", f"{len(inside)} labels on image positions {row.block[0]} to {row.block[1] - 1}"
    padded = [t for t in row.labelled if t >= len(row.ids)]
    early = [t for t in row.labelled if start is not None and t < start]
    if early or padded:
        extra = tokens.decode([row.labels[t] for t in (early or padded)])
        where = "before the caption" if early else "in the padding"
        return "prompt-labelled", f"{len(early or padded)} labels {where}: {_short(extra)}"
    if targets == answer:
        return None
    said = f"labelled {_short(tokens.decode(targets))} of the caption {_short(tokens.decode(answer))}"
    if answer[-len(targets) :] == targets:
        lost = count - len(targets)
        start_of = f"the caption's first {lost} {agree(lost, 'token', 'tokens')} {_short(tokens.decode(answer[:lost]))}"
        said = f"{start_of} {agree(lost, 'has', 'have')} no label, {said}"
    if targets[:-1] == answer[:-1] or targets == answer[:-1]:
        # A limit that ends just before EOS has cut it off; anything else never put it there.
        cut = targets == answer[:-1] and row.at_limit and row.ids == row.ids[: start or 0] + answer[:-1]
        return ("answer-truncated" if cut else "eos-unlabelled"), said
    ended = targets[:-1] if targets[-1] == tokens.eos else targets
    if ended == answer[: len(ended)]:
        hidden = start is not None and row.ids[start:] == answer
        return ("answer-partly-labelled" if hidden else "answer-truncated"), said
    other = captions.get(tuple(ended))
    if other is not None:
        own, got = _short(tokens.decode(answer)), _short(tokens.decode(targets))
        return "pairs-mismatched", f"labelled with the caption of row {other}, {got}, its own is {own}"
    if _is_subsequence(targets, answer):
        return "answer-partly-labelled", said
    return ("pairs-mismatched" if start is None else "answer-partly-labelled"), said


def label_shift(row: Row) -> int:
    """By how many positions labels stand beside their tokens; 0 where they stand at them, or nowhere near."""

    def agreement(shift: int) -> float:
        pairs = [(row.labels[t], row.ids[t + shift]) for t in row.labelled if 0 <= t + shift < len(row.ids)]
        return sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0

    here = agreement(0)
    if here == 1.0:
        return 0
    best = max(_SHIFTS, key=agreement)
    return best if agreement(best) > max(here, 0.9) else 0


def _side(shift: int) -> str:
    return "right" if shift > 0 else "left"


def _is_subsequence(part: Sequence[int], whole: Sequence[int]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


_LABELS_SAY = {
    "no-labels": (
        "{n} of {of} rows have no label, so they teach nothing",
        "where captions are cut off, raise data.max_seq_len until they fit after the prompt; where they are in the "
        "text, look at how labels are made",
    ),
    "labels-shifted": (
        "labels stand beside their tokens in {n} of {of} rows",
        "give each answer token its own id as label: the language model's loss already shifts by one",
    ),
    "image-labelled": (
        "image positions are labelled in {n} of {of} rows, so the model learns to write image tokens",
        f"set the label of every image position to {IGNORE_INDEX}",
    ),
    "prompt-labelled": (
        "tokens other than the caption are labelled in {n} of {of} rows, so the loss also counts text that is given",
        f"set labels to {IGNORE_INDEX} everywhere but at the caption and its EOS",
    ),
    "eos-unlabelled": (
        "the end-of-text token after the caption is not labelled in {n} of {of} rows, so captions never learn to stop",
        "end every caption with the tokenizer's EOS and label it",
    ),
    "answer-truncated": (
        "the caption or its end is cut off in {n} of {of} rows looked at",
        "raise data.max_seq_len, shorten prompt.template, or remove whatever else shortens captions",
    ),
    "answer-partly-labelled": (
        "part of the caption carries no label, or another token's, in {n} of {of} rows",
        "label every token of the caption, from its first to EOS; where only its start is missing, look at how many "
        "tokens the prompt is taken to have",
    ),
    "pairs-mismatched": (
        "the labelled text is not the row's own caption in {n} of {of} rows",
        "keep each caption with its own image where rows are read, sorted or put together",
    ),
}


def _label_finding(code: str, cases: _Cases, total: int, prepared: Prepared) -> Finding:
    count, coverage = len(cases.rows[code]), prepared.config.coverage
    what, fix = _LABELS_SAY[code]
    allowed = {"no-labels": coverage.zero_label_fail, "answer-truncated": coverage.truncated_fail}.get(code)
    evidence: dict[str, Any] = {"rows": count, "of": total, "first_rows": cases.rows[code][:SHOWN]}
    if allowed is not None:
        evidence |= {"max_seq_len": prepared.config.data.max_seq_len, "allowed_pct": allowed}
    return finding(
        code,
        f"{what.format(n=count, of=total)}; {cases.shown[code]}",
        fix,
        "error" if allowed is None else by_share(count, total, allowed / 100, sampled=True),
        **evidence,
        example=cases.shown[code],
    )


def block_findings(rows: Sequence[Row], prepared: Prepared, vlm: VLM, tokens: Tokens, latents: int) -> list[Finding]:
    """The image block: one id per position, as many as visual tokens, together, between its delimiters."""
    cases = _Cases()
    legacy = prepared.config.prompt.image_block == "legacy"
    (start,), (patch,), (end,) = (
        ([tokens.eos] if legacy and text != PATCH else tokens.ids[text]) for text in (START, PATCH, END)
    )
    step = 2 if legacy else 1
    for row in rows:
        at = [t for t, i in enumerate(row.ids) if i == vlm.patch_id]
        same = [t for t, i in enumerate(row.ids) if i == patch]
        if row.at_limit and at and (at[0] < step or len(row.ids) - at[-1] <= step):
            end_cut = "begins" if at[0] < step else "ends"
            cases.add("image-truncated", row, f"the sequence of {len(row.ids)} tokens {end_cut} inside the image block")
        elif len(at) != latents and len(same) == latents:
            cases.add("token-id-mismatch", row, f"the text has {latents} tokens of id {patch}, none of {vlm.patch_id}")
        elif len(at) != latents:
            cases.add("placeholder-count", row, f"{len(at)} image positions for {latents} visual tokens")
        elif at != list(range(at[0], at[0] + step * latents, step)):
            shown = ", ".join(map(str, at[: 2 * SHOWN])) + (", ..." if len(at) > 2 * SHOWN else "")
            want_step = "adjacent" if step == 1 else f"{step} apart"
            cases.add("placeholder-split", row, f"image positions {shown} are not {want_step}")
        elif at[0] < step or [row.ids[at[0] - step], *row.ids[at[-1] + step : at[-1] + step + 1]] != [start, end]:
            around = tokens.decode(row.ids[max(0, at[0] - 2) : at[0] + 1])
            cases.add("placeholder-split", row, f"the block is not between its two delimiters, it begins {around!r}")
        elif row.block != (at[0] - step, at[-1] + step + 1):
            cases.add("placeholder-split", row, f"the batch marks {row.block} as image block, it is at {at[0] - step}")
    if "image-truncated" in cases.rows:  # a block that is cut is not also built wrongly
        cases.rows = {"image-truncated": cases.rows["image-truncated"]}
    says = {
        "image-truncated": (
            "data.max_seq_len cuts into the image block in {n} of {of} rows",
            "raise data.max_seq_len, and cut captions at their end, never the image; or lower connector.latents",
        ),
        "token-id-mismatch": (
            "the tokenizer and the model disagree on the id of an image position in {n} of {of} rows",
            "take the id of <|image_pad|> from the tokenizer wherever visual tokens are placed",
        ),
        "placeholder-count": (
            "image positions and visual tokens differ in number in {n} of {of} rows",
            "put <|image_pad|> into the prompt once per visual token (connector.latents), between the two delimiters",
        ),
        "placeholder-split": (
            "the image block is not the {want} tokens that belong together in {n} of {of} rows",
            "splice the block in as ids: <|vision_start|>, then <|image_pad|> once per latent, then <|vision_end|>",
        ),
    }
    want = prepared.config.image_block_tokens
    return [
        finding(
            code,
            f"{says[code][0].format(n=len(found), of=len(rows), want=want)}; {cases.shown[code]}",
            says[code][1],
            rows=len(found),
            of=len(rows),
            expected_positions=latents,
            expected_block=want,
            first_rows=found[:SHOWN],
        )
        for code, found in cases.rows.items()
    ]


def template_findings(rows: Sequence[Row], prepared: Prepared, tokens: Tokens) -> list[Finding]:
    """The prompt alone must be what stands before the answer: that is what captions are written behind."""
    cases = _Cases()
    template = prepared.config.prompt.template
    for row in rows:
        start = row.answer_start()
        if start is None or template.replace("{human}", row.raw.human).count(PLACEHOLDER) != 1:
            continue
        alone = [int(i) for i in prepared.inputs.prompts.prompt(row.raw.human).ids_T]
        if row.ids[: len(alone)] != alone[: len(row.ids)] or (start < len(row.ids) and len(alone) != start):
            same = next((t for t, (a, b) in enumerate(zip(alone, row.ids, strict=False)) if a != b), len(alone))
            got = tokens.decode(row.ids[same:start])
            cases.add(
                "template-unstable",
                row,
                f"{len(alone)} tokens for generation, {start} in training; from token {same} on, "
                f"{_or_nothing(tokens.decode(alone[same:]))} for generation and {_or_nothing(got)} in training",
            )
            continue
        before, _, behind = template.replace("{human}", row.raw.human).partition(PLACEHOLDER)
        around = (tokens.encode(before), tokens.encode(behind))
        got_around = (row.ids[: row.block[0]], row.ids[row.block[1] : start])
        cut = start == len(row.ids)
        if around[0] != got_around[0] or (around[1] != got_around[1] and not cut):
            read = f"{tokens.decode(got_around[0])}{PLACEHOLDER}{tokens.decode(got_around[1])}"
            cases.add(
                "template-unstable", row, f"training reads {_short(read)}, which is not what prompt.template says"
            )
    return [
        finding(
            code,
            f"the prompt that generation uses is not the text before the caption in training, in {len(found)} of "
            f"{len(rows)} rows; {cases.shown[code]}",
            "let one function make the prompt for training and for generation, so that training's ids start with the "
            "prompt's, token by token",
            rows=len(found),
            of=len(rows),
            example=cases.shown[code],
        )
        for code, found in cases.rows.items()
    ]


def token_findings(prepared: Prepared, vlm: VLM, tokens: Tokens) -> list[Finding]:
    """The special tokens: one id each, the same on all sides, inside the vocabulary, and not EOS in disguise."""
    legacy = prepared.config.prompt.image_block == "legacy"
    table_KE: Tensor = vlm.llm.model.get_input_embeddings().weight
    used = prepared.inputs.prompts.ids
    found = []
    for text in (PATCH,) if legacy else (START, PATCH, END):
        if len(tokens.ids[text]) != 1:
            found.append(
                finding(
                    "placeholder-split",
                    f"the tokenizer encodes {text} as {len(tokens.ids[text])} ids, where it must be one",
                    "add it to the tokenizer as a special token, or use a Qwen tokenizer, which has it",
                    ids=tokens.ids[text][:8],
                )
            )
    if found:
        return found
    patch, rows = tokens.ids[PATCH][0], len(table_KE)
    model, prompt = "the model takes id {} for", "the prompt is built with id {} for"
    pairs = [(f"{model} an image position", vlm.patch_id, patch), (f"{prompt} an image position", used.patch, patch)]
    pairs += [(f"{model} the end of text", vlm.eos_id, tokens.eos), (f"{prompt} the end of text", used.eos, tokens.eos)]
    if not legacy:
        pairs += [(f"{prompt} the start of an image", used.start, tokens.ids[START][0])]
        pairs += [(f"{prompt} the end of an image", used.end, tokens.ids[END][0])]
    for what, got, wanted in pairs:
        if got != wanted:
            found.append(
                finding(
                    "token-id-mismatch",
                    f"{what.format(got)}, where the tokenizer has {wanted} ({tokens.decode([wanted])})",
                    "take the id from the tokenizer of model.llm (`convert_tokens_to_ids`) instead of a fixed number",
                    used=got,
                    tokenizer=wanted,
                )
            )
    highest = max([patch, tokens.eos, len(tokens.tokenizer) - 1])
    head = vlm.llm.model.get_output_embeddings().weight
    if highest >= min(rows, len(head)):
        found.append(
            finding(
                "token-id-mismatch",
                f"the tokenizer has ids up to {highest}, the language model embeddings for {rows} and outputs for "
                f"{len(head)}: some ids have no row",
                "use the tokenizer that came with model.llm, or resize the model's embeddings",
                highest_id=highest,
                embedding_rows=rows,
                output_rows=len(head),
            )
        )
    return found or _delimiters_like_eos(tokens, table_KE, legacy)


@torch.no_grad()
def _delimiters_like_eos(tokens: Tokens, table_KE: Tensor, legacy: bool) -> list[Finding]:
    # The legacy block's delimiters are EOS by name: nothing is disguised.
    if legacy:
        return []
    eos_E = table_KE[tokens.eos].float()
    size = float(eos_E.norm()) or 1.0
    distance = {text: float((table_KE[tokens.ids[text][0]].float() - eos_E).norm()) / size for text in (START, END)}
    alike = [text for text, relative in distance.items() if relative < 1e-3]
    if not alike:
        return []
    return [
        finding(
            "special-token-is-eos",
            f"the embedding of {' and '.join(alike)} equals that of end of text, so the frozen language model reads "
            "the image block as the end of a document",
            "use a language model whose delimiters are trained (Qwen3 has them), or other tokens as delimiters",
            relative_distance={text: round(value, 6) for text, value in distance.items()},
        )
    ]


def _or_nothing(text: str) -> str:
    return _short(text) if text else "nothing"


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= _SHORT else f"{shown[: _SHORT - 3]}..."
