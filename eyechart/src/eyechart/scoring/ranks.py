"""Distributes scoring among the processes of a job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from eyechart.exits import RankLostError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """How scoring is distributed among the processes of a job; by default there is one process, which does everything.

    In the end every process has every result, so that all of them give the same verdict.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    """Returns the values of all processes in the order of ranks; all processes must call it at the same points."""

    def mine(self, task: int) -> bool:
        """Return whether this process does task number `task`."""
        return task % self.count == self.index

    def merge(self, done: dict[Any, Any]) -> dict[Any, Any]:
        """Return the results of all processes, by task."""
        return {task: result for part in self.gather(done) for task, result in part.items()}


def nothing() -> None:
    """Do nothing: the action of a process that is not the first."""


def on_first(ranks: Ranks, action: Callable[[], object]) -> None:
    """Carry out an action on the first process, while the others wait; if it refuses its input, all of them refuse.

    Raises:
        ValueError: the action raised it; on other processes, a ValueError with the same message.
    """
    refusal: Exception | None = None
    if ranks.index == 0:
        try:
            action()
        except (ValueError, OSError) as error:
            refusal = error
    said = ranks.gather(refusal and str(refusal))[0]
    if refusal is not None:
        raise refusal
    if said is not None:
        raise ValueError(said)


@contextmanager
def held_by_first(ranks: Ranks, block: Callable[[], AbstractContextManager[T]]) -> Iterator[T | None]:
    """Enter a block on the first process of a job, for example to hold the lock of a folder for all of them.

    Args:
        ranks: the processes of the job; all of them must call this.
        block: makes the block.

    Yields:
        What the block yields; None on other processes.

    Raises:
        ValueError: the first process cannot enter the block; all processes raise this.
    """
    entered: list[T] = []
    with ExitStack() as stack:
        on_first(ranks, lambda: entered.append(stack.enter_context(block())))
        yield entered[0] if entered else None


def exit_code(ranks: Ranks, code: int) -> int:
    """Wait for all processes of a job, and return the exit code of this one: only the first returns that of a verdict.

    A launcher ends a job when one process ends with another code than 0. If the others returned the verdict too, they
    could end the first one while it writes the results.
    """
    ranks.gather(None)
    disconnect()
    return code if ranks.index == 0 else 0


def disconnect() -> None:
    """Disconnect the processes of a job, which all have to call this."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def ranks_of_job() -> Ranks:
    """Return the processes that torchrun or another launcher started; only this one if there was no launcher.

    An existing process group is used; otherwise one is made from the environment variables set by the launcher.
    """
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1)):
        return Ranks()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("gloo")  # the exchanged objects are on the CPU

    def gather(value: object) -> list[Any]:
        found: list[Any] = [None] * dist.get_world_size()
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as error:
            raise RankLostError(f"another process of this job of {len(found)} ended or was killed ({error})") from error
        return found

    return Ranks(dist.get_rank(), dist.get_world_size(), gather) if dist.get_world_size() > 1 else Ranks()
