"""Reads data files into rows, images and token ids. Rows that cannot be used are returned with the reason."""
