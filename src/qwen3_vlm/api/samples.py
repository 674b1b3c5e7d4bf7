"""The scored samples one by one: what the page shows of them, and samples.parquet with every token's loss."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from qwen3_vlm.api.loaded import Loaded
from qwen3_vlm.batch import IGNORE_INDEX, Sample
from qwen3_vlm.build import Prepared
from qwen3_vlm.checks.summary import SampleScore
from qwen3_vlm.report.choice import even_choice
from qwen3_vlm.results import ScoredSample, write_atomic

LISTED = 500
"""Samples listed in results.json at most; samples.parquet has them all."""


def scored_samples(scores: Sequence[SampleScore], limit: int = LISTED) -> list[ScoredSample]:
    """The samples from the most to the least image-driven, by gap(shuffled) per label token.

    Args:
        scores: every scored sample.
        limit: with more samples than this, an even choice over that order.

    Returns:
        Losses that are not finite are left out; samples without a finite gap come last. Without `shuffled` the order
        is that of the rows.
    """
    listed = sorted((_scored(score) for score in scores), key=lambda s: (-_gap(s), s.row))
    return [listed[i] for i in even_choice(len(listed), limit)]


def _scored(score: SampleScore) -> ScoredSample:
    sums = {name: float(np.mean([nll_T.sum() for nll_T in rounds])) for name, rounds in score.nll.items()}
    return ScoredSample(
        row=score.row,
        image=score.image,
        caption=score.caption,
        label_tokens=len(score.label_ids_T),
        losses={name: loss for name, loss in sums.items() if np.isfinite(loss)},
    )


def _gap(sample: ScoredSample) -> float:
    if "shuffled" not in sample.losses or "correct" not in sample.losses:
        return -np.inf
    return (sample.losses["shuffled"] - sample.losses["correct"]) / sample.label_tokens


def with_captions(scored: Sequence[ScoredSample], loaded: Loaded, prepared: Prepared, count: int) -> list[ScoredSample]:
    """Let the model write, greedily, for an even choice of `count` samples: those that the page shows."""
    position = {row: p for p, row in enumerate(prepared.eval.rows)}
    chosen, samples = [], []
    for i in even_choice(len(scored), count):
        item = prepared.eval[position[scored[i].row]]
        if isinstance(item, Sample):  # an image that was there for scoring can be gone by now: nothing is written then
            chosen.append(i)
            samples.append(item)
    written = dict(zip(chosen, captions_of(loaded, samples), strict=True))
    return [s.model_copy(update={"written": written[i]}) if i in written else s for i, s in enumerate(scored)]


def captions_of(loaded: Loaded, samples: Sequence[Sample]) -> list[str]:
    """Greedy captions of samples with pixels, each behind its own prompt, in order."""
    prompts = [torch.as_tensor(s.ids_T[s.labels_T == IGNORE_INDEX]) for s in samples]
    return loaded.write([s.pixels_CHW for s in samples if s.pixels_CHW is not None], prompts) if samples else []


def samples_table(scores: Sequence[SampleScore], tokenizer: Any) -> pa.Table:
    """One row per scored sample, in the order of the data file's rows; docs/report.md describes the columns.

    Args:
        scores: every scored sample.
        tokenizer: has `decode`, to say each label token as text.
    """
    rows = [score.row for score in scores]
    names = list(dict.fromkeys(name for score in scores for name in score.nll))
    texts = [[str(tokenizer.decode([int(i)])) for i in score.label_ids_T] for score in scores]
    columns: dict[str, pa.Array] = {
        "id": pa.array([score.id for score in scores], pa.string()),
        "row": pa.array(rows, pa.int64()),
        "image": pa.array([score.image for score in scores], pa.string()),
        "image_hash": pa.array([score.image_hash for score in scores], pa.string()),
        "caption": pa.array([score.caption for score in scores], pa.string()),
        "tokens": pa.array(texts, pa.list_(pa.string())),
        "token_ids": pa.array([score.label_ids_T.tolist() for score in scores], pa.list_(pa.int32())),
        "donors": pa.array([[rows[d] for d in score.donors] for score in scores], pa.list_(pa.int64())),
    }
    for name in names:
        averages = [np.mean(score.nll[name], axis=0) if name in score.nll else None for score in scores]
        columns[f"nll_{name}"] = pa.array(averages, pa.list_(pa.float64()))
    return pa.table(columns)


def write_samples(table: pa.Table, path: Path) -> None:
    """Write samples.parquet so that a reader never sees a part of it."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
