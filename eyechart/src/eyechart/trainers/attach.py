"""`attach(trainer)`: the callback of a trainer that is at hand, with its trackers and its evaluation data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyechart.trainers.callback import Callback, Watching


def attach(
    trainer: Any,
    rows: Any = None,
    processor: Any = None,
    watching: Watching | None = None,
    folder: str | Path | None = None,
) -> Callback:
    """Add checks, looks and a final score to a trainer; call it once, before `trainer.train()`.

    Args:
        trainer: a transformers Trainer, or one of its subclasses such as TRL's SFTTrainer.
        rows: as in `Callback`; by default the trainer's evaluation data set, or rows of its training data.
        processor: as in `Callback`.
        watching: as in `Callback`.
        folder: as in `Callback`.

    Returns:
        The callback, which holds the findings, looks and results after the training.

    Raises:
        ValueError: the object takes no callbacks.
    """
    add = getattr(trainer, "add_callback", None)
    if add is None:
        raise ValueError(
            f"attach: expected a transformers Trainer, {type(trainer).__name__} has no add_callback; "
            "use eyechart.watch(model) in a training loop of your own"
        )
    callback = Callback(rows, processor, watching, folder).of(trainer)
    add(callback)
    return callback
