"""Stage 1's samples to a Batch, with the counts of check 2 (% truncated, % without label tokens, average label tokens).

The batching itself is that of eyechart (`eyechart.scoring.batching`), so training, check 1 and check 2 count in the
same way.
"""

from eyechart.scoring.batching import LazyBatches, batches_by_length, collate
from eyechart.seam import CollateStats

__all__ = ["CollateStats", "LazyBatches", "batches_by_length", "collate"]
