"""Check 1 on a checkpoint: the held-out split, the model and the training log brought to the pure checks."""

from __future__ import annotations

from pathlib import Path

from eyechart.api.score import Measured
from eyechart.api.score import score as score_model
from eyechart.reporting.output import Parts, assemble
from eyechart.reporting.parquet import SampleRows
from eyechart.results import Results
from eyechart.scoring.conditions import parse_conditions
from eyechart.scoring.samples import scored_samples
from eyechart.settings import ScoreSettings
from qwen3_vlm.build import prepare_data
from qwen3_vlm.commands.audit import coverage_of_run
from qwen3_vlm.commands.captions import with_captions
from qwen3_vlm.commands.diagnose import findings_of_score
from qwen3_vlm.commands.loaded import load
from qwen3_vlm.commands.scoring import score, training_of_run, vocabulary
from qwen3_vlm.config import Config
from qwen3_vlm.train.findings_log import read_findings


def ablate(
    checkpoint: str | Path,
    config: Config | None = None,
    num_samples: int | None = None,
    conditions: str = "standard",
) -> Results:
    """Check 1 on a checkpoint's held-out split, with check 2 from the training log beside it.

    Args:
        checkpoint: a `checkpoint_<step>.pt`.
        config: the run's config; by default the one stored in the checkpoint.
        num_samples: held-out samples to score; the config's `ablation.num_samples` if None.
        conditions: `runbook`, `standard`, `full`, or names separated by commas.

    Returns:
        The results, with verdict; nothing but the mean visual tokens and the blind prompt is written.

    Raises:
        ValueError: bad input, one line.
    """
    return measure(checkpoint, config, num_samples, conditions).results


def measure(
    checkpoint: str | Path,
    config: Config | None = None,
    num_samples: int | None = None,
    conditions: str = "standard",
) -> Measured:
    """As `ablate`, with every sample's per-token losses."""
    path = Path(checkpoint)
    names = parse_conditions(conditions)
    loaded = load(path, config)
    prepared = prepare_data(loaded.config, path.parent / "split.json")
    ablation, scores = score(loaded, prepared, num_samples or loaded.config.ablation.num_samples, names, path)
    words = vocabulary(loaded)
    listed = scored_samples(scores, words)
    training = training_of_run(loaded, prepared, path.parent)
    known = [*loaded.findings, *read_findings(path.parent)]
    results = assemble(
        loaded.config.model_dump(mode="json"),
        path,
        Parts(
            training,
            ablation,
            coverage_of_run(prepared, path.parent, loaded.step),
            diagnosis=findings_of_score(loaded, prepared, path, ablation, training, known),
            scored=with_captions(listed, loaded, prepared, loaded.config.ablation.gallery),
        ),
    )
    return Measured(results, SampleRows(scores, words.decode))


def ablate_model(
    model: str | Path,
    data: str | Path,
    image_root: str | Path,
    num_samples: int | None = None,
    conditions: str = "standard",
    train_data: str | Path | None = None,
    prompt: str | None = None,
    image_size: int | None = None,
    settings: ScoreSettings | None = None,
) -> Results:
    """Check 1 on an image-text-to-text model of transformers: `eyechart.score`, under the name it had here.

    Args:
        model: folder in save_pretrained layout, or hub id.
        data: rows that the model has not been trained on.
        image_root: folder that the rows' image paths are relative to.
        num_samples: rows to score, drawn by seed; the settings' number if None.
        conditions: `runbook`, `standard`, `full`, or names separated by commas.
        train_data: rows whose images make the mean of `mean-token`; without it that condition is left out.
        prompt: human turn with one `<image>` in place of each row's own.
        image_size: pixels of both sides of every image; the processor's own size if None.
        settings: how it is loaded and scored; the defaults if None.

    Raises:
        ValueError: bad input, or a model that fails a self-test; one line.
    """
    given = {"train_data": None if train_data is None else str(train_data), "prompt": prompt, "image_size": image_size}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = (settings or ScoreSettings()).model_copy(update=changes)
    return score_model(model, data, conditions, num_samples, image_root, settings)
