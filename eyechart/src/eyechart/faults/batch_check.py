"""Runs all batch detectors on a batch dict, and computes the counts that are reported together with the findings."""

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
"""The batch detectors. Each one yields findings from a `BatchEvidence`, and adds what it could not check to
`unchecked`."""

ONLY_IN_BATCHES = frozenset(
    {"padding-misaligned", "token-types-misaligned", "positions-wrong", "padding-labelled", "resolution-differs"}
)
"""Faults of collators that only the batch detectors report. They cannot occur in Stage 1, this project's own training
of a connector."""


@dataclass(frozen=True)
class BatchFacts:
    """Counts that describe a batch."""

    rows: int
    """Number of rows."""
    length: int
    """Number of tokens per row, including padding."""
    attended: int
    """Total number of tokens in all rows, excluding padding."""
    images: int
    """Number of entries in the pixel tensor: images, or tiles if the processor splits images into tiles."""
    rows_with_images: int
    """Number of rows with image positions."""
    placeholders: int
    """Total number of image positions in all rows."""
    image_id: int | None
    """Token id that marks an image position; None if it is not known."""
    image_id_source: IdSource
    """How `image_id` was found."""
    answer_tokens: int
    """Total number of answer tokens in all rows."""
    answers_found: Way
    """How the answer tokens were found."""
    labels: int | None
    """Total number of tokens with a label other than -100; None if the batch has no labels."""
    labels_on_answers: int | None
    """Number of answer tokens with a label other than -100; None if the batch has no labels."""


def diagnose_batch(evidence: BatchEvidence) -> list[Finding]:
    """Return the findings of all batch detectors, with the most likely cause first."""
    return rank([found for detector in DETECTORS for found in detector(evidence)])


def facts_of(evidence: BatchEvidence) -> BatchFacts:
    """Return the counts that describe a batch."""
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
