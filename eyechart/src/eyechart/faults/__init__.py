"""Which fault, from which evidence: the table of faults, and the detectors."""
