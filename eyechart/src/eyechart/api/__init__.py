"""What a program calls, and what the commands call."""
