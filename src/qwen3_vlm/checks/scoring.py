"""The scoring seam: all that check 1 knows of a model.

A vision-language model takes part by offering two methods; nothing under `checks` asks for more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from qwen3_vlm.batch import Batch, TokenNLL, VisualTokens


class Scorer(Protocol):
    """Encodes images once, then scores the same captions with whatever visual tokens it is given."""

    def encode(self, batch: Batch) -> VisualTokens:
        """Run tower and connector on the images of `batch`: one row of visual tokens per sample, in its order."""
        ...

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Score the label tokens of `batch`, teacher-forced, in nats.

        `batch` comes without pixels and `visual` lies on the CPU: moving it to the model's device is the scorer's
        part. `visual` None leaves the image block out of the sequence. The result must not depend on which other
        samples are in the batch.
        """
        ...


@runtime_checkable
class PairScorer(Protocol):
    """An optional further method: scores many captions behind few images without reading the image for each."""

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """What `nll(batch, visual.rows(images_B))` returns, for batches in which few images stand before many captions.

        A sample may occur in `batch` more than once. `images_B` holds its place in `visual` for every row of `batch`.
        """
        ...


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
