"""Statistics and judgements: the confidence of each figure, and the verdicts that follow from it."""
