"""Runs all detectors on a batch dict, and computes the figures of the batch that are reported with the findings."""

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
"""The detectors. Each yields findings from a `BatchEvidence`, and records in it what it could not check."""

ONLY_IN_BATCHES = frozenset(
    {"padding-misaligned", "token-types-misaligned", "positions-wrong", "padding-labelled", "resolution-differs"}
)
"""Faults of collators, which only these detectors report; they cannot occur in Stage 1."""


@dataclass(frozen=True)
class BatchFacts:
    """The contents of a batch in numbers."""

    rows: int
    """Number of rows."""
    length: int
    """Number of tokens per row, including padding."""
    attended: int
    """Number of tokens in all rows without padding."""
    images: int
    """Number of entries of the pixel tensor: images, or tiles if the processor splits images into tiles."""
    rows_with_images: int
    """Number of rows with image positions."""
    placeholders: int
    """Number of image positions in all rows."""
    image_id: int | None
    """Id of an image position; None if not known."""
    image_id_source: IdSource
    """How this id was found."""
    answer_tokens: int
    """Number of answer tokens in all rows."""
    answers_found: Way
    """How the answer tokens were found."""
    labels: int | None
    """Number of labels in all rows; None if the batch has none."""
    labels_on_answers: int | None
    """Number of labels on answer tokens."""


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
