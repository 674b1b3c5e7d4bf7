"""Adapts models of the transformers library to the scoring interface (`eyechart.seam`)."""
