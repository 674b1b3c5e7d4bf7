"""The scoring seam: all that check 1 knows of a model.

A vision-language model takes part by offering two methods; nothing under `checks` asks for more.
"""

from __future__ import annotations

from typing import Protocol

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
