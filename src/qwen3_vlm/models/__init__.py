"""Frozen tower, trained connector, frozen language model, and the three composed."""
