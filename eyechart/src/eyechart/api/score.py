"""Check 1 on any image-text-to-text model of transformers, with the verdict and the page of our own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from eyechart.data.choice import draw_rows, even_choice
from eyechart.data.dataset import count_rejects, judge_rejects
from eyechart.data.encoded import IMAGE_CUT
from eyechart.data.llava import count_rows
from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.faults.probes import probe
from eyechart.models.loading import Foreign, load_foreign
from eyechart.models.rows import ForeignRows, first_samples, read_rows
from eyechart.models.selftests import refuse_unfit
from eyechart.models.writing import write_captions
from eyechart.progress import progress_bar
from eyechart.reporting.output import assemble
from eyechart.reporting.parquet import SampleRows
from eyechart.results import Ablation, Coverage, Finding, Results, ScoredSample
from eyechart.scoring.ablation import ablate as run_ablation
from eyechart.scoring.batching import LazyBatches, collate
from eyechart.scoring.conditions import named_conditions
from eyechart.scoring.mean_tokens import mean_tokens as average
from eyechart.scoring.measures import with_measures
from eyechart.scoring.ranks import ranks_of_job
from eyechart.scoring.samples import decoder, scored_samples
from eyechart.seam import CollateStats, Sample
from eyechart.settings import ScoreSettings
from eyechart.verdict.coverage import judge_coverage

_TESTED = 2
"""Samples on which the self-tests run: with two, mixed-up rows show."""
_PROBED = 4
"""Samples that are tried where a model does not pass."""
_NOT_HERE = {
    "blind": "it needs a prompt trained through a model of our own",
    "donors": "donors by likeness need the features of our own vision tower; matching goes without",
}
"""What no model of transformers gets, and why."""


@dataclass(frozen=True)
class Measured:
    """What check 1 leaves to be written."""

    results: Results
    samples: SampleRows
    """The content of samples.parquet."""


def ablate_model(
    model: str | Path,
    data: str | Path,
    image_root: str | Path,
    num_samples: int | None = None,
    conditions: str = "standard",
    train_data: str | Path | None = None,
    settings: ScoreSettings | None = None,
) -> Results:
    """Check 1 on an image-text-to-text model of transformers.

    Args:
        model: folder in save_pretrained layout, or hub id.
        data: rows in LLaVA-Pretrain layout that the model has not been trained on.
        image_root: folder that the rows' image paths are relative to.
        num_samples: rows to score, drawn by seed; `settings.ablation.num_samples` if None.
        conditions: `runbook`, `standard`, `full`, or names separated by commas. What cannot be had is left out, with
            the reason in `ablation.wording`; a list of which nothing can be had is refused.
        train_data: rows whose images make the mean of `mean-token`; without it that condition is left out.
        settings: device, precision, seed, prompt, margins.

    Returns:
        The results, with verdict; nothing is written.

    Raises:
        ValueError: bad input, or a model that fails a self-test; one line.
    """
    return measure_model(model, data, image_root, num_samples, conditions, train_data, settings).results


def measure_model(
    model: str | Path,
    data: str | Path,
    image_root: str | Path,
    num_samples: int | None = None,
    conditions: str = "standard",
    train_data: str | Path | None = None,
    settings: ScoreSettings | None = None,
) -> Measured:
    """As `ablate_model`, with every sample's per-token losses."""
    settings = settings or ScoreSettings()
    names = named_conditions(conditions)
    file, root, train_file = Path(data), Path(image_root), Path(train_data) if train_data is not None else None
    _require(file, root, train_file)
    _left_out(names, train_file)  # before the weights are loaded; how deep visual tokens go is known behind that
    requested = num_samples or settings.ablation.num_samples
    asked = draw_rows(count_rows(file), settings.seed)[:requested]
    foreign = load_foreign(str(model), settings)
    left_out = _left_out(names, train_file, foreign.scorer.layers)
    names = tuple(name for name in names if name not in left_out)
    rows = read_rows(foreign, file, root, asked, settings.prompt, settings.max_pixels)
    wording = foreign.describe() | self_test(foreign, rows) | left_out
    ranks, mean = ranks_of_job(), None
    if "mean-token" in names and train_file is not None:
        lenders = read_rows(foreign, train_file, root, None, settings.prompt, settings.max_pixels)
        warning = _shared(rows, lenders, settings.ablation.mean_token_images, train_file.samefile(file))
        wording |= {"mean-token": warning} if warning else {}
        if warning and ranks.index == 0:
            sys.stderr.write(f"warning: {warning}\n")
        mean = mean_tokens(foreign, lenders, settings)
    ablation, scores = run_ablation(
        foreign.scorer,
        rows.batches(settings.ablation.batch_size),
        settings.ablation,
        settings.seed,
        names,
        mean_tokens=mean,
        requested=len(asked),  # what the file lacks beside them is said by `_as_requested`
        eos_id=foreign.prompts.ending.end_id,
        rejected=count_rejects(rows.rejects),
        progress=lambda total: progress_bar(total, "check 1", "batch"),
        ranks=ranks,
        judge_unread=lambda unread: judge_rejects(
            [*rows.rejects, *unread], len(asked), settings.max_rejected, "scored"
        ),
    )
    decode, end_id = decoder(foreign.processor.tokenizer), foreign.prompts.ending.end_id
    ablation = with_measures(
        ablation, scores, foreign.scorer, names, decode, end_id, settings.ablation, settings.seed, ranks
    )
    listed, unwritten = _with_captions(scored_samples(scores, decode, end_id), rows, settings)
    ablation = ablation.model_copy(update={"wording": {**ablation.wording, **wording, **unwritten}})
    ablation = _as_requested(ablation, requested, len(asked))
    results = assemble(
        _recorded(settings, str(model), file, root),
        Path(model),
        ablation=ablation,
        coverage=_coverage(rows, settings),
        diagnosis=_diagnosis(foreign, rows, ablation, settings),
        scored=listed,
    )
    return Measured(results, SampleRows(scores, decode))


def _left_out(names: Sequence[str], train_data: Path | None, layers: int = 1) -> dict[str, str]:
    """Of what was asked for, what this model cannot be scored with, and why.

    Raises:
        ValueError: nothing else but `correct` was asked for.
    """
    reasons = dict(_NOT_HERE)
    if train_data is None:
        reasons["mean-token"] = "it needs --train_data, rows whose images make the mean"
    elif layers > 1:
        reasons["mean-token"] = "this model takes visual tokens at several depths; no mean is defined there"
    found = {name: reason for name, reason in reasons.items() if name in names}
    if found and not set(names) - {"correct", *found}:
        raise ValueError(
            f"--conditions: nothing but `correct` can be had here ({_listed(found)}); name others, such as runbook"
        )
    return {name: f"Left out: {reason}." for name, reason in found.items()}


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _shared(rows: ForeignRows, lenders: ForeignRows, count: int, same_file: bool) -> str:
    """What is wrong with training rows whose images are scored too: their mean has then seen what it is to miss."""
    averaged = _images(lenders, range(min(count, len(lenders))))
    shared = len(averaged & _images(rows, range(len(rows))))
    if not shared and not same_file:
        return ""
    file = "is the file of --data" if same_file else "has images of --data"
    return (
        f"--train_data {file}: {shared} of the {len(averaged)} images that mean-token averages are scored too; name "
        "rows that are not scored"
    )


def _images(rows: ForeignRows, places: Iterable[int]) -> set[str]:
    return {rows.data.text(place).image for place in places}


def _as_requested(ablation: Ablation, requested: int, rows: int) -> Ablation:
    """How many were asked for and why there are fewer: here no split has an end, but the data file."""
    short = [f"warning: {requested} samples were requested: the data file has no more than {rows} rows"]
    reasons = [*ablation.reasons, *(short if rows < requested else [])]
    return ablation.model_copy(update={"requested": requested, "reasons": reasons})


def _with_captions(
    scored: list[ScoredSample], rows: ForeignRows, settings: ScoreSettings
) -> tuple[list[ScoredSample], dict[str, str]]:
    """What the model writes for those that the page shows; the sentence that says so where it cannot write."""
    position = {row: index for index, row in enumerate(rows.data.rows)}
    places = even_choice(len(scored), settings.ablation.gallery)
    items = {place: rows[position[scored[place].row]] for place in places}
    samples = {place: item for place, item in items.items() if isinstance(item, Sample)}
    try:
        texts = write_captions(rows.foreign, list(samples.values()), settings.ablation.batch_size)
    except Exception as error:  # noqa: BLE001 - whatever an unknown model's `generate` raises; all scores are there
        reason = " ".join(str(error).split())[:200]
        return scored, {"written": f"Nothing written: generate ended in {type(error).__name__}: {reason}"}
    written = dict(zip(samples, texts, strict=True))
    return [s.model_copy(update={"written": written.get(place)}) for place, s in enumerate(scored)], {}


def _diagnosis(foreign: Foreign, rows: ForeignRows, ablation: Ablation, settings: ScoreSettings) -> list[Finding]:
    """What the pattern of check 1 means; where it did not pass, with what reaches the model."""
    evidence = RunEvidence(ablation=ablation)
    samples = first_samples(rows, _PROBED) if ablation.verdict != "PASS" else []
    if samples:
        probes = probe(foreign.scorer, collate(samples, foreign.prompts.begin_id), settings.seed)
        vocabulary = foreign.scorer.vocabulary
        evidence = replace(evidence, probes=probes, vocabulary=vocabulary)
    return diagnose_run(evidence)


def self_test(foreign: Foreign, rows: ForeignRows) -> dict[str, str]:
    """Run the self-tests on the first two samples; the sentence that says so, none without a sample.

    Raises:
        ValueError: the model fails one; the message names it and says what that means.
    """
    samples = first_samples(rows, _TESTED)
    if not samples:
        return {}
    refuse_unfit(foreign.scorer, collate(samples, foreign.prompts.begin_id))
    return {
        "self-tests": (
            "Passed before scoring: its own features, put back, give the model's own loss; features that are not a "
            "number reach every label; no pixel passes zeroed features; no label depends on what stands behind it."
        )
    }


def mean_tokens(foreign: Foreign, rows: ForeignRows, settings: ScoreSettings) -> Tensor:
    """Mean visual tokens [Q,E] over the first images of `rows`.

    Raises:
        ValueError: too many of them, or all, cannot be read.
    """
    wanted, size = min(settings.ablation.mean_token_images, len(rows)), settings.ablation.batch_size
    groups = [range(start, min(start + size, wanted)) for start in range(0, wanted, size)]
    with progress_bar(wanted, "mean visual tokens", "image") as bar:
        mean_QE, unread = average(foreign.scorer, LazyBatches(rows, groups, foreign.prompts.begin_id), bar)
    judge_rejects([*rows.rejects, *unread], wanted + len(rows.rejects), settings.max_rejected, "training")
    if mean_QE is None:
        raise ValueError("--train_data: no image can be read; leave it out, or mend the file")
    return mean_QE


def _coverage(rows: ForeignRows, settings: ScoreSettings) -> Coverage:
    """Check 2 on the rows that are scored: nothing is trained here, but a cut caption is no evidence either."""
    samples = [rows.data.text(index) for index in range(len(rows))]
    rejected = count_rejects(rows.rejects)
    return judge_coverage(
        CollateStats.of(samples),
        settings.coverage,
        max_seq_len=settings.max_seq_len,
        block_tokens=max((s.block[1] - s.block[0] for s in samples), default=0),
        wrapper_tokens=rows.data.wrapper_tokens,
        source="the rows asked for",
        rejected=rejected,
        image_cut=rejected.get(IMAGE_CUT, 0),
    )


def _require(data: Path, image_root: Path, train_data: Path | None) -> None:
    for flag, path in (("--data", data), ("--train_data", train_data)):
        if path is not None and not path.is_file():
            raise ValueError(f"{flag}: expected a data file in LLaVA-Pretrain layout, there is none at {path}")
    if not image_root.is_dir():
        raise ValueError(f"--image_root: expected the folder that image paths are relative to, {image_root} is none")


def _recorded(settings: ScoreSettings, model: str, data: Path, image_root: Path) -> dict[str, Any]:
    """What was scored and how; a default of training would claim what nobody did."""
    tree = settings.model_dump(mode="json")
    return {
        "seed": tree["seed"],
        "threads": tree["threads"],
        "model": {"vision": model, "llm": model, **tree["model"]},
        "data": {
            "json_file": str(data),
            "image_root": str(image_root),
            **{key: tree[key] for key in ("max_seq_len", "max_rejected", "max_pixels")},
        },
        "ablation": tree["ablation"],
        "coverage": tree["coverage"],
        **({"prompt": {"caption_request": settings.prompt}} if settings.prompt else {}),
    }
