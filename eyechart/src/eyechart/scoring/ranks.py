"""Distributes scoring among the processes of a job."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eyechart.exits import RankLostError


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
