"""Defines the three parts (frozen vision tower, trained connector, frozen language model) and the whole model."""
