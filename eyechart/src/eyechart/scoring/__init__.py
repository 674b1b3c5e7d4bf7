"""Scores a model on the same samples with and without the right picture, and computes measures from the losses."""
