"""`eyechart check`: finds faults of a model, given by name, with one batch and a few forward passes."""

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
"""The number of rows that are checked by default."""


def check_named(
    model: str | Path,
    rows: str | Path,
    num_samples: int = ROWS,
    image_root: str | Path | None = None,
    settings: ScoreSettings | None = None,
) -> BatchCheck:
    """Check a model, given by name, on a few rows that its own processor and chat template convert.

    The function runs `check_batch` on one batch of the rows, and `check_model` on the model and this batch. No rows are
    scored, so the checks only take seconds. The batch has no labels, because labels are chosen by a trainer.

    Args:
        model: the folder or hub id of an image-text-to-text model of transformers.
        rows: a data file or folder, in any layout that `read_rows` supports.
        num_samples: the number of rows to check. They are drawn at random with the seed of the settings.
        image_root: the folder that the rows' image paths are relative to; if None, the data file's folder.
        settings: the settings, of which device, precision, prompt and seed are used.

    Returns:
        The findings of both checks, the most likely cause first, and figures of the batch.

    Raises:
        ValueError: the model, a row or an image cannot be used; the message is one line.
    """
    # These modules are imported here because transformers takes seconds to load.
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
    live = loaded.scorer.model.requires_grad_(False)  # only a trainer decides which parameters are trainable
    checked = check_batch(batch, loaded.processor, live)
    with foreign_code(f"MODEL: a forward pass of {model} fails", "try another version of transformers"):
        found = check_model(live, batch, loaded.processor)
    known = {finding.code for finding in found}
    return dataclasses.replace(
        checked, findings=rank([*found, *(finding for finding in checked if finding.code not in known)])
    )
