"""Statistics and judgements: how certain each figure is, and which verdicts follow from the figures."""
