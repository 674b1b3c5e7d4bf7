"""All detectors of a batch dict, and the facts about the batch that are reported beside their findings."""

from __future__ import annotations

from dataclasses import dataclass

from eyechart.faults.batch_evidence import BatchEvidence
from eyechart.faults.batch_images import diagnose_images
from eyechart.faults.batch_labels import diagnose_labels
from eyechart.faults.batch_normalisation import diagnose_normalisation
from eyechart.faults.batch_pixels import diagnose_pixels
from eyechart.faults.batch_positions import diagnose_positions
from eyechart.faults.batch_text import diagnose_text
from eyechart.faults.table import rank
from eyechart.processors.answers import Way
from eyechart.processors.image_ids import IdSource
from eyechart.results import Finding

DETECTORS = (
    diagnose_images,
    diagnose_text,
    diagnose_positions,
    diagnose_labels,
    diagnose_pixels,
    diagnose_normalisation,
)
"""Each yields findings from a `BatchEvidence`, and records in it what it could not check."""

ONLY_IN_BATCHES = frozenset(
    {"padding-misaligned", "token-types-misaligned", "positions-wrong", "padding-labelled", "resolution-differs"}
)
"""Codes that only these detectors report: faults of collators, which a run of Stage 1 cannot have."""


@dataclass(frozen=True)
class BatchFacts:
    """What a batch holds, in numbers."""

    rows: int
    """Number of rows."""
    length: int
    """Tokens per row, with padding."""
    attended: int
    """Tokens that are not padding, over all rows."""
    images: int
    """Entries of the pixel tensor: images, or tiles if the processor cuts images into tiles."""
    rows_with_images: int
    """Rows with image positions."""
    placeholders: int
    """Image positions over all rows."""
    image_id: int | None
    """Id of an image position; None if not known."""
    image_id_source: IdSource
    """How this id was found."""
    answer_tokens: int
    """Answer tokens over all rows."""
    answers_found: Way
    """How they were found."""
    labels: int | None
    """Labels over all rows; None if the batch has none."""
    labels_on_answers: int | None
    """Labels on answer tokens."""


def diagnose_batch(evidence: BatchEvidence) -> list[Finding]:
    """Return the findings of all detectors, the most likely cause first."""
    return rank([found for detector in DETECTORS for found in detector(evidence)])


def facts_of(evidence: BatchEvidence) -> BatchFacts:
    """Return the numbers of a batch."""
    geometry, answers, labelled_BT = evidence.geometry, evidence.answers, evidence.labelled_BT
    return BatchFacts(
        rows=geometry.rows,
        length=int(geometry.ids_BT.shape[1]),
        attended=int(geometry.attended_BT.sum()),
        images=len(geometry.entries),
        rows_with_images=sum(bool(runs) for runs in geometry.runs),
        placeholders=int(geometry.placeholders_B.sum()),
        image_id=geometry.image_id.id,
        image_id_source=geometry.image_id.source,
        answer_tokens=int(answers.answer_BT.sum()),
        answers_found=answers.way,
        labels=None if labelled_BT is None else int(labelled_BT.sum()),
        labels_on_answers=None if labelled_BT is None else int((labelled_BT & answers.answer_BT).sum()),
    )
