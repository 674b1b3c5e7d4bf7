"""`attach(trainer)` adds the callback to a trainer object, so that it can use its trackers and evaluation data."""

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
        The callback. After the training, its attributes `findings`, `looks` and `results` are filled.

    Raises:
        ValueError: the object has no method to add callbacks.
    """
    add = getattr(trainer, "add_callback", None)
    if add is None:
        raise ValueError(
            f"attach: expected a transformers Trainer, {type(trainer).__name__} has no add_callback; "
            "use eyechart.watch(model) in a custom training loop"
        )
    callback = Callback(rows, processor, watching, folder).of(trainer)
    add(callback)
    return callback
