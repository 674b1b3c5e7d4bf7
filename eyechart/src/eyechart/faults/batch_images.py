"""Compares images and image positions of a batch: missing, too many, too few, truncated, or within an answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eyechart.faults.batch_evidence import BatchEvidence, Check, Why, rows_in_words
from eyechart.faults.table import agree, finding
from eyechart.processors.answers import Way
from eyechart.processors.arrays import shape_of
from eyechart.processors.geometry import Unassigned
from eyechart.processors.pixel_entries import PixelLayout
from eyechart.results import Finding

_TEXT_FIX = (
    "write the placeholder of the processor's chat template into every row with an image, one per image, and let the "
    "processor expand it"
)
_ALL = "the whole batch"
LENGTH_FIX = (
    "raise max_length (cutoff_len, max_seq_length) until the longest row fits, or lower the image resolution in the "
    "processor; leave out rows that are too long instead of truncating them inside the image"
)


def diagnose_images(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield findings about images and image positions; nothing for a batch of text only."""
    geometry = evidence.geometry
    if geometry.image_id.id is None:
        evidence.skip(Check.PLACEHOLDERS, Why.NO_PROCESSOR if evidence.processor is None else Why.UNKNOWN_FORM)
        return
    if geometry.pixels.layout is PixelLayout.NONE and not geometry.placeholders_B.any():
        evidence.skip(Check.PLACEHOLDERS, Why.NO_IMAGES)
        return
    if geometry.pixels.layout is PixelLayout.NONE:
        if not evidence.pixels_named:
            yield _without_pixels(evidence)
        return
    yield from _not_accepted(evidence)
    if not geometry.entries:
        evidence.skip(Check.VISUAL_TOKENS, Why.UNKNOWN_FORM)
        return
    if not geometry.placeholders_B.any():
        yield finding(
            "no-placeholder",
            f"the batch has {_images(evidence)} but no row has an image position (id {geometry.image_id.id}), so no "
            "picture can reach the model",
            _TEXT_FIX,
            images=len(geometry.entries),
            image_id=geometry.image_id.id,
        )
        return
    yield from _in_answers(evidence)
    if geometry.unassigned is Unassigned.PATCHES_DIFFER:
        yield _patches(evidence)
        return
    yield from _counts(evidence)


def _without_pixels(evidence: BatchEvidence) -> Finding:
    geometry = evidence.geometry
    affected = np.flatnonzero(geometry.placeholders_B).tolist()
    return finding(
        "pixels-unused",
        f"{rows_in_words(affected)} {agree(len(affected), 'has', 'have')} {int(geometry.placeholders_B.sum())} image "
        f"positions, but the batch has no pixels (its keys: {', '.join(map(str, evidence.batch))}): the model trains "
        "without pictures, and its loss does not show it",
        "return the image keys of the processor (pixel_values and, if there are any, image_grid_thw, image_sizes, "
        "pixel_attention_mask) from the collator, and keep the image columns of the data set "
        "(remove_unused_columns=False)",
        rows=affected,
        keys=[str(key) for key in evidence.batch],
    )


def _not_accepted(evidence: BatchEvidence) -> Iterator[Finding]:
    key = evidence.geometry.pixels.key
    if evidence.accepted is None:
        evidence.skip(Check.PIXELS, Why.NO_MODEL)
    elif key not in evidence.accepted:
        yield finding(
            "pixels-unused",
            f"the batch has its pixels under {key!r}, which the model's forward pass does not accept",
            "load the model with AutoModelForImageTextToText, and use the processor of the same checkpoint",
            key=key,
        )


def _patches(evidence: BatchEvidence) -> Finding:
    pixels = evidence.geometry.pixels
    held = (shape_of(evidence.batch[str(pixels.key)]) or (0,))[0]
    counted = pixels.entries[-1].stop
    return finding(
        "placeholder-count",
        f"{pixels.key} has {held} patches, but the grids of {_images(evidence)} count {counted}",
        "keep pixels and grids of the same images: filter, concatenate and truncate them together, and never pad or "
        "cut patches as if they were tokens",
        patches=held,
        counted=counted,
    )


def _in_answers(evidence: BatchEvidence) -> Iterator[Finding]:
    geometry, answers = evidence.geometry, evidence.answers
    if answers.way is not Way.TEMPLATE:
        return
    affected = [
        row
        for row, spans in enumerate(answers.spans)
        if any(geometry.image_BT[row, span.start : span.stop].any() for span in spans)
    ]
    if affected:
        yield finding(
            "placeholder-in-caption",
            f"{rows_in_words(affected)}: the answer contains the id of an image position ({geometry.image_id.id}), "
            "which the model replaces by a visual token",
            "remove the placeholder's text from answers (also from generated ones), or tokenise answers as plain text",
            "error",
            rows=affected,
        )


def _counts(evidence: BatchEvidence) -> Iterator[Finding]:
    geometry = evidence.geometry
    if geometry.expected is None:
        evidence.skip(Check.VISUAL_TOKENS, Why.NO_PROCESSOR if evidence.processor is None else Why.UNKNOWN_FORM)
        return
    if geometry.unassigned is None:
        expected_B = np.array([sum(e.tokens or 0 for e in geometry.entries_of(row)) for row in range(evidence.rows)])
        differ = np.flatnonzero(expected_B != geometry.placeholders_B).tolist()
        if not differ:
            return
        given, made = int(geometry.placeholders_B[differ[0]]), int(expected_B[differ[0]])
        where = rows_in_words(differ[:1])
    else:
        differ = list(range(evidence.rows))
        given, made, where = int(geometry.placeholders_B.sum()), geometry.expected, _ALL
    if given < made and (cut := _cut_rows(evidence)):
        yield _truncated(evidence, cut, given, made, where)
    elif given < made and (bare := _rows_without(evidence, made - given)):
        yield _no_placeholder(evidence, bare)
    else:
        several = geometry.unassigned is None and len(differ) > 1
        others = f"; {len(differ)} of {evidence.rows} rows differ" if several else ""
        yield finding(
            "placeholder-count",
            f"{where} has {given} image positions, but its images give {made} visual tokens"
            f"{_grid_in_words(evidence, differ[0])}{others}",
            "make ids and pixels in one call of the processor with the same image settings, and write one placeholder "
            "per image",
            rows=differ,
            placeholders=given,
            visual_tokens=made,
        )


def _cut_rows(evidence: BatchEvidence) -> list[int]:
    """Return the rows of full length that are truncated: inside an image, or before the answer of a row with images."""
    geometry, unanswered = evidence.geometry, evidence.unanswered
    length = geometry.ids_BT.shape[1]
    full = geometry.attended_BT[:, 0] & geometry.attended_BT[:, -1]
    return [
        row
        for row, runs in enumerate(geometry.runs)
        if full[row] and (row in unanswered or any(start == 0 or stop == length for start, stop in runs))
    ]


def _truncated(evidence: BatchEvidence, cut: list[int], given: int, made: int, where: str) -> Finding:
    length = evidence.geometry.ids_BT.shape[1]
    return finding(
        "image-truncated",
        f"{rows_in_words(cut)} of the batch {agree(len(cut), 'is', 'are')} cut off at {length} tokens inside the "
        f"image: {given} image positions in {where} for {made} visual tokens",
        LENGTH_FIX,
        rows=cut,
        length=length,
        placeholders=given,
        visual_tokens=made,
    )


def _rows_without(evidence: BatchEvidence, missing: int) -> list[int]:
    """Return the rows without image positions, if there are as many of them as images without positions."""
    bare = [row for row, runs in enumerate(evidence.geometry.runs) if not runs]
    tokens = [entry.tokens or 0 for entry in evidence.geometry.entries]
    one_each = len(tokens) == evidence.rows and sum(tokens[row] for row in bare) == missing
    even = len(set(tokens)) == 1 and missing == tokens[0] * len(bare)
    return bare if bare and (one_each or even) else []


def _no_placeholder(evidence: BatchEvidence, bare: list[int]) -> Finding:
    return finding(
        "no-placeholder",
        f"{rows_in_words(bare)} {agree(len(bare), 'has', 'have')} no image position, and the batch has as many images "
        "more than its positions account for",
        _TEXT_FIX,
        "error",
        rows=bare,
        images=len(evidence.geometry.entries),
    )


def _grid_in_words(evidence: BatchEvidence, row: int) -> str:
    geometry = evidence.geometry
    if geometry.unassigned is not None or not (entries := geometry.entries_of(row)) or entries[0].grid is None:
        return ""
    _, height, width = entries[0].grid
    return f" (the grid of its first image is {height} x {width} patches)"


def _images(evidence: BatchEvidence) -> str:
    count = len(evidence.geometry.entries)
    return f"{count} {agree(count, 'image', 'images')}"
