"""How scoring is shared by the processes of a job."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eyechart.exits import RankLostError


@dataclass(frozen=True)
class Ranks:
    """How the scoring is dealt out over the processes of a job; by default there is one, and it does everything.

    Every process ends with every result, so all of them judge alike.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    """Every process's value, in the order of ranks; called by all of them at the same points."""

    def mine(self, task: int) -> bool:
        """Whether this process does task number `task`."""
        return task % self.count == self.index

    def merge(self, done: dict[Any, Any]) -> dict[Any, Any]:
        """What all processes have done, by task."""
        return {task: result for part in self.gather(done) for task, result in part.items()}


def ranks_of_job() -> Ranks:
    """The processes that torchrun or a launcher started; one if there was no launcher.

    A process group that is there is used; without one it is made, from the environment that the launcher set.
    """
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1)):
        return Ranks()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("gloo")  # what is exchanged are objects, which lie on the CPU

    def gather(value: object) -> list[Any]:
        found: list[Any] = [None] * dist.get_world_size()
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as error:
            raise RankLostError(f"another process of this job of {len(found)} ended or was killed ({error})") from error
        return found

    return Ranks(dist.get_rank(), dist.get_world_size(), gather) if dist.get_world_size() > 1 else Ranks()
