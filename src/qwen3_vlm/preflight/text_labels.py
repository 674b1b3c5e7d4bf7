"""Compares the labels of every sample with the separately tokenised caption."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.seam import IGNORE_INDEX
from qwen3_vlm.build import Prepared
from qwen3_vlm.preflight.rows import SHOWN, by_share
from qwen3_vlm.preflight.text import Cases, Row, Tokens, short

# size: shifts that are tried
_SHIFTS = (1, -1, 2, -2)
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_ALIKE = 0.8
"""Similarity of two texts, 0 to 1 (difflib), above which one is taken for an edited version of the other."""


def label_findings(rows: Sequence[Row], prepared: Prepared, tokens: Tokens) -> list[Finding]:
    """Check the labels of every row."""
    cases = Cases()
    captions = {tuple(row.answer[:-1]): row.raw.row for row in rows}
    for row in rows:
        judged = _judge_labels(row, captions, tokens)
        # Samples that are marked as truncated by max_seq_len are counted over all rows elsewhere.
        if judged and not (judged[0] == "answer-truncated" and row.sample.truncated):
            cases.add(judged[0], row, judged[1])
    return [_label_finding(code, cases, len(rows), prepared) for code in cases.rows]


def _judge_labels(row: Row, captions: dict[tuple[int, ...], int], tokens: Tokens) -> tuple[str, str] | None:
    """Return the code of the fault in one row's labels and an example that shows it; None if there is no fault."""
    answer, targets, count = row.answer, row.targets, len(row.answer)
    start = row.answer_start()
    if not targets:
        there = start is not None and start < len(row.ids)
        why = f"the caption of {count} tokens is in the text and" if there else "the caption is not in the text"
        full = f"max_seq_len cuts it off after {len(row.ids)} tokens" if row.at_limit else "other code removed it"
        return "no-labels", f"{why} {f'all labels are {IGNORE_INDEX}' if there else f'({full})'}"
    shift = label_shift(row)
    if shift:
        return "labels-shifted", f"the label at each position is the token {abs(shift)} to the {_side(shift)} of it"
    # Check positions first: in a truncated sample, targets alone do not distinguish a masked start from a cut end.
    inside = [t for t in row.labelled if row.block[0] <= t < row.block[1]]
    if inside:
        return "image-labelled", f"{len(inside)} labels on image positions {row.block[0]} to {row.block[1] - 1}"
    padded = [t for t in row.labelled if t >= len(row.ids)]
    early = [t for t in row.labelled if start is not None and t < start]
    if early or padded:
        extra = tokens.decode([row.labels[t] for t in (early or padded)])
        where = "before the caption" if early else "in the padding"
        return "prompt-labelled", f"{len(early or padded)} labels {where}: {short(extra)}"
    if targets == answer:
        replaced = [t for t in row.labelled if t < len(row.ids) and row.ids[t] != row.labels[t]]
        if replaced:
            got, own = tokens.decode([row.ids[t] for t in row.labelled if t < len(row.ids)]), tokens.decode(answer)
            return "loss-altered", f"the model reads {short(got)}, and its labels say {short(own)}"
        return None
    said = f"the labels are {short(tokens.decode(targets))}, the caption is {short(tokens.decode(answer))}"
    if answer[-len(targets) :] == targets:
        lost = count - len(targets)
        start_of = f"the caption's first {lost} {agree(lost, 'token', 'tokens')} {short(tokens.decode(answer[:lost]))}"
        said = f"{start_of} {agree(lost, 'has', 'have')} no label; {said}"
    if targets[:-1] == answer[:-1] or targets == answer[:-1]:
        # If the length limit is just before EOS, truncation has removed EOS; otherwise it was never added.
        cut = targets == answer[:-1] and row.at_limit and row.ids == row.ids[: start or 0] + answer[:-1]
        return ("answer-truncated" if cut else "eos-unlabelled"), said
    ended = targets[:-1] if targets[-1] == tokens.eos else targets
    if ended == answer[: len(ended)]:
        hidden = start is not None and row.ids[start:] == answer
        return ("answer-partly-labelled" if hidden else "answer-truncated"), said
    other = captions.get(tuple(ended))
    if other is not None:
        own, got = short(tokens.decode(answer)), short(tokens.decode(targets))
        return "pairs-mismatched", f"labelled with the caption of row {other}, {got}, its own is {own}"
    if _is_subsequence(targets, answer):
        return "answer-partly-labelled", said
    got, own = tokens.decode(ended), row.raw.caption
    if SequenceMatcher(None, got.casefold(), own.casefold(), autojunk=False).ratio() > _ALIKE:
        return "answer-partly-labelled", f"the labels are {short(got)}, but the caption is {short(own)}: it was changed"
    return ("pairs-mismatched" if start is None else "answer-partly-labelled"), said


def label_shift(row: Row) -> int:
    """Return by how many positions labels are shifted from their tokens; 0 if no shift was found."""

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
        "if captions are cut off, raise data.max_seq_len until they fit after the prompt; if they are in the text, "
        "the mask covers the whole sequence: check the number of prompt tokens that the mask assumes",
    ),
    "labels-shifted": (
        "labels are off by one or two positions in {n} of {of} rows",
        "give each answer token its own id as label: the language model's loss already shifts by one",
    ),
    "image-labelled": (
        "image positions are labelled in {n} of {of} rows, so the model learns to write image tokens",
        f"set the label of every image position to {IGNORE_INDEX}",
    ),
    "prompt-labelled": (
        "tokens other than the caption are labelled in {n} of {of} rows, so the loss also counts text of the prompt",
        f"set labels to {IGNORE_INDEX} everywhere but at the caption and its EOS",
    ),
    "eos-unlabelled": (
        "the end-of-text token after the caption is not labelled in {n} of {of} rows, so the model never "
        "learns to stop",
        "if EOS is in the text, mask padding by length and not by id (pad may have EOS's id); if not, end every "
        "caption with the tokenizer's EOS; label it",
    ),
    "answer-truncated": (
        "the caption or its end is cut off in {n} of {of} rows checked",
        "if sequences end at data.max_seq_len, raise it or shorten prompt.template; if not, look for other code that "
        "cuts "
        "captions",
    ),
    "answer-partly-labelled": (
        "part of the caption has no label, or the label of another token, in {n} of {of} rows",
        "label every token of the caption as in the file, from its first to EOS: if its start has no label, the "
        "number of prompt tokens is too high; if its words were changed, look at the code that cleans captions",
    ),
    "loss-altered": (
        "input ids of the caption differ from its labels in {n} of {of} rows, so captions are predicted from words "
        "other than their own",
        "remove the collator or augmentation that masks or replaces input ids; only masked language models need it",
    ),
    "pairs-mismatched": (
        "the labelled text is not the row's own caption in {n} of {of} rows",
        "keep each caption with its own image in the code that reads, sorts or combines rows",
    ),
}


def _label_finding(code: str, cases: Cases, total: int, prepared: Prepared) -> Finding:
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
