"""Scores every condition on the same samples, and computes measures from the losses."""
