"""Collates samples of stage 1 into a Batch and counts the numbers of check 2.

These are the percentages of truncated samples and of samples without label tokens, and the average number of label
tokens. The batching is that of eyechart (`eyechart.scoring.batching`), so that training, check 1 and check 2 count in
the same way.
"""

from eyechart.scoring.batching import LazyBatches, batches_by_length, collate
from eyechart.seam import CollateStats

__all__ = ["CollateStats", "LazyBatches", "batches_by_length", "collate"]
