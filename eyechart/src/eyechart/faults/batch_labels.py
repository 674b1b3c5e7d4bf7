"""Finds errors in the labels of a batch: missing or misaligned labels, labels on wrong tokens, truncated answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eyechart.faults.batch_evidence import BatchEvidence, Check, Why, by_share, rows_in_words
from eyechart.faults.table import agree, finding
from eyechart.processors.answers import Way
from eyechart.results import Finding

# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_AGREE = 0.8
"""Labels count as aligned if at least this share of them equals the token id at the same position. They count as
shifted by one if at least this share equals the token id at the next position."""
# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_COPIED = 0.95
"""If more than this share of all tokens except padding has labels, the labels count as a copy of the token ids."""
# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_PROMPT = 0.5
"""If more than this share of the prompt tokens has labels, the labels count as a copy of the token ids."""
_ANSWER_FIX = (
    "label the answer only: completion_only_loss or assistant_only_loss in TRL, train_on_prompt off in "
    "LLaMA-Factory, or labels of -100 at all other positions in a custom collator"
)


def diagnose_labels(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield findings about the labels and the answers of a batch."""
    yield from _cut_answers(evidence)
    labels_BT, labelled_BT = evidence.answers.labels_BT, evidence.labelled_BT
    if labels_BT is None or labelled_BT is None:
        evidence.skip(Check.LABELS, Why.NOT_IN_BATCH)
        return
    unlabelled = np.flatnonzero(~labelled_BT.any(axis=1)).tolist()
    if unlabelled:
        yield _no_labels(evidence, unlabelled)
    if len(unlabelled) == evidence.rows:
        return
    if found := _misaligned(evidence):
        yield found
        return
    yield from _padding(evidence)
    yield from _beside_answers(evidence)
    yield from _within_answers(evidence)


def _no_labels(evidence: BatchEvidence, rows: list[int]) -> Finding:
    every = len(rows) == evidence.rows
    effect = (
        "the loss of the batch is 0 or NaN, and nothing is learnt from it" if every else "nothing is learnt from them"
    )
    full = evidence.geometry.attended_BT[rows].all(axis=1).all()
    cause = f"; they fill all {evidence.geometry.ids_BT.shape[1]} tokens, so the answer may be cut off" if full else ""
    return finding(
        "no-labels",
        f"{rows_in_words(rows)} of {evidence.rows} {agree(len(rows), 'has', 'have')} no label: {effect}{cause}",
        "raise max_length if rows are cut off before their answer; otherwise check how the answer is found: a chat "
        "template without {% generation %} gives an empty assistant mask, and so do offsets taken before the image "
        "placeholders were expanded",
        "error" if every else by_share(len(rows), evidence.rows),
        rows=rows,
    )


def _cut_answers(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield a finding about rows without padding whose answer is missing or has no end token."""
    answers, attended_BT = evidence.answers, evidence.geometry.attended_BT
    if answers.turns is None:
        evidence.skip(Check.ANSWERS, Why.NO_PROCESSOR if evidence.processor is None else Why.NO_TEMPLATE)
        return
    if answers.labels_BT is None and not answers.answer_BT.any():
        return  # the rows are prompts without answers, as for generation
    full = np.flatnonzero(attended_BT[:, [0, -1]].all(axis=1)).tolist()
    gone = [row for row in full if row in evidence.unanswered]
    cut = [row for row in full if row in gone or answers.spans[row][-1].ended is False]
    if not cut:
        return
    length = attended_BT.shape[1]
    lost = f"{rows_in_words(gone)} without any answer token" if gone else "before the end of the answer"
    yield finding(
        "answer-truncated",
        f"{rows_in_words(cut)} of {evidence.rows} {agree(len(cut), 'is', 'are')} cut off at {length} tokens, {lost}",
        "raise max_length (cutoff_len, max_seq_length), or lower the image resolution in the processor",
        "error" if len(gone) == evidence.rows else by_share(len(cut), evidence.rows),
        rows=cut,
        length=length,
        without_answer=gone,
    )


def _misaligned(evidence: BatchEvidence) -> Finding | None:
    """Return a finding if too many labels differ from the token ids at the same positions."""
    labels_BT, labelled_BT = evidence.answers.labels_BT, evidence.labelled_BT
    assert labels_BT is not None and labelled_BT is not None
    ids_BT, before_BT = evidence.geometry.ids_BT, labelled_BT[:, :-1]
    aligned = float((labels_BT == ids_BT)[labelled_BT].mean())
    later = float((labels_BT[:, :-1] == ids_BT[:, 1:])[before_BT].mean()) if before_BT.any() else 0.0
    if aligned >= _AGREE:
        return None
    if later >= _AGREE:
        seen = (
            "labels are the ids one position later, and a model of transformers shifts them once more: each position "
            "is trained to predict the token after the next"
        )
    else:
        seen = f"only {aligned:.0%} of the labels equal the id at their position: they belong to other text"
    return finding(
        "labels-shifted",
        seen,
        "pass labels that are aligned with input_ids and come from the same rows; the model shifts them itself",
        aligned=aligned,
        one_later=later,
    )


def _padding(evidence: BatchEvidence) -> Iterator[Finding]:
    labelled_BT, attended_BT = evidence.labelled_BT, evidence.geometry.attended_BT
    assert labelled_BT is not None
    affected = np.flatnonzero((labelled_BT & ~attended_BT).any(axis=1)).tolist()
    if affected:
        count = int((labelled_BT & ~attended_BT).sum())
        yield finding(
            "padding-labelled",
            f"{rows_in_words(affected)}: {count} of {int(labelled_BT.sum())} labels are on padding, so the model "
            "learns to write padding",
            "set labels to -100 where attention_mask is 0",
            rows=affected,
            labels=count,
        )


def _beside_answers(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield findings about labels on image positions and on prompt tokens."""
    labelled_BT, geometry, answers = evidence.labelled_BT, evidence.geometry, evidence.answers
    assert labelled_BT is not None
    total = int((labelled_BT & geometry.attended_BT).sum())
    if not total:
        return
    image = int((labelled_BT & geometry.image_BT).sum())
    text_BT = geometry.attended_BT & ~geometry.image_BT & ~answers.answer_BT
    prompt = int((labelled_BT & text_BT).sum()) if answers.way is Way.TEMPLATE else 0
    # TRL and other trainers document this default: labels are a copy of the token ids with only padding masked.
    everywhere = bool(labelled_BT[geometry.attended_BT].mean() > _COPIED)
    copied = everywhere or (prompt > 0 and bool(labelled_BT[text_BT].mean() > _PROMPT))
    default = " (TRL's default labels all tokens but padding)" if copied else ""
    if image:
        yield finding(
            "image-labelled",
            f"{image} of {total} labels ({image / total:.0%}) are on image positions{default}: they are equal tokens, "
            "easy to predict, so the loss is low and says little about the answer",
            f"set labels to -100 at all image positions; better, {_ANSWER_FIX}",
            "warning" if copied else None,
            labels=image,
            of=total,
        )
    if copied and prompt:
        yield finding(
            "prompt-labelled",
            f"{prompt} of {total} labels ({prompt / total:.0%}) are on the prompt{'' if image else default}: the loss "
            "is mostly about text that does not depend on the picture, and gaps between conditions are smaller",
            _ANSWER_FIX,
            "warning",
            labels=prompt,
            of=total,
        )


def _within_answers(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield findings about answers whose tokens or end token lack labels, and about answers without an end token."""
    labelled_BT, answers = evidence.labelled_BT, evidence.answers
    assert labelled_BT is not None
    if answers.way is not Way.TEMPLATE:
        return
    partly, endless, bare, ended, unended = [], [], [], 0, 0
    for row, spans in enumerate(answers.spans):
        if labelled_BT[row].any() and spans and not (labelled_BT[row] & answers.answer_BT[row]).any():
            bare.append(row)
        for span in spans:
            inside = labelled_BT[row, span.start : span.stop]
            words = inside[:-1] if span.ended else inside
            if words.any() and not words.all():
                partly.append(row)
            if words.any() and span.ended:
                ended += 1
                endless += [] if inside[-1] else [row]
            unended += int(words.any() and span.ended is None)
    if bare:
        yield finding(
            "no-labels",
            f"{rows_in_words(bare)} of {evidence.rows}: there are labels, but none on the answer",
            "check how the answer is found, and that labels are not masked where they should be kept",
            "error" if len(bare) == evidence.rows else by_share(len(bare), evidence.rows),
            rows=bare,
        )
    if partly:
        rows = sorted(set(partly))
        yield finding(
            "answer-partly-labelled",
            f"{rows_in_words(rows)} of {evidence.rows}: only part of the answer's tokens have labels",
            "find the answer by its position in the ids of the whole row; a prompt tokenised alone can have another "
            "number of tokens",
            by_share(len(rows), evidence.rows),
            rows=rows,
        )
    yield from _ends(evidence, sorted(set(endless)), ended, unended)
    yield from _without_end(evidence)


def _ends(evidence: BatchEvidence, endless: list[int], ended: int, unended: int) -> Iterator[Finding]:
    tokenizer = evidence.tokenizer
    if endless:
        same = getattr(tokenizer, "pad_token_id", None) == getattr(tokenizer, "eos_token_id", -1)
        cause = "; padding is the same token, so labels were probably masked by id" if same else ""
        yield finding(
            "eos-unlabelled",
            f"{rows_in_words(endless)}: the token that ends an answer has no label ({len(endless)} of {ended} answers "
            f"with labels){cause}: the model does not learn to stop",
            "mask padding by attention_mask instead of by id, and let the labels include the token that ends a turn",
            by_share(len(endless), evidence.rows) if evidence.rows > 1 else "error",
            rows=endless,
        )
    elif unended and not ended:
        yield finding(
            "eos-unlabelled",
            "no answer of the batch has a token that ends it: the chat template writes none, so the model does not "
            "learn to stop",
            "add the tokenizer's EOS token after each answer, in the chat template or in the rows",
            "warning",
            answers=unended,
        )


def _without_end(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield a finding about padded rows whose last answer lacks the end token that the chat template writes."""
    attended_BT, answers = evidence.geometry.attended_BT, evidence.answers
    padded = np.flatnonzero(~(attended_BT[:, 0] & attended_BT[:, -1])).tolist()
    rows = [row for row in padded if answers.spans[row] and answers.spans[row][-1].ended is False]
    if rows and answers.turns is not None:
        end = answers.turns.end_id
        shown = getattr(evidence.tokenizer, "decode", str)([end])
        yield finding(
            "eos-unlabelled",
            f"{rows_in_words(rows)} of {evidence.rows}: the answer does not end in {shown!r} (id {end}) as the chat "
            "template writes it: the model does not learn to stop",
            "tokenise the whole conversation with the chat template, without add_generation_prompt and without "
            "continue_final_message",
            by_share(len(rows), evidence.rows),
            rows=rows,
        )
