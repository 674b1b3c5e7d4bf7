"""Checks during a training run of another stack: `attach` and `Callback` for Trainers, `watch` for any loop."""
