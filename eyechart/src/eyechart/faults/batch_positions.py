"""Checks the position ids of a batch, and whether the samples of a packed row can attend to each other.

A model with M-RoPE, a multimodal rotary embedding (the Qwen families, GLM), has position ids for time, height and
width. Within an image, height and width are the row and the column in the image's grid after patch merging
(https://arxiv.org/abs/2409.12191, section 2.1). A batch without position ids is valid, because the model computes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from eyechart.faults.batch_evidence import BatchEvidence, Check, Why, rows_in_words
from eyechart.faults.table import finding
from eyechart.processors.arrays import AnyArray, matrix_of
from eyechart.processors.geometry import BOUNDARIES, Geometry, restarts
from eyechart.processors.pixel_entries import Entry, PixelLayout
from eyechart.results import Finding


def diagnose_positions(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield findings about the position ids and the packing of a batch."""
    positions = matrix_of(evidence.batch, "position_ids")
    attended_BT = evidence.geometry.attended_BT
    if positions is None or positions.shape[-2:] != attended_BT.shape or positions.ndim not in (2, 3):
        yield from _not_computed(evidence)
        return
    several = positions if positions.ndim == 3 else positions[None]
    if _has_mrope(evidence) and evidence.geometry.image_BT.any():
        yield from _flat(evidence, several)
    else:
        yield from _order(evidence, several[0])
    yield from _leaking(evidence)


def _not_computed(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield a finding if the batch lacks the token types from which the model computes the positions of images."""
    key = "mm_token_type_ids"
    images = evidence.geometry.image_BT.any() and evidence.geometry.entries
    if not images or not _has_mrope(evidence) or evidence.batch.get(key) is not None:
        return
    if evidence.accepted is None:
        evidence.skip(Check.POSITIONS, Why.NO_MODEL)
    elif key in evidence.accepted:
        yield finding(
            "positions-wrong",
            f"the batch has neither position_ids nor {key}: without them a model with M-RoPE cannot compute height and "
            "width of image positions; some count them as text without a warning (Qwen2.5-VL), others stop (Qwen3-VL)",
            f"return {key} from the collator as the processor makes it, padded like input_ids (with 0)",
            keys=[str(name) for name in evidence.batch],
        )


def _has_mrope(evidence: BatchEvidence) -> bool:
    """Return whether the model uses M-RoPE, according to its config or, without a config, to `image_grid_thw`."""
    config = getattr(evidence.config, "text_config", None) or evidence.config
    if config is not None:
        return _names_mrope(config) or _names_mrope(evidence.config)
    return evidence.geometry.pixels.layout is PixelLayout.PATCHES and "image_grid_thw" in evidence.batch


def _names_mrope(config: Any) -> bool:
    scaling = [getattr(config, name, None) for name in ("rope_scaling", "rope_parameters")]
    return any("mrope_section" in found for found in scaling if isinstance(found, dict))


def _flat(evidence: BatchEvidence, positions_KBT: AnyArray) -> Iterator[Finding]:
    geometry = evidence.geometry
    if geometry.unassigned is not None:
        evidence.skip(Check.POSITIONS, Why.NOT_ASSIGNED)
        return
    if geometry.pixels.merge is None or geometry.pixels.layout is not PixelLayout.PATCHES:
        evidence.skip(Check.POSITIONS, Why.UNKNOWN_FORM)
        return
    wrong = [row for row in range(geometry.rows) if not _row_fits(geometry, positions_KBT, row)]
    if not wrong:
        return
    one = positions_KBT.shape[0] == 1
    same = not one and bool((positions_KBT[-1] == positions_KBT[-2])[geometry.image_BT].all())
    seen = (
        "position_ids has one number per token"
        if one
        else "position_ids counts image positions one after the other, as if they were text"
        if same
        else "the height and width in position_ids are not those of the image's grid"
    )
    yield finding(
        "positions-wrong",
        f"{rows_in_words(wrong)}: {seen}, but the model needs time, height and width of each image position (M-RoPE)",
        "do not pass position_ids (the model computes them from the grid), or compute them with the model's "
        "get_rope_index for each sample before packing",
        rows=wrong,
        shape=list(positions_KBT.shape),
    )


def _row_fits(geometry: Geometry, positions_KBT: AnyArray, row: int) -> bool:
    """Return whether a row's position ids for height and width are the rows and columns of its image grids."""
    if positions_KBT.shape[0] < 3:
        return not geometry.runs[row]
    places = np.flatnonzero(geometry.image_BT[row])
    height_T, width_T = positions_KBT[-2, row, places], positions_KBT[-1, row, places]
    start = 0
    for entry in geometry.entries_of(row):
        rows_N, columns_N = _cells(entry, geometry.pixels.merge or 1)
        height_N, width_N = height_T[start : start + len(rows_N)], width_T[start : start + len(rows_N)]
        if len(height_N) < len(rows_N):
            return True  # the image is truncated, which another detector reports
        first = (height_N[0], width_N[0])
        if (height_N - first[0] != rows_N).any() or (width_N - first[1] != columns_N).any():
            return False
        start += len(rows_N)
    return True


def _cells(entry: Entry, merge: int) -> tuple[AnyArray, AnyArray]:
    """Return the row and the column of each visual token in the image's grid after patch merging."""
    assert entry.grid is not None
    time, height, width = entry.grid[0], entry.grid[1] // merge, entry.grid[2] // merge
    rows, columns = np.divmod(np.arange(height * width), width)
    return np.tile(rows, time), np.tile(columns, time)


def _order(evidence: BatchEvidence, positions_BT: AnyArray) -> Iterator[Finding]:
    """Yield a finding about rows in which a position id is neither 0 nor one more than the previous one."""
    attended_BT = evidence.geometry.attended_BT
    steps_BT = np.diff(positions_BT, axis=1)
    inside_BT = attended_BT[:, 1:] & attended_BT[:, :-1]
    allowed_BT = (steps_BT == 1) | (positions_BT[:, 1:] == 0) & (positions_BT[:, :-1] > 0)
    wrong = np.flatnonzero((inside_BT & ~allowed_BT).any(axis=1)).tolist()
    if wrong:
        yield finding(
            "positions-wrong",
            f"{rows_in_words(wrong)}: position_ids {positions_BT[wrong[0], :4].tolist()}... do not count the tokens of "
            "a row",
            "do not pass position_ids, or count the tokens of each sample from 0",
            rows=wrong,
        )


def _leaking(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield a finding if the samples of a packed row can attend to each other."""
    positions = matrix_of(evidence.batch, "position_ids")
    if positions is None or not (starts := restarts(positions, evidence.geometry.attended_BT)):
        return
    boundaries = next((b for key in BOUNDARIES if (b := matrix_of(evidence.batch, key)) is not None), None)
    mask = matrix_of(evidence.batch, "attention_mask")
    if boundaries is not None:
        if boundaries.ndim == 1 and not set(starts) <= set(boundaries.tolist()):
            yield _not_apart("its boundaries (cu_seq_lens) leave out some of them")
    elif mask is not None and mask.ndim == 2 and mask.max() <= 1:
        yield _not_apart("attention_mask has the same value for all of them, with which attention ignores position_ids")


def _not_apart(reason: str) -> Finding:
    return finding(
        "batch-dependent",
        f"a row contains several samples, and {reason}: later samples see the pictures and answers of earlier ones",
        "leave attention_mask out of packed batches and pass cu_seq_lens of all samples, or turn packing off",
        "warning",
    )
