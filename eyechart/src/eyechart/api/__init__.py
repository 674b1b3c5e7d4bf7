"""The functions that programs and the commands call."""
