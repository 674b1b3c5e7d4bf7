"""Stage 1's samples to a Batch, with the counts of check 2 (% truncated, % without label tokens, average label tokens).

The batching itself is the instrument's (`eyechart.scoring.batching`): training, check 1 and check 2 count alike.
"""

from eyechart.scoring.batching import LazyBatches, batches_by_length, collate
from eyechart.seam import CollateStats

__all__ = ["CollateStats", "LazyBatches", "batches_by_length", "collate"]
