"""Pure checks: they see records, tensors and the scoring seam, never our model."""
