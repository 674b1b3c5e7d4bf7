"""Runs check 1: scores the same captions under every condition, and tests whether a wrong picture raises the loss.

A *condition* is what the language model receives at the image positions, such as the correct picture or zeros. The
*gap* of a condition is its loss minus the loss of the condition `correct`.

    loss(c) = sum_i sum_t nll[i,t,c] / sum_i T_i         nats per label token; gaps are paired, see `statistics`

Each image file is read once. The image is encoded once, and once more for every condition that changes its pixels.
Samples are sorted by row (the canonical order) before noise and donors are drawn; a *donor* is the sample that provides
the wrong picture for another sample. Results therefore do not depend on the batch size or on the order of the batches.
Visual tokens and losses are stored in memory-mapped temporary files. Only the memory for the samples' text grows with
the number of samples.

Dimension suffixes: S samples, R derangements (assignments of donors; 1 for conditions without donors), T label tokens
of one sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from eyechart.results import Ablation, Remark, RemarkCode
from eyechart.scoring import contract
from eyechart.scoring.batching import without_block
from eyechart.scoring.conditions import CONDITIONS, MEASUREMENTS, Scene, check_fixed
from eyechart.scoring.donors import Donors, draw_donors, draw_within_grids
from eyechart.scoring.encoding import Encoded, Run, encode_all
from eyechart.scoring.pixels import PIXEL_CHANGES, remainder
from eyechart.scoring.plan import Execution, Plan
from eyechart.scoring.spool import release_freed_memory
from eyechart.scoring.storage import LossFile, StoredBatch
from eyechart.scoring.summary import Scores, summarise
from eyechart.seam import IGNORE_INDEX, Batch, Grid, IntArray, Sample, ScorerOfBatches
from eyechart.verdict.statistics import clusters_of

_SLOT_BY_SLOT = ("noise-per-dim", "slot-mix", "mean-token", "blind")
"""Conditions that need the same number of visual tokens for all images, because they combine token q of several
images."""


@torch.no_grad()
def ablate(
    scorer: ScorerOfBatches, batches: Sequence[Batch], plan: Plan, execution: Execution | None = None
) -> tuple[Ablation, Scores]:
    """Run check 1 and return its results.

    Args:
        scorer: the model, adapted to the scoring interface.
        batches: the held-out samples with their images; each row may occur only once. Each batch is requested only once
            (in a distributed job, by one process), so that a sequence may load its images lazily.
        plan: what to measure.
        execution: how to run check 1; by default in one process and without a progress bar.

    Returns:
        The results with the verdict, and every sample's per-token losses in canonical order (by row).

    Raises:
        ValueError: two samples have the same row; the mean tokens or the blind prompt belong to another connector;
            images are too small to be cut into tiles; the disk is full; the scorer breaks its contract.
    """
    assert plan.conditions and plan.conditions[0] == "correct", "parse_conditions puts `correct` first"
    run = Run(scorer, plan, execution or Execution(), tuple(n for n in plan.conditions if n not in MEASUREMENTS))
    bar = run.execution.progress(len(batches) * run.passes)
    try:
        encoded = encode_all(run, batches, bar)
        run.execution.judge_unread(encoded.unread)
        samples, rounds = encoded.samples, plan.settings.derangements
        grids = tuple(sample.grid for sample in samples) if any(sample.grid for sample in samples) else ()
        shown = [s.image_hash for s in samples], [s.caption for s in samples], rounds, plan.seed
        donors = draw_within_grids(grids, *shown) if grids else draw_donors(*shown)
        images_S = clusters_of([s.image_hash for s in samples])
        left_out = {} if not samples else _left_out(run, encoded, int(images_S.max()) + 1)
        names = [name for name in run.conditions if name not in left_out] if samples else []
        losses = LossFile(run.execution.scratch, encoded.places, [s.label_tokens for s in samples])
        table = {name: donors.found if CONDITIONS[name].uses_donors else 1 for name in names}
        if samples:
            visual = encoded.visual["correct"]
            for name, tokens in run.fixed.items():
                check_fixed(name, visual.stored, tokens)
            rows = tuple(s.row for s in samples)
            scene = Scene(visual, rows, images_S, donors.table_SR, plan.seed, run.fixed, encoded.visual, grids)
            for name in names:
                for loss_N in _score(run, encoded, scene, name, table[name]):
                    losses.append(loss_N)
                    bar.update(1)
    finally:
        bar.close()
    scores = Scores(samples, donors.table_SR, losses.read(table), encoded.visual.get("correct"))
    release_freed_memory()
    remarks = [*left_out.values(), *(remark for name in names for remark in _remarks(name, encoded, images_S))]
    remarks += _resampled(donors, grids) if "shuffled" in names else []
    unscored = Counter(plan.rejected) + Counter(r.reason for r in encoded.unread) + encoded.unscored
    return summarise(scores, plan, donors, unscored, remarks), scores


def _left_out(run: Run, encoded: Encoded, images: int) -> dict[str, Remark]:
    """Return a remark with the reason for each requested condition that is not available here."""
    codes: dict[str, RemarkCode] = {}
    for name in run.conditions:
        if name == "mean-token" and name not in run.fixed:
            codes[name] = "no-mean"
        elif name == "blind" and name not in run.fixed:
            codes[name] = "no-blind-prompt"
        elif name in _SLOT_BY_SLOT and not encoded.visual["correct"].equal_counts:
            codes[name] = "unequal-visual-tokens"
        elif name in PIXEL_CHANGES and None in encoded.sizes:
            codes[name] = "no-pixels"
        elif name == "slot-mix" and images < 2:
            codes[name] = "slot-mix-of-one-image"
        elif name == "no-image" and run.plan.vocabulary.begin_id is None and _image_alone(encoded.samples):
            codes[name] = "image-alone-in-prompt"
    return {name: Remark(code=code, about=name, left_out=True) for name, code in codes.items()}


def _image_alone(samples: Sequence[Sample]) -> bool:
    """Return whether the prompt of at least one caption consists only of the image."""
    return any(s.block[0] == 0 and s.labels_T[s.block[1]] != IGNORE_INDEX for s in samples)


def _remarks(name: str, encoded: Encoded, images_S: IntArray) -> Iterator[Remark]:
    """Yield remarks on details of how a condition was made for these samples; usually there are none."""
    if name in PIXEL_CHANGES and len(encoded.sizes) == 1:
        (size,) = encoded.sizes
        if size and (left := remainder(name, *size)):
            yield Remark(code="pixels-left-in-place", about=name, figures=left)
    others, slots = int(images_S.max()), encoded.visual["correct"].slots
    if name == "slot-mix" and others < slots:
        yield Remark(code="slots-share-images", about=name, figures={"others": others, "slots": slots})


def _resampled(donors: Donors, grids: Sequence[Grid]) -> list[Remark]:
    """Return a remark with the number of donors whose visual tokens were resampled to another grid, if any."""
    pairs = [(own, donor) for own, row_R in enumerate(donors.table_SR.tolist()) for donor in row_R]
    moved = sum(grids[own] != grids[donor] for own, donor in pairs) if grids else 0
    figures = {"resampled": moved, "donors": len(pairs)}
    return [Remark(code="donors-resampled", about="shuffled", figures=figures)] if moved else []


def _score(run: Run, encoded: Encoded, scene: Scene, name: str, rounds: int) -> Iterator[Tensor]:
    """Yield the per-token NLL [N] of every batch under one condition, once per round (one round per derangement)."""
    ranks = run.execution.ranks
    tasks = [(round_, batch) for round_ in range(rounds) for batch in encoded.batches]
    for start in range(0, len(tasks), ranks.count):
        numbers = range(start, min(start + ranks.count, len(tasks)))
        mine = {n: tasks[n] for n in numbers if ranks.mine(n)}
        done = ranks.merge({n: _nll(run, encoded, scene, name, task) for n, task in mine.items()})
        yield from (done[number] for number in numbers)


def _nll(run: Run, encoded: Encoded, scene: Scene, name: str, task: tuple[int, StoredBatch]) -> Tensor:
    """Return the per-token losses [N] of one batch under one condition."""
    round_, stored = task
    batch = stored.load(encoded.text, encoded.samples)
    visual = CONDITIONS[name].change(scene, stored.places, round_)
    if visual is None:
        batch = without_block(batch, run.plan.vocabulary.begin_id)
    return torch.cat(contract.nll(run.scorer, batch, visual))
