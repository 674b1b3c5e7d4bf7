"""Statistics and judgements: how sure a figure is, and what it decides."""
