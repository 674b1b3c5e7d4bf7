"""`eyechart.score`: check 1 on any model, with verdict, check 2 (coverage), diagnosis and the model's captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from eyechart.api.available import Limited, is_own, left_out_of, unavailable_of
from eyechart.api.live import Collate, LiveArguments, LiveRows, is_live, opened
from eyechart.api.mean_tokens import mean_over_batches, mean_over_rows, shared_images
from eyechart.api.source import Asked, Source, asked, require_file
from eyechart.data.choice import even_choice
from eyechart.data.dataset import count_rejects
from eyechart.data.reader import folder_of, read_rows
from eyechart.exits import InputError
from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.faults.probes import probe
from eyechart.printing import err
from eyechart.progress import progress_bar
from eyechart.reporting.output import Parts, assemble
from eyechart.reporting.parquet import SampleRows
from eyechart.reporting.remarks import sentence
from eyechart.results import Ablation, Finding, Remark, Results, ScoredSample
from eyechart.scoring.ablation import ablate
from eyechart.scoring.conditions import named_conditions
from eyechart.scoring.contract import encode, require_contract
from eyechart.scoring.measures import with_measures
from eyechart.scoring.plan import Execution, Plan
from eyechart.scoring.ranks import Ranks, ranks_of_job
from eyechart.scoring.samples import scored_samples
from eyechart.seam import Batch, Description, Row, ScorerOfBatches, Writer, description_of
from eyechart.settings import ScoreSettings

_TESTED = 2
"""Number of samples for the self-tests: two are enough to detect mixed-up rows."""
_PROBED = 4
"""Number of samples for the probes that test which inputs reach the model."""


@dataclass(frozen=True)
class Measured:
    """The results of check 1, and the per-token losses that are written with them."""

    results: Results
    samples: SampleRows
    """The rows of samples.parquet."""


def score(
    model: str | Path | ScorerOfBatches | nn.Module,
    rows: str | Path | Sequence[Row] | Sequence[Batch] | LiveRows,
    conditions: str = "standard",
    num_samples: int | None = None,
    image_root: str | Path | None = None,
    settings: ScoreSettings | None = None,
    *,
    processor: Any = None,
    collate_fn: Collate | None = None,
) -> Results:
    """Score captions with the right picture, a wrong picture and no picture; report whether the model uses its images.

    Args:
        model: the folder or hub id of a transformers image-text-to-text model, a live model of transformers (also
            inside DDP, PEFT or `torch.compile`), or a `Scorer`. A live model is unchanged afterwards, bit for bit.
        rows: data that the model has not been trained on: the path of a data file, rows, or batches. For a live model
            also a `DataLoader`, a `Dataset` with `collate_fn`, or batch dicts as a collator makes them.
        conditions: `runbook`, `standard`, `full`, or names separated by commas. Conditions that are not available are
            left out, with the reason in `ablation.remarks`; a list with no available condition is rejected.
        num_samples: rows to score, drawn by seed; None uses `settings.ablation.num_samples` rows of a file, or all rows
            or batches that are passed.
        image_root: folder that the rows' image paths are relative to; None uses the data file's folder, or the rows'
            own.
        settings: seed and margins; for a model given by name, also device, precision and prompt. None uses the
            defaults.
        processor: the processor of a live model; needed for rows, and for batches whose answers are not found by
            their labels.
        collate_fn: makes a batch dict from items of a `Dataset`.

    Returns:
        The results with the verdict; `eyechart.write_results` writes them to files, among them an HTML page.

    Raises:
        ValueError: bad input, a model that fails a self-test, or a scorer that breaks its contract. The message is one
            line.
    """
    if not is_live(model):
        if processor is not None or collate_fn is not None:
            raise InputError(
                "processor, collate_fn: only for a live model of transformers",
                "leave them out, or pass the model itself",
            )
        return measure(model, rows, conditions, num_samples, image_root, settings).results  # type: ignore[arg-type]  # not live
    settings = settings or ScoreSettings()
    given = LiveArguments(processor, collate_fn, num_samples, settings, image_root)
    with opened(model, rows, given) as live:
        number = num_samples if live.by_rows else None
        return measure(live.scorer, live.rows, conditions, number, image_root, settings).results


@torch.no_grad()
def measure(
    model: str | Path | ScorerOfBatches,
    rows: str | Path | Sequence[Row] | Sequence[Batch],
    conditions: str = "standard",
    num_samples: int | None = None,
    image_root: str | Path | None = None,
    settings: ScoreSettings | None = None,
) -> Measured:
    """Do the same as `score`, and also return the per-token losses of every sample."""
    settings = settings or ScoreSettings()
    ranks = ranks_of_job() if settings.distributed else Ranks()
    names = named_conditions(conditions)
    wanted = asked(rows, num_samples, image_root, settings)
    train_file = None if settings.train_data is None else require_file("--train_data", settings.train_data)
    left_out_of(
        names, unavailable_of(train_file, model)
    )  # checked before the weights are loaded; the number of layers is only known afterwards
    by_name = isinstance(model, str | Path)
    scorer = _load(model, settings) if isinstance(model, str | Path) else model
    source = Source(scorer, wanted, settings.ablation.batch_size)
    tested = _tested(scorer, source)
    about = description_of(scorer)  # after the self-tests, which choose how other images get into the model
    left_out = left_out_of(names, unavailable_of(train_file, scorer, tested.layers, about.door))
    absent = {remark.about for remark in left_out}
    names = tuple(name for name in names if name not in absent)
    remarks, mean = [*about.remarks, *tested.remarks, *left_out], None
    if "mean-token" in names and train_file is not None:
        lender_root = wanted.image_root or folder_of(train_file)
        prompted = settings.prompt is not None
        lenders = read_rows(train_file, None, lender_root, settings.layout, places_optional=prompted)
        shared = shared_images(wanted, lenders[0][: settings.ablation.mean_token_images], train_file)
        remarks += shared
        for remark in shared if ranks.index == 0 else []:
            err(f"warning: {sentence(remark)}")
        mean = mean_over_rows(scorer, lenders, settings)
    elif "mean-token" in names:
        remarks.append(Remark(code="mean-of-scored-images", about="mean-token"))
        mean = mean_over_batches(scorer, source)
    plan = Plan(
        names,
        settings.ablation,
        settings.seed,
        requested=wanted.requested,
        available=wanted.available,
        rejected=count_rejects(wanted.rejects),
        vocabulary=about.vocabulary,
        mean_tokens=mean,
    )
    execution = Execution(
        ranks,
        lambda total: progress_bar(total, "check 1", "batch"),
        judge_unread=lambda unread: wanted.judge(unread, settings.max_rejected),
    )
    ablation, scores = ablate(scorer, source, plan, execution)
    ablation = with_measures(ablation, scores, scorer, plan, ranks)
    coverage = source.coverage(settings, settings.max_seq_len if by_name else None, ranks)
    listed, unwritten = _with_captions(scored_samples(scores, about.vocabulary), scorer, source, settings)
    diagnosis, untried = _diagnosis(scorer, source, ablation, settings)
    remarks = [*ablation.remarks, *remarks, *unwritten, *untried]
    ablation = ablation.model_copy(update={"remarks": remarks, "notes": dict(about.notes), "door": about.door})
    results = assemble(
        _recorded(settings, about, wanted, by_name),
        about.name,
        Parts(ablation=ablation, coverage=coverage, diagnosis=diagnosis, scored=listed),
    )
    return Measured(results, SampleRows(scores, about.vocabulary.decode))


def _load(name: str | Path, settings: ScoreSettings) -> ScorerOfBatches:
    # Imported where it is used: transformers takes seconds to load, and a user's scorer does not need it.
    try:
        from eyechart.models.loading import load_model
    except ImportError as error:  # raised if a broken torchvision is installed
        from eyechart.processors.pillow import torchvision_problem

        raise InputError(
            f"MODEL: transformers cannot load a processor here: {torchvision_problem() or error}",
            "install a torchvision that fits the installed torch, or uninstall torchvision",
        ) from error
    return load_model(str(name), settings)


@runtime_checkable
class SelfTesting(Protocol):
    """A transformers model. It must pass more tests than a user's own scorer."""

    def self_test(self, batch: Batch) -> None:
        """Raise ValueError if the model fails a self-test."""
        ...


@dataclass(frozen=True)
class _Tested:
    """The result of the tests that run on a few samples before scoring."""

    layers: int
    """Number of layers at which the language model receives visual tokens."""
    remarks: Sequence[Remark] = ()


@torch.no_grad()
def _tested(scorer: ScorerOfBatches, source: Source) -> _Tested:
    """Run the self-tests of a model of transformers, or check the output of any other scorer against its contract.

    Raises:
        ValueError: a test failed; the message explains what its failure means.
    """
    batch = source.first(_TESTED)
    if batch is None:
        return _Tested(1)
    remarks = []
    if is_own(scorer) and isinstance(scorer, SelfTesting):
        scorer.self_test(batch)
        remarks = [Remark(code="self-tests-passed", about="self-tests")]
    elif not (is_own(scorer) and isinstance(scorer, Limited)):  # a live model passed them when its door was chosen
        require_contract(scorer, batch)
    return _Tested(len(encode(scorer, batch).layers), remarks)


@torch.no_grad()
def _with_captions(
    scored: list[ScoredSample], scorer: ScorerOfBatches, source: Source, settings: ScoreSettings
) -> tuple[list[ScoredSample], list[Remark]]:
    """Add the captions that the model writes to the samples shown on the page; return a remark if it cannot write."""
    places = even_choice(len(scored), settings.ablation.gallery)
    if not isinstance(scorer, Writer) or not places:
        return scored, []
    size, written = settings.ablation.batch_size, dict[int, str]()
    try:
        for start in range(0, len(places), size):
            batch = source.pick([scored[place].row for place in places[start : start + size]])
            if len(batch):
                written |= dict(zip((s.row for s in batch.samples), scorer.write(batch), strict=True))
    except Exception as error:  # noqa: BLE001 - an unknown model's `generate` may raise anything; all scores are complete
        return scored, [Remark(code="writing-failed", about="written captions", figures=_of_error(error))]
    return [s.model_copy(update={"written": written.get(s.row)}) for s in scored], []


def _diagnosis(
    scorer: ScorerOfBatches, source: Source, ablation: Ablation, settings: ScoreSettings
) -> tuple[list[Finding], list[Remark]]:
    """Probe which inputs reach the model, and diagnose the pattern of results of check 1."""
    of_batch = scorer.batch_findings() if isinstance(scorer, Limited) else []
    evidence, remarks = RunEvidence(ablation=ablation, findings=of_batch), list[Remark]()
    batch = source.first(_PROBED)
    if batch is not None:
        try:
            about = description_of(scorer)
            probes = probe(scorer, batch, settings.seed, about.door != "pixels")
            evidence = replace(evidence, probes=probes, vocabulary=about.vocabulary.size)
        except Exception as error:  # noqa: BLE001 - a user's scorer may raise anything; all scores are complete
            remarks = [Remark(code="probes-failed", about="probes", figures=_of_error(error))]
    return diagnose_run(evidence), remarks


def _of_error(error: Exception) -> dict[str, str]:
    return {"error": type(error).__name__, "message": " ".join(str(error).split())[:200]}


def _recorded(settings: ScoreSettings, about: Description, wanted: Asked, by_name: bool) -> dict[str, Any]:
    """Record what was scored and how. Only values that were used are recorded, because a default could be wrong."""
    tree = settings.model_dump(mode="json")
    data = {"json_file": None if wanted.file is None else str(wanted.file), "image_root": wanted.image_root}
    limits = {key: tree[key] for key in ("max_seq_len", "max_rejected", "max_pixels") if by_name}
    return {
        "seed": tree["seed"],
        "model": {"name": about.name, **about.parts, **(tree["model"] if by_name else {})},
        "data": {key: value for key, value in {**data, **limits}.items() if value is not None},
        "ablation": tree["ablation"],
        "coverage": tree["coverage"],
        **({"threads": tree["threads"]} if by_name else {}),
        **({"prompt": {"caption_request": settings.prompt}} if by_name and settings.prompt else {}),
    }
