"""The table of known faults, and the detectors that find them in the evidence about a training or scoring run."""
