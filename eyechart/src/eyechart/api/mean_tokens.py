"""Computes the mean visual tokens of other rows, for the condition `mean-token`.

In this condition, the mean visual tokens replace those of the right picture.

Dimension suffixes: Q visual tokens of an image, E width of the language model's embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from eyechart.api.source import Asked, Source
from eyechart.data.dataset import judge_rejects
from eyechart.progress import SilentBar, progress_bar
from eyechart.results import Remark, RemarkCode
from eyechart.scoring.mean_tokens import mean_tokens
from eyechart.seam import Batch, Reject, Row, ScorerOfBatches
from eyechart.settings import ScoreSettings


def shared_images(wanted: Asked, averaged: Sequence[Row], train_file: Path) -> list[Remark]:
    """Return a remark if scored images are averaged too, or come from the same file; otherwise an empty list.

    Args:
        wanted: the rows to score.
        averaged: the rows whose images are averaged.
        train_file: the file that the averaged rows were read from.
    """
    images = {row.image for row in averaged}
    shared = len(images & {row.image for row in wanted.rows})
    same_file = wanted.file is not None and train_file.resolve() == wanted.file.resolve()
    if not shared and not same_file:
        return []
    code: RemarkCode = "mean-of-the-scored-file" if same_file else "mean-has-seen-scored-images"
    return [Remark(code=code, about="mean-token", figures={"shared": shared, "images": len(images)})]


def mean_over_batches(scorer: ScorerOfBatches, batches: Sequence[Batch]) -> Tensor | None:
    """Return the mean visual tokens [Q,E] over all images of the batches.

    The result is None if there is no image, or if the images differ in their number of visual tokens or their grid.
    """
    pictured = [batch.rows([p for p, s in enumerate(batch.samples) if s.has_image]) for batch in batches]
    grids = {sample.grid for batch in pictured for sample in batch.samples}
    return mean_tokens(scorer, pictured, SilentBar())[0] if len(grids) == 1 else None


def mean_over_rows(
    scorer: ScorerOfBatches, rows: tuple[Sequence[Row], Sequence[Reject]], settings: ScoreSettings
) -> Tensor:
    """Return the mean visual tokens [Q,E] over the images of the first `settings.ablation.mean_token_images` rows.

    Args:
        scorer: the model, adapted to the scoring interface.
        rows: the usable rows, and the rows that were rejected when they were read.
        settings: the settings, of which batch size, number of images and `max_rejected` are used.

    Raises:
        ValueError: all of the images cannot be read, or a larger share than `settings.max_rejected`.
    """
    usable, rejects = rows
    chosen, size = usable[: settings.ablation.mean_token_images], settings.ablation.batch_size
    source = Source(scorer, Asked(tuple(chosen), None, (), len(chosen), None, None), size)
    batches = (source.read(chosen[start : start + size]) for start in range(0, len(chosen), size))
    with progress_bar(len(chosen), "mean visual tokens", "image") as bar:
        mean_QE, unread = mean_tokens(scorer, batches, bar)
    judge_rejects([*rejects, *unread], len(chosen) + len(rejects), settings.max_rejected, "training", "--max_rejected")
    if mean_QE is None:
        raise ValueError("--train_data: no image can be read; leave it out, or fix the file")
    return mean_QE
