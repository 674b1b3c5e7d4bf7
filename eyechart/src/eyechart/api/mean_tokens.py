"""Mean visual tokens of other rows, for the condition `mean-token`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from eyechart.api.source import Asked, Source
from eyechart.data.dataset import judge_rejects
from eyechart.progress import progress_bar
from eyechart.scoring.contract import encode
from eyechart.seam import Reject, Row, ScorerOfBatches
from eyechart.settings import ScoreSettings


def shared_images(wanted: Asked, averaged: Sequence[Row], train_file: Path) -> str:
    """What is wrong with training rows whose images are scored too: their mean has then seen what it is to miss."""
    images = {row.image for row in averaged}
    shared = len(images & {row.image for row in wanted.rows})
    same_file = wanted.file is not None and train_file.samefile(wanted.file)
    if not shared and not same_file:
        return ""
    file = "is the file of --data" if same_file else "has images of --data"
    return (
        f"--train_data {file}: {shared} of the {len(images)} images that mean-token averages are scored too; name "
        "rows that are not scored"
    )


@torch.no_grad()
def mean_tokens(
    scorer: ScorerOfBatches, rows: tuple[Sequence[Row], Sequence[Reject]], settings: ScoreSettings
) -> Tensor:
    """Mean visual tokens [Q,E] over the first images of `rows`.

    Raises:
        ValueError: too many of them, or all, cannot be read.
    """
    usable, rejects = rows
    chosen, size = usable[: settings.ablation.mean_token_images], settings.ablation.batch_size
    source = Source(scorer, Asked(tuple(chosen), None, (), len(chosen), None, None), size)
    total_QE, seen, unread = torch.zeros(()), 0, list(rejects)
    with progress_bar(len(chosen), "mean visual tokens", "image") as bar:
        for start in range(0, len(chosen), size):
            batch = source.read(chosen[start : start + size])
            unread += batch.rejects
            if len(batch):
                visual_BQE = encode(scorer, batch).layers[0].float()
                total_QE, seen = total_QE + visual_BQE.sum(0), seen + len(batch)
            bar.update(size)
    judge_rejects(unread, len(chosen) + len(rejects), settings.max_rejected, "training", "--max_rejected")
    if not seen:
        raise ValueError("--train_data: no image can be read; leave it out, or fix the file")
    return total_QE / seen
