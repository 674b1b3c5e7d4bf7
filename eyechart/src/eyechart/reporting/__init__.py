"""Writes everything that is read by a person: the terminal output, the page report.html and the runbook."""
