"""The whole trial: train, check 1 and 2, captions one can look at, verdict."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from eyechart.reporting.contact_sheet import contact_sheet
from eyechart.reporting.output import Parts, assemble, write_results
from eyechart.reporting.parquet import SampleRows
from eyechart.results import Results
from eyechart.scoring.conditions import parse_conditions
from eyechart.scoring.samples import scored_samples
from qwen3_vlm.build import prepare_data
from qwen3_vlm.commands.audit import coverage_of_run
from qwen3_vlm.commands.captions import with_captions, write_captions
from qwen3_vlm.commands.diagnose import findings_of_score
from qwen3_vlm.commands.loaded import load
from qwen3_vlm.commands.scoring import score, training_of_run, vocabulary
from qwen3_vlm.config import Config
from qwen3_vlm.train.findings_log import read_findings
from qwen3_vlm.train.stage1_align import train

_SHEET_IMAGES = 24


def trial(
    config: Config,
    num_samples: int | None = None,
    conditions: str = "standard",
    resume: bool = False,
    overwrite: bool = False,
    as_json: bool = False,
    force: bool = False,
) -> Results:
    """Train as `config` says, judge the last checkpoint, and write captions of held-out images.

    Writes checkpoints, log.jsonl, split.json, config.yaml, results.json, runbook.md, samples.parquet and samples.png
    to `output_dir`.

    Raises:
        ValueError: bad input, one line.
        FaultsFoundError: the preflight or the training found a fault, and `force` is not set.
        NonFiniteError: training stopped on a non-finite value.
    """
    names = parse_conditions(conditions)
    # With --json, standard output belongs to the JSON alone.
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        checkpoint = train(config, resume, overwrite, force)
    loaded = load(checkpoint, config)
    prepared = prepare_data(config, checkpoint.parent / "split.json")
    ablation, scores = score(loaded, prepared, num_samples or config.ablation.num_samples, names, checkpoint)
    written = write_captions(loaded, prepared, _SHEET_IMAGES)
    folder = Path(config.output_dir)
    words = vocabulary(loaded)
    listed = scored_samples(scores, words)
    training = training_of_run(loaded, prepared, folder)
    results = assemble(
        config.model_dump(mode="json"),
        checkpoint,
        Parts(
            training,
            ablation,
            coverage_of_run(prepared, folder, loaded.step),
            written,
            findings_of_score(loaded, prepared, checkpoint, ablation, training, read_findings(folder)),
            with_captions(listed, loaded, prepared, config.ablation.gallery),
        ),
    )
    root = Path(config.data.image_root)
    contact_sheet([(root / w.image, w) for w in written], folder / "samples.png", f"{checkpoint}: {results.verdict}")
    write_results(results, folder, as_json, SampleRows(scores, words.decode))
    sys.stderr.write(f"look at {folder / 'samples.png'}\n")
    return results
