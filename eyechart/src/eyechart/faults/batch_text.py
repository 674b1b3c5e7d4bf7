"""Checks the token ids, the attention mask and the token types of a batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eyechart.faults.batch_evidence import BatchEvidence, Check, Why, rows_in_words
from eyechart.faults.table import agree, finding
from eyechart.processors.answers import Way
from eyechart.processors.arrays import AnyArray, matrix_of
from eyechart.processors.image_ids import image_ids_of
from eyechart.results import Finding

# exact: transformers' value
_IMAGE_TYPE = 1
"""Token type that marks image positions in `mm_token_type_ids` (2 marks video)."""


def diagnose_text(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield findings about the token ids, the attention mask and the token types of a batch."""
    yield from _ids(evidence)
    yield from _mask(evidence)
    yield from _types(evidence)


def _ids(evidence: BatchEvidence) -> Iterator[Finding]:
    if evidence.config is None:
        evidence.skip(Check.IDS, Why.NO_MODEL)
        return
    text_config = getattr(evidence.config, "text_config", None) or evidence.config
    vocabulary = getattr(text_config, "vocab_size", None) or getattr(evidence.config, "vocab_size", None)
    ids_BT = evidence.geometry.ids_BT
    if isinstance(vocabulary, int):
        outside_BT = (ids_BT >= vocabulary) & ~evidence.geometry.image_BT
        if outside_BT.any():
            yield finding(
                "token-id-mismatch",
                f"{rows_in_words(np.flatnonzero(outside_BT.any(axis=1)).tolist())}: id {int(ids_BT[outside_BT][0])}, "
                f"but the model has embeddings for {vocabulary} ids",
                "use the tokenizer of the same checkpoint, and resize the embeddings after adding tokens",
                id=int(ids_BT[outside_BT][0]),
                vocabulary=vocabulary,
            )
    of_model, of_processor = image_ids_of(None, evidence.config), image_ids_of(evidence.processor, None)
    if of_model and of_processor and not set(of_model) & set(of_processor):
        yield finding(
            "token-id-mismatch",
            f"the model's image position is id {of_model[0]}, the processor writes id {of_processor[0]}: the "
            "model finds no place for its images",
            "use model and processor of the same checkpoint",
            model=of_model[0],
            processor=of_processor[0],
        )


def _mask(evidence: BatchEvidence) -> Iterator[Finding]:
    if (mask_BT := matrix_of(evidence.batch, "attention_mask")) is None or mask_BT.ndim != 2:
        evidence.skip(Check.PADDING, Why.NOT_IN_BATCH)
        return
    hidden_BT = ~evidence.geometry.attended_BT
    image_BT = evidence.geometry.image_BT
    if hidden_images := np.flatnonzero((hidden_BT & image_BT).any(axis=1)).tolist():
        count, total = int((hidden_BT & image_BT)[hidden_images].sum()), int(image_BT.sum())
        yield finding(
            "image-masked",
            f"{rows_in_words(hidden_images)}: attention_mask is 0 at {count} of {total} image positions, so the answer "
            "cannot see them",
            "make the mask from lengths, or use the processor's mask; if images and padding have the same id, do not "
            "mask by id",
            rows=hidden_images,
            positions=count,
        )
        return
    yield from _misaligned(evidence, hidden_BT)


def _misaligned(evidence: BatchEvidence, hidden_BT: AnyArray) -> Iterator[Finding]:
    """Yield a finding about rows in which the attention mask hides text, or does not hide padding before the text."""
    pad = getattr(evidence.tokenizer, "pad_token_id", None)
    ids_BT = evidence.geometry.ids_BT
    hides = [row for row, hidden_T in enumerate(hidden_BT) if len(set(ids_BT[row, hidden_T].tolist())) > 1]
    # A single pad id at the start may be the beginning-of-text token. Padding after the text is not checked, because
    # text with causal attention does not attend to later positions.
    shows = [row for row, ids_T in enumerate(ids_BT) if (ids_T[:2] == pad).all() and not hidden_BT[row, :2].any()]
    if not hides and not shows:
        return
    seen = (
        f"{rows_in_words(hides)}: attention_mask hides {int(hidden_BT[hides].sum())} positions of text instead "
        "of padding"
        if hides
        else f"{rows_in_words(shows)}: attention_mask does not hide the padding before the text, so the text attends "
        "to it"
    )
    yield finding(
        "padding-misaligned",
        seen,
        "pad ids, mask, labels and token types on the same side and to the same length, in one call of the processor",
        rows=hides or shows,
    )


def _types(evidence: BatchEvidence) -> Iterator[Finding]:
    image_BT = evidence.geometry.image_BT
    for key in ("mm_token_type_ids", "token_type_ids"):
        types_BT = matrix_of(evidence.batch, key)
        if types_BT is None or not image_BT.any():
            continue
        if types_BT.shape != image_BT.shape:
            yield finding(
                "token-types-misaligned",
                f"{key} has the shape {list(types_BT.shape)}, input_ids {list(image_BT.shape)}",
                f"pad and truncate {key} exactly as input_ids",
                shape=list(types_BT.shape),
            )
            return
        marked_BT = types_BT == _IMAGE_TYPE
        # `token_type_ids` marks image positions with Gemma 3, but answers or nothing with other processors.
        if key == "token_type_ids" and not _marks_images(evidence, marked_BT):
            continue
        rows = np.flatnonzero((marked_BT != image_BT).any(axis=1)).tolist()
        if rows:
            both = int((marked_BT & image_BT)[rows].sum())
            total = int(image_BT[rows].sum())
            yield finding(
                "token-types-misaligned",
                f"{rows_in_words(rows)}: {key} {agree(len(rows), 'marks', 'mark')} {both} of {total} image positions "
                f"and {int((marked_BT & ~image_BT)[rows].sum())} others, so positions or attention are computed for "
                "the wrong tokens",
                "pad and truncate token types exactly as input_ids, on the same side, or let the processor make them",
                rows=rows,
                marked=both,
                positions=total,
            )
            return


def _marks_images(evidence: BatchEvidence, marked_BT: AnyArray) -> bool:
    """Return whether the token types are supposed to mark image positions.

    This is the case if they mark most image positions. If the answers were found with the chat template, it is also
    the case if the token types mark exactly as many positions as there are image positions. The same is true if all
    token types are 0 and the forward pass accepts `token_type_ids`, because such a model needs them for its attention
    within images.
    """
    image_BT = evidence.geometry.image_BT
    if not marked_BT.any() and evidence.accepted is not None and "token_type_ids" in evidence.accepted:
        return evidence.answers.way is Way.TEMPLATE
    if 2 * int((marked_BT & image_BT).sum()) > int(image_BT.sum()):
        return True
    same_number = bool(marked_BT.any()) and int(marked_BT.sum()) == int(image_BT.sum())
    return same_number and evidence.answers.way is Way.TEMPLATE  # without a template, they may mark the answer
