"""Everything that a person reads: the terminal output, the page and the runbook."""
