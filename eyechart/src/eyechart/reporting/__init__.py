"""All output for people: the terminal, the page and the runbook."""
