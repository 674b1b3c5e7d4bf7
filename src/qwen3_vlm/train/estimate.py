"""Estimated cost of a run: disk and memory are computed from shapes, time is measured on the first updates."""

from __future__ import annotations

import torch

from eyechart.progress import duration
from qwen3_vlm.data.repeats import repeats_lines
from qwen3_vlm.train.disk import checkpoint_bytes, planned_saves, size_text
from qwen3_vlm.train.features import CachedDataset
from qwen3_vlm.train.loop import first_updates, peak_memory_gb
from qwen3_vlm.train.run import Run

TIMED_UPDATES = 5
_FLOATS_PER_TRAINED = 4
"""Number of float32 values per trained parameter: weight, gradient and AdamW's two running averages."""


def shape_lines(run: Run) -> list[str]:
    """Return readable lines about steps, disk and memory, which are known before the first update."""
    settings, samples = run.config.train, len(run.train_set)
    saves = planned_saves(settings, samples)
    trained = sum(p.numel() for p in run.vlm.connector.parameters())
    frozen = sum(p.numel() * p.element_size() for part in (run.vlm.tower, run.vlm.llm) for p in part.parameters())
    learning = trained * _FLOATS_PER_TRAINED * 4
    cached = [s.features_NPV for s in (run.train_set, run.eval_set) if isinstance(s, CachedDataset)]
    cache = sum(f.numel() * f.element_size() for f in cached)
    total = f"{size_text(frozen)} of frozen weights + {size_text(learning)} for the connector, its gradient and AdamW"
    return [
        *repeats_lines(run.prepared.split),
        f"steps: {saves.last:,} batches of {settings.batch_size} in {total_updates(run):,} updates, "
        f"ending in checkpoint_{saves.last}.pt",
        f"disk: {saves.kept:,} checkpoints of {size_text(checkpoint_bytes(trained))}",
        f"memory: {total}, and activations"
        + (f"; {size_text(cache)} of cached features in a temporary file" if cached else ""),
    ]


def time_line(run: Run) -> str:
    """Run the first updates and return a line with the estimated time of all updates.

    Nothing is written, but the updates change the connector. Only `--dry-run` may call this, because it ends here.
    """
    timed = first_updates(run, TIMED_UPDATES)
    # The first update is slower because it initialises kernels and caches.
    each = sum(timed[1:]) / len(timed[1:]) if len(timed) > 1 else timed[0]
    seconds = each * total_updates(run)
    where = "GPU" if torch.cuda.is_available() else "process"
    return (
        f"time: about {duration(seconds)} of training ({each:.3f} s an update, from {len(timed)} updates); the "
        f"{where}'s peak so far is {peak_memory_gb():.2f} GB"
    )


def total_updates(run: Run) -> int:
    """Return the number of optimizer updates in the whole run."""
    return run.config.train.epochs * len(run.plan(0))
