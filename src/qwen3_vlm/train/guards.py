"""Reports external causes that stop a run in one line: signals, lack of memory, processes that end unexpectedly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator

from eyechart import signals
from eyechart.exits import RankLostError
from eyechart.progress import say

Stage = Literal["loading", "caching", "training", "evaluating"]


@dataclass(frozen=True)
class Sizes:
    """The settings that determine how much memory a run needs."""

    precision: str
    """The setting model.precision."""
    micro: int
    """Number of samples per forward pass in training."""
    scored: int
    """Number of samples per forward pass in scoring, from ablation.batch_size."""
    max_seq_len: int
    """Largest number of tokens per sequence."""


class Interrupt:
    """Whether a signal has asked this process to stop: Ctrl-C, or TERM and HUP, which machines and terminals send."""

    def __init__(self) -> None:
        """Start without a requested stop."""
        self.asked = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handle signals. The first makes the run finish its update, save and stop; the second stops it at once."""

        def note(number: int) -> None:
            if self.asked:
                signals.stop(number)
            self.asked = True
            say("interrupt: finishing this update, then saving (again to stop at once)")

        with signals.on_signal(note):
            yield


@contextmanager
def memory_explained(sizes: Sizes, stage: Stage) -> Iterator[None]:
    """If memory runs out, report which setting to change.

    Raises:
        ValueError: memory ran out; this replaces the original error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # PyTorch's CPU allocator has no separate exception class.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ValueError(f"out of memory while {stage} ({first}): {_what_would_fit(sizes, stage)}") from error


def _what_would_fit(sizes: Sizes, stage: Stage) -> str:
    smaller = "set model.precision to bf16, which halves the frozen weights" if sizes.precision == "fp32" else ""
    if stage == "loading":
        return smaller or "the frozen weights alone do not fit; use a device with more memory or smaller backbones"
    if stage == "caching":
        return "set data.cache_features to off; the tower then runs on train.micro_batch_size images at a time"
    if stage == "evaluating" and sizes.scored > 1:
        return f"set ablation.batch_size to {sizes.scored // 2}; results do not depend on it"
    if stage == "training" and sizes.micro > 1:
        return (
            f"set train.micro_batch_size to {sizes.micro // 2} (it is {sizes.micro}), which needs about half the "
            "activations and changes neither the gradient nor the steps; then continue with --resume"
        )
    return " or ".join(filter(None, (smaller, f"lower data.max_seq_len (it is {sizes.max_seq_len})")))


@contextmanager
def ranks_watched(accelerator: Accelerator) -> Iterator[None]:
    """Replace the communication errors that follow the end of another process by a one-line error.

    Raises:
        RankLostError: another process of this job ended or was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _is_communication(error):
            raise
        raise RankLostError(
            f"another process of this job of {accelerator.num_processes} ended or was killed; the launcher names it. "
            "Continue from the newest checkpoint with the same command and --resume"
        ) from error


def _is_communication(error: RuntimeError) -> bool:
    # Backends raise plain RuntimeErrors, so only their text identifies them.
    named = any(word in str(error).lower() for word in ("gloo", "nccl", "connection", "process group", "socket"))
    return isinstance(error, torch.distributed.DistError) or named
