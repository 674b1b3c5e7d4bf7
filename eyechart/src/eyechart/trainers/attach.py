"""`attach(trainer)` adds a callback to a trainer and gives it access to the trainer's trackers and evaluation data."""

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
    """Add checks, looks (quick measurements during training) and a final score to a trainer.

    Call this function once, before `trainer.train()`.

    Args:
        trainer: a transformers Trainer, or one of its subclasses such as TRL's SFTTrainer.
        rows: as in `Callback`; by default rows of the trainer's evaluation data set or, without one, its training data.
        processor: as in `Callback`.
        watching: as in `Callback`.
        folder: as in `Callback`.

    Returns:
        The callback. After training, its attributes `findings`, `looks` and `results` contain what was measured.

    Raises:
        ValueError: `trainer` has no method for adding callbacks.
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
