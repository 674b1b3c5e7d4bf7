"""Models of transformers brought to the seam."""
