"""Readable output: the terminal, the page and the runbook."""
