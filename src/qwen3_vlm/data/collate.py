"""Collates training samples into a Batch, and counts what check 2 needs.

Check 2 reports the percentage of truncated samples, the percentage of samples without label tokens, and the average
number of label tokens per sample. All functions here are imported from eyechart (`eyechart.scoring.batching`).
Training, check 1 (which compares losses with and without the picture) and check 2 therefore count in the same way.
"""

from eyechart.scoring.batching import LazyBatches, batches_by_length, collate
from eyechart.seam import CollateStats

__all__ = ["CollateStats", "LazyBatches", "batches_by_length", "collate"]
