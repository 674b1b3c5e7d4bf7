"""Compares the labels of every sample with the separately tokenised caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eyechart.faults.known_answer import judge_answer
from eyechart.faults.rows_shares import SHOWN, severity_by_share
from eyechart.faults.table import finding
from eyechart.results import Finding
from eyechart.seam import IGNORE_INDEX
from qwen3_vlm.build import Prepared
from qwen3_vlm.preflight.text import Cases, Row, Tokens


def label_findings(rows: Sequence[Row], prepared: Prepared, tokens: Tokens) -> list[Finding]:
    """Check the labels of every row (`faults.known_answer`)."""
    cases = Cases()
    captions = {tuple(row.answer[:-1]): row.raw.row for row in rows}
    for row in rows:
        judged = judge_answer(row, captions, tokens.decode, tokens.eos)
        # Samples that are marked as truncated by max_seq_len are counted over all rows elsewhere.
        if judged and not (judged[0] == "answer-truncated" and row.sample.truncated):
            cases.add(judged[0], row, judged[1])
    return [_label_finding(code, cases, len(rows), prepared) for code in cases.rows]


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
        "cuts captions",
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
        "error" if allowed is None else severity_by_share(count, total, allowed / 100, sampled=True),
        **evidence,
        example=cases.shown[code],
    )
