"""Writes captions of held-out pictures with a trained connector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch

from eyechart.data.choice import even_choice
from eyechart.results import ScoredSample, WrittenCaption
from eyechart.seam import IGNORE_INDEX, Sample
from qwen3_vlm.build import Prepared
from qwen3_vlm.commands.loaded import Loaded


def with_captions(scored: Sequence[ScoredSample], loaded: Loaded, prepared: Prepared, count: int) -> list[ScoredSample]:
    """Add greedy captions by the model to `count` evenly spaced samples, which the page shows."""
    position = {row: p for p, row in enumerate(prepared.eval.rows)}
    chosen, samples = [], []
    for i in even_choice(len(scored), count):
        item = prepared.eval[position[scored[i].row]]
        if isinstance(item, Sample):  # no caption if the image was deleted after scoring
            chosen.append(i)
            samples.append(item)
    written = dict(zip(chosen, captions_of(loaded, samples), strict=True))
    return [s.model_copy(update={"written": written[i]}) if i in written else s for i, s in enumerate(scored)]


def captions_of(loaded: Loaded, samples: Sequence[Sample]) -> list[str]:
    """Return greedy captions of samples with pixels, each after its own prompt, in the order of the samples."""
    prompts = [torch.as_tensor(s.ids_T[s.labels_T == IGNORE_INDEX]) for s in samples]
    return loaded.write([s.pixels_CHW for s in samples if s.pixels_CHW is not None], prompts) if samples else []


def write_captions(loaded: Loaded, prepared: Prepared, count: int) -> list[WrittenCaption]:
    """Return greedy captions of the first `count` readable held-out images, each after its own prompt."""
    items = (prepared.eval[p] for p in range(len(prepared.eval)))
    samples = list(islice((item for item in items if isinstance(item, Sample)), count))
    texts = captions_of(loaded, samples)
    return [
        WrittenCaption(row=s.row, image=s.image, true=s.caption, written=t) for s, t in zip(samples, texts, strict=True)
    ]
