"""Scoring of every condition on the same samples: losses, and the measures computed from them."""
