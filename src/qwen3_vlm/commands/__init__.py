"""The implementation of the commands, one file per command; the Python API uses the same functions."""
