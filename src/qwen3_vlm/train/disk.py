"""Disk space for the checkpoints of a run: whether all of them fit is checked before the first update.

    bytes of a checkpoint = 4 * trained parameters * (1 weight + 2 running averages of AdamW) + about 10 kB

A checkpoint does not contain the frozen backbones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from qwen3_vlm.config import TrainConfig
from qwen3_vlm.train.checkpoint import find_checkpoints, kept_steps, step_of

_BYTES_PER_PARAMETER = 4 * (1 + 2)
_LISTED = 1_000_000
"""Most saves that are listed one by one, which takes about a second. Runs have a few hundred; a mistyped number of
epochs can mean billions, which are only counted."""


def checkpoint_bytes(trained_parameters: int) -> int:
    """Return the size of one checkpoint file in bytes, without a few kB for config, log counts and headers."""
    return trained_parameters * _BYTES_PER_PARAMETER


def checkpoint_steps(train: TrainConfig, samples: int) -> list[int]:
    """Return the steps at which a run with this many training samples saves, in increasing order.

    The setting is `train.save_every`.
    """
    batches = -(-samples // train.batch_size)
    steps: set[int] = set()
    for start in range(0, train.epochs * batches, batches):
        if train.save_every:
            first = start // train.save_every + 1
            for step in range(first * train.save_every, start + batches + 1, train.save_every):
                windows = -(-(step - start) // train.accumulation)
                steps.add(start + min(windows * train.accumulation, batches))
        steps.add(start + batches)
    return sorted(steps)


@dataclass(frozen=True)
class Saves:
    """The checkpoints of a whole run."""

    last: int
    """The last step."""
    kept: int
    """Number of checkpoints that are kept; of a run with very many, the least number that they can be."""
    steps: tuple[int, ...] | None
    """The steps of those that are kept; None if they are too many to be listed."""


def planned_saves(train: TrainConfig, samples: int) -> Saves:
    """Return which checkpoints a run with this many training samples keeps."""
    batches = -(-samples // train.batch_size)
    last = train.epochs * batches
    saves = train.epochs * max(1, batches // (train.save_every or batches))
    if saves > _LISTED:
        kept = saves if train.keep_last is None else min(saves, train.keep_last)
        return Saves(last, kept, None)
    steps = kept_steps(checkpoint_steps(train, samples), train.keep_last, train.keep_every)
    return Saves(last, len(steps), tuple(steps))


def require_space(folder: Path, train: TrainConfig, samples: int, trained_parameters: int, overwrite: bool) -> None:
    """Check that the remaining checkpoints fit into the free disk space.

    Args:
        folder: the folder of the run; it need not exist yet.
        train: the settings for saving and keeping checkpoints.
        samples: number of samples in the training split.
        trained_parameters: number of trained parameters of the connector.
        overwrite: whether an earlier run in `folder` will be deleted first.

    Raises:
        ValueError: the checkpoints do not fit.
    """
    there = find_checkpoints(folder)
    wanted = planned_saves(train, samples)
    coming = wanted.kept
    if wanted.steps is not None and not overwrite:
        coming = len(set(wanted.steps) - {step_of(path) for path in there})
    # If old checkpoints are deleted, the new one is written first, so one more file has to fit.
    count = coming + (train.keep_last is not None and coming > 0)
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free + (sum(path.stat().st_size for path in there) if overwrite else 0)
    one = checkpoint_bytes(trained_parameters)
    if count * one > free:
        raise ValueError(
            f"output_dir {folder}: {count:,} checkpoints of {size_text(one)} need {size_text(count * one)}, "
            f"{size_text(free)} are free; free some space, name another output_dir, save less often "
            f"(train.save_every), keep fewer (train.keep_last) or train for fewer than {train.epochs:,} epochs"
        )


def size_text(count: float) -> str:
    """Format a number of bytes with a readable unit."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
