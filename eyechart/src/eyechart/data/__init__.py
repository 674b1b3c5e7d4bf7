"""Data files to rows, images and ids; what cannot be used, and why."""
