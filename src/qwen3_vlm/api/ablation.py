"""Check 1 on a checkpoint: the held-out split, the model and the training log brought to the pure checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwen3_vlm.api.coverage import coverage_of_run
from qwen3_vlm.api.diagnose import findings_of_score
from qwen3_vlm.api.loaded import load
from qwen3_vlm.api.output import assemble
from qwen3_vlm.api.parquet import SampleRows
from qwen3_vlm.api.samples import decoder, scored_samples, with_captions
from qwen3_vlm.api.scoring import score, training_of_run
from qwen3_vlm.build import prepare_data
from qwen3_vlm.checks.conditions import parse_conditions
from qwen3_vlm.config import Config
from qwen3_vlm.results import Results
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


@dataclass(frozen=True)
class Measured:
    """What check 1 leaves to be written."""

    results: Results
    samples: SampleRows
    """The content of samples.parquet."""


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
    decode = decoder(loaded.inputs.tokenizer)
    listed = scored_samples(scores, decode, loaded.inputs.prompts.ids.eos)
    training = training_of_run(loaded, prepared, path.parent)
    known = [*loaded.findings, *read_findings(path.parent)]
    results = assemble(
        loaded.config,
        path,
        training,
        ablation,
        coverage_of_run(prepared, path.parent, loaded.step),
        diagnosis=findings_of_score(loaded, prepared, path, ablation, training, known),
        scored=with_captions(listed, loaded, prepared, loaded.config.ablation.gallery),
    )
    return Measured(results, SampleRows(scores, decode))
