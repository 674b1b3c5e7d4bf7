"""The table of faults, and the detectors that name a fault from the evidence about a run."""
