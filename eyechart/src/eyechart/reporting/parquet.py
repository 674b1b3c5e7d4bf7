"""samples.parquet: one row per scored sample, with the loss of every label token under every condition.

docs/report.md describes the columns. Rows are assembled and written in groups, so that memory does not grow with their
number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eyechart.files import atomic
from eyechart.reporting.results_folder import MEASUREMENT

if TYPE_CHECKING:
    from eyechart.scoring.summary import SampleScore
    from eyechart.scoring.word_pieces import Decode

_ROWS = 512
"""Number of rows in memory at a time, and in one row group of the file."""


@dataclass(frozen=True)
class SampleRows:
    """The content of samples.parquet."""

    scores: Sequence[SampleScore]
    """Scored samples in the order of the data file's rows."""
    decode: Decode | None = None
    """Converts label tokens to text; if it is None, the column `tokens` is empty."""

    @property
    def schema(self) -> pa.Schema:
        """Return the columns; the conditions are read from the first sample, because they are the same for all."""
        conditions = list(self.scores[0].nll) if len(self.scores) else []
        texts, numbers = pa.list_(pa.string()), pa.list_(pa.int64())
        return pa.schema(
            [
                ("id", pa.string()),
                ("row", pa.int64()),
                ("image", pa.string()),
                ("image_hash", pa.string()),
                ("caption", pa.string()),
                ("tokens", texts),
                ("token_ids", numbers),
                ("donors", numbers),
                *((f"nll_{name}", pa.list_(pa.float64())) for name in conditions),
            ]
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in groups of at most `_ROWS`."""
        schema = self.schema
        rows = [score.row for score in self.scores]
        for start in range(0, len(self.scores), _ROWS):
            part = [self._plain(score, rows) for score in self.scores[start : start + _ROWS]]
            yield pa.RecordBatch.from_pylist(part, schema)

    def _plain(self, score: SampleScore, rows: Sequence[int]) -> dict[str, object]:
        ids = score.label_ids_T.tolist()
        return {
            "id": score.id,
            "row": score.row,
            "image": score.image,
            "image_hash": score.image_hash,
            "caption": score.caption,
            "tokens": [self.decode([token]) for token in ids] if self.decode else None,
            "token_ids": ids,
            "donors": [rows[donor] for donor in score.donors],
            **{f"nll_{name}": np.mean(rounds, axis=0) for name, rounds in score.nll.items()},
        }


def write_samples(rows: SampleRows, path: Path, measurement: str | None = None) -> None:
    """Write the file atomically, with the id of the measurement in the metadata of its schema."""
    schema = rows.schema.with_metadata({MEASUREMENT: measurement}) if measurement else rows.schema
    with atomic(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in rows.batches():
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
