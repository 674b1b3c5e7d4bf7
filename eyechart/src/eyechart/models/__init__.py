"""Adapts transformers models to the scoring interface."""
