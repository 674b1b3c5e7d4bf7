"""Checks during training in other frameworks: `attach` and `Callback` for a Trainer, `watch` for any training loop."""
