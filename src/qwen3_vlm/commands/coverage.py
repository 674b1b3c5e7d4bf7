"""Runs check 2 (truncated captions) on a run's data: from the training log, or over a whole split without training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

from eyechart.data.dataset import Dataset, count_rejects, judge_rejects
from eyechart.data.encoded import IMAGE_CUT
from eyechart.progress import progress_bar, say
from eyechart.results import Coverage
from eyechart.seam import CollateStats, Reject, Sample
from eyechart.verdict.coverage import Counted, judge_coverage
from qwen3_vlm.build import Prepared
from qwen3_vlm.data.repeats import repeats_lines
from qwen3_vlm.train.train_utils import read_records_of_run

_CHUNK = 64


def audit_prepared(prepared: Prepared, split: Literal["train", "eval"], text_only: bool) -> Coverage:
    """Run check 2 in the same way as `audit`, on data that has already been prepared."""
    dataset: Dataset = getattr(prepared, split)
    stats, rejects = CollateStats(), list(prepared.rejects[split])
    with progress_bar(len(dataset), f"audit of {split}", "sample") as bar:
        for start in range(0, len(dataset), _CHUNK):
            positions = range(start, min(start + _CHUNK, len(dataset)))
            items: list[Sample | Reject] = [dataset.text(p) if text_only else dataset[p] for p in positions]
            rejects += [item for item in items if isinstance(item, Reject)]
            stats = stats + CollateStats.of([item for item in items if isinstance(item, Sample)])
            bar.update(len(items))
    rows, label = getattr(prepared.split, split), "training" if split == "train" else "held-out"
    judge_rejects(rejects, len(rows), prepared.config.data.max_rejected, label)
    for line in repeats_lines(prepared.split) if split == "train" else ():
        say(line)
    counted = _counted(prepared, dataset, stats, count_rejects(tuple(rejects)))
    return _judge(prepared, replace(counted, split=split, images_opened=not text_only))


def coverage_of_run(prepared: Prepared, folder: Path, step: int) -> Coverage:
    """Return the result of check 2 from the training log, for the last epoch up to `step`.

    If the log has no such epoch, the samples are counted again, from their text alone.
    """
    records = [r for r in read_records_of_run(folder) if r.step <= step]
    if not records:
        return audit_prepared(prepared, "train", text_only=True)
    last = records[-1]
    stats = CollateStats(
        samples=last.samples,
        truncated=last.truncated,
        zero_label=last.zero_label,
        label_tokens=last.label_tokens,
        lengths=Counter(last.lengths),
    )
    counted = _counted(prepared, prepared.train, stats, last.rejected)
    return _judge(prepared, replace(counted, source="training", split="train", epoch=last.epoch))


def _counted(prepared: Prepared, dataset: Dataset, stats: CollateStats, rejected: dict[str, int]) -> Counted:
    return Counted(
        source="audit",
        stats=stats,
        max_seq_len=prepared.config.data.max_seq_len,
        block_tokens=prepared.config.image_block_tokens,
        wrapper_tokens=dataset.wrapper_tokens,
        rejected=rejected,
        image_cut=rejected.get(IMAGE_CUT, 0),
    )


def _judge(prepared: Prepared, counted: Counted) -> Coverage:
    return judge_coverage(counted, prepared.config.coverage)
