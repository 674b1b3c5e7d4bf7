"""All output that is read: the terminal, the page and the runbook."""
