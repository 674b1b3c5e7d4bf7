"""Everything that a person reads: terminal, page, runbook."""
