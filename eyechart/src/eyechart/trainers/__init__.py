"""The checks inside a training that somebody else runs: `attach` and `Callback` for Trainers, `watch` for any loop."""
