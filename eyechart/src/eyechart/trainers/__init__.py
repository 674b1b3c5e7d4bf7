"""The checks inside the training of another stack: `attach` and `Callback` for Trainers, `watch` for any loop."""
