"""Reads data files into rows, images and token ids; rows that cannot be used are returned with the reason."""
