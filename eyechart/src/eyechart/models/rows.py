"""Rows of a LLaVA-format file as samples for one model: text through its template, images at its common size."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyechart.data.dataset import Dataset
from eyechart.data.llava import read_records
from eyechart.models.loading import Foreign
from eyechart.scoring.batching import LazyBatches, batches_by_length
from eyechart.seam import Reject, Sample

OTHER_TOKENS = "another number of visual tokens"
"""Reason under which images are rejected for which the processor lays out more or fewer image positions."""


@dataclass(frozen=True)
class ForeignRows:
    """Usable rows, and why the others are not."""

    data: Dataset
    rejects: tuple[Reject, ...]
    """Found before any image was opened."""
    foreign: Foreign

    def __len__(self) -> int:
        """Number of rows whose text is usable."""
        return len(self.data)

    def __getitem__(self, index: int) -> Sample | Reject:
        """Row `index` with its image, or why it cannot be used."""
        item = self.data[index]
        if isinstance(item, Reject):
            return item
        assert item.pixels_CHW is not None
        expected = int(np.count_nonzero(item.ids_T == self.foreign.prompts.image_id))
        (found,) = self.foreign.scorer.image_positions(item.pixels_CHW[None])
        if found == expected:
            return item
        return Reject(item.row, OTHER_TOKENS, f"{item.image}: {found} image positions, all others have {expected}")

    def batches(self, batch_size: int) -> LazyBatches:
        """Batches of like length; images are read when a batch is asked for."""
        return LazyBatches(self, batches_by_length(self.data.lengths, batch_size), self.foreign.prompts.begin_id)


def read_rows(
    foreign: Foreign,
    file: Path,
    image_root: Path,
    rows: Collection[int] | None,
    request: str | None,
    max_pixels: int,
) -> ForeignRows:
    """Read rows of a data file.

    Args:
        foreign: the model they are for.
        file: LLaVA-Pretrain layout.
        image_root: folder that image paths are relative to.
        rows: row indices; None reads all.
        request: human turn with one `<image>` in place of each row's own; None keeps those.
        max_pixels: images with more are rejected before they are decoded.

    Raises:
        ValueError: the file cannot be read, or `request` has not exactly one `<image>`.
    """
    records, rejects = read_records(file, rows)
    encoded = foreign.prompts.encode(records, request)
    rejects += [item for item in encoded if isinstance(item, Reject)]
    usable = [(r, item) for r, item in zip(records, encoded, strict=True) if not isinstance(item, Reject)]
    kept, texts = [record for record, _ in usable], [item for _, item in usable]
    return ForeignRows(Dataset(kept, texts, image_root, foreign.spec, max_pixels), tuple(rejects), foreign)


def first_samples(rows: ForeignRows, count: int) -> Sequence[Sample]:
    """The first readable samples with a label token, for the self-tests."""
    found: list[Sample] = []
    for index in range(len(rows)):
        item = rows[index]
        if isinstance(item, Sample) and item.label_tokens:
            found.append(item)
        if len(found) == count:
            break
    return found
