"""The implementation of the commands, one file each; the Python API uses the same functions."""
