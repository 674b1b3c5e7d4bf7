"""All measurements of a checkpoint: the results of `trial` and `ablate`."""

from __future__ import annotations

from pathlib import Path

from eyechart.api.score import Measured
from eyechart.reporting.output import Parts, assemble
from eyechart.reporting.parquet import SampleRows
from eyechart.scoring.samples import scored_samples
from qwen3_vlm.build import Prepared
from qwen3_vlm.commands.captions import with_captions, write_captions
from qwen3_vlm.commands.coverage import coverage_of_run
from qwen3_vlm.commands.diagnosis import findings_of_score, named_failure
from qwen3_vlm.commands.loaded import Loaded
from qwen3_vlm.commands.scoring import score, training_of_run, vocabulary


def measure_run(
    loaded: Loaded,
    prepared: Prepared,
    checkpoint: Path,
    names: tuple[str, ...],
    num_samples: int | None,
    sheet: int = 0,
) -> Measured:
    """Measure check 1, check 2 (from the training log), the diagnosis, and captions of a checkpoint.

    Args:
        loaded: the checkpoint.
        prepared: the data of its run.
        checkpoint: the path of the checkpoint; the logs are in the same folder.
        names: names of the conditions, as returned by `parse_conditions`.
        num_samples: number of held-out samples to score; the config's `ablation.num_samples` if None.
        sheet: number of held-out images for which captions are written on the contact sheet.
    """
    config, folder = loaded.config, checkpoint.parent
    try:
        ablation, scores = score(loaded, prepared, num_samples or config.ablation.num_samples, names, checkpoint)
    except Exception as error:
        named = named_failure(error, prepared, loaded.vlm)
        if named is None:
            raise
        raise named from error
    written = write_captions(loaded, prepared, sheet) if sheet else []
    words, training = vocabulary(loaded), training_of_run(loaded, prepared, folder)
    parts = Parts(
        training,
        ablation,
        coverage_of_run(prepared, folder, loaded.step),
        written,
        findings_of_score(loaded, prepared, checkpoint, ablation),
        with_captions(scored_samples(scores, words), loaded, prepared, config.ablation.gallery),
    )
    results = assemble(config.model_dump(mode="json"), checkpoint, parts)
    return Measured(
        results.model_copy(update={"judged_by": loaded.judged_by, "run": loaded.payload.get("run")}),
        SampleRows(scores, words.decode),
    )
