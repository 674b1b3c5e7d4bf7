"""Adapters of transformers models to the scoring interface."""
