"""`eyechart check`: the faults that one batch and a few forward passes show in a model given by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from eyechart.api.check_batch import BatchCheck, check_batch
from eyechart.api.check_model import check_model
from eyechart.api.source import asked
from eyechart.exits import InputError, foreign_code
from eyechart.faults.table import rank
from eyechart.settings import ScoreSettings

ROWS = 4
"""Number of rows that are checked by default."""


def check_named(
    model: str | Path,
    rows: str | Path,
    num_samples: int = ROWS,
    image_root: str | Path | None = None,
    settings: ScoreSettings | None = None,
) -> BatchCheck:
    """Check a model given by name on a few rows, converted by its own processor and chat template.

    It runs `check_batch` on a batch of the rows, and `check_model` on model and batch. No rows are scored, so this
    takes seconds. The batch has no labels, because a trainer chooses these.

    Args:
        model: the folder or hub id of a transformers image-text-to-text model.
        rows: data file or folder, in any layout that `read_rows` knows.
        num_samples: number of rows, drawn by seed.
        image_root: folder that the rows' image paths are relative to; None uses the data file's folder.
        settings: device, precision, prompt and seed.

    Returns:
        The findings of both checks, the most likely cause first, with figures of the batch.

    Raises:
        ValueError: the model, a row or an image cannot be used; the message is one line.
    """
    # Imported where they are used: transformers takes seconds to load.
    from eyechart.models.loading import load_model
    from eyechart.models.row_batches import batches_of_rows

    settings = settings or ScoreSettings()
    wanted = asked(rows, num_samples, image_root, settings)
    if not wanted.rows:
        reason = f": {wanted.rejects[0].reason}: {wanted.rejects[0].detail}" if wanted.rejects else ""
        raise InputError(f"--data: none of the {num_samples} rows drawn can be used{reason}", "see `eyechart rows`")
    loaded = load_model(str(model), settings)
    together = settings.model_copy(
        update={"ablation": settings.ablation.model_copy(update={"batch_size": num_samples})}
    )
    with foreign_code(f"MODEL: the processor of {model} fails on the rows", "try other rows, or another model"):
        (batch,) = batches_of_rows(wanted.rows, loaded.processor, together)
    live = loaded.scorer.model.requires_grad_(False)  # a trainer chooses what is trainable
    checked = check_batch(batch, loaded.processor, live)
    with foreign_code(f"MODEL: a forward pass of {model} fails", "try another version of transformers"):
        found = check_model(live, batch, loaded.processor)
    known = {finding.code for finding in found}
    return dataclasses.replace(
        checked, findings=rank([*found, *(finding for finding in checked if finding.code not in known)])
    )
