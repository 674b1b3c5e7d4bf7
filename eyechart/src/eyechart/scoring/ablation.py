"""Check 1: score the same captions under every condition, then judge what taking the picture away costs.

    loss(c) = sum_i sum_t nll[i,t,c] / sum_i T_i         nats per label token; gaps are paired, `statistics` says how

Each image is read once, and encoded once plus once for every condition that changes its pixels. Samples are brought
into canonical order (by row) before donors and noise are drawn, so that results do not depend on the batch size or on
the order of the batches. Visual tokens and losses go to mapped temporary files: beyond their text, memory does not grow
with the number of samples.

Dimension suffixes: S samples, R derangements (1 for conditions without donors), T label tokens of one sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eyechart.progress import Bar, SilentBar
from eyechart.results import Ablation
from eyechart.scoring.conditions import CONDITIONS, MEASUREMENTS, Scene, check_fixed
from eyechart.scoring.decomposition import Blind
from eyechart.scoring.donors import draw_donors
from eyechart.scoring.pixels import PIXEL_CHANGES, remainder
from eyechart.scoring.ranks import Ranks
from eyechart.scoring.spool import release_freed_memory
from eyechart.scoring.storage import BatchFile, LossFile, StoredBatch, VisualFile, VisualSet
from eyechart.scoring.summary import Circumstances, Scores, summarise
from eyechart.seam import Batch, CollateStats, IntArray, Reject, Sample, Scorer, VisualTokens
from eyechart.settings import AblationSettings
from eyechart.verdict.statistics import clusters_of

_NO_IDS = np.empty(0, dtype=np.int64)
NO_LABELS = "no label tokens"
"""Reason under which samples without a label token are counted as unscored."""


@torch.no_grad()
def ablate(
    scorer: Scorer,
    batches: Sequence[Batch],
    settings: AblationSettings,
    seed: int,
    conditions: Sequence[str],
    mean_tokens: Tensor | None,
    requested: int,
    eos_id: int,
    rejected: Mapping[str, int],
    progress: Callable[[int], Bar] | None = None,
    ranks: Ranks | None = None,
    blind: Blind | None = None,
    scratch: Path | None = None,
    judge_unread: Callable[[Sequence[Reject]], None] | None = None,
) -> tuple[Ablation, Scores]:
    """Run check 1.

    Args:
        scorer: the model, behind the seam.
        batches: the held-out samples with their images; rows must be distinct. Each is asked for once (in a job of
            several processes, by one of them), so that a sequence may read its images when it is asked.
        settings: margins and number of derangements.
        seed: draws donors and noise.
        conditions: names from `parse_conditions`, `correct` first; MEASUREMENTS among them are passed over.
        mean_tokens: [Q,E] mean visual tokens of training images, or None: `mean-token` is then left out, and said so.
        requested: samples asked for.
        eos_id: token that ends a caption, for gaps without it.
        rejected: rows among those asked for that were rejected before any image was read, by reason. Those in
            `Batch.rejects` are counted here.
        progress: makes a progress bar for a total of batches, each counted once per encoding and once per scoring.
        ranks: the processes that share the work, each called with the same arguments; None for one.
        blind: the trained blind prompt, or None: `blind` is then left out, and said so.
        scratch: folder for temporary files; None takes the system's.
        judge_unread: called once with all rows of `Batch.rejects`, before anything is scored; may raise.

    Returns:
        The judged results, and every sample's per-token losses in canonical order.

    Raises:
        ValueError: two samples with the same row; mean tokens or a blind prompt of another connector; images too small
            for their tiles; a full disk.
    """
    assert conditions and conditions[0] == "correct", "parse_conditions puts `correct` first"
    asked = tuple(name for name in conditions if name not in MEASUREMENTS)
    given = {"mean-token": mean_tokens, "blind": blind.prompt_QE if blind else None}
    fixed = {name: tokens for name, tokens in given.items() if tokens is not None and name in asked}
    ranks = ranks or Ranks()
    changes = [name for name in asked if name in PIXEL_CHANGES]
    planned = sum(settings.derangements if CONDITIONS[name].uses_donors else 1 for name in asked)
    planned -= sum(name in asked and name not in fixed for name in given)
    bar = progress(len(batches) * (1 + len(changes) + planned)) if progress else SilentBar()
    try:
        encoded = _encode(scorer, batches, changes, seed, scratch, bar, ranks)
        if judge_unread:
            judge_unread(encoded.unread)
        samples = encoded.samples
        donors = draw_donors([s.image_hash for s in samples], [s.caption for s in samples], settings.derangements, seed)
        images_S = clusters_of([s.image_hash for s in samples])
        left_out = {} if not samples else _left_out(asked, fixed, encoded, int(images_S.max()) + 1)
        names = [name for name in asked if name not in left_out] if samples else []
        losses = LossFile(scratch, encoded.places, [s.label_tokens for s in samples])
        rounds = {name: donors.found if CONDITIONS[name].uses_donors else 1 for name in names}
        if samples:
            visual = encoded.visual["correct"]
            for name, tokens in fixed.items():
                check_fixed(name, visual.stored, tokens)
            rows = tuple(s.row for s in samples)
            scene = Scene(visual, rows, images_S, donors.table_SR, seed, fixed, encoded.visual)
            for name in names:
                _score(scorer, encoded, scene, name, rounds[name], losses, bar, ranks)
    finally:
        bar.close()
    scores = Scores(samples, donors.table_SR, losses.read(rounds), encoded.visual.get("correct"))
    release_freed_memory()
    unscored = Counter(rejected) + Counter(r.reason for r in encoded.unread) + Counter({NO_LABELS: encoded.unlabelled})
    notes = left_out | {name: note for name in names if (note := _note(name, encoded, images_S))}
    circumstances = Circumstances(asked, donors, dict(unscored), requested, eos_id, seed, notes, blind)
    return summarise(scores, settings, circumstances), scores


@dataclass(frozen=True)
class _Encoded:
    """Everything encoded, images dropped."""

    samples: list[Sample]
    """Scorable samples in canonical order."""
    visual: dict[str, VisualSet]
    """Their visual tokens: of the pictures as they are under `correct`, and of the changed ones by condition."""
    text: Tensor
    """Token ids of all batches, in a mapped file."""
    batches: list[StoredBatch]
    unlabelled: int
    """Samples left out because they have no label token."""
    unread: list[Reject]
    """Rows whose image could not be read."""
    size: tuple[int, int] | None
    """Height and width of the images; None where batches came without pixels."""

    @property
    def places(self) -> list[int]:
        """Canonical positions in the order of scoring."""
        return [place for batch in self.batches for place in batch.places]


@dataclass(frozen=True)
class _Read:
    """One batch after encoding."""

    batch: Batch | None
    """Without images; None where nothing in it can be scored."""
    visual: dict[str, VisualTokens]
    unlabelled: int
    rejects: tuple[Reject, ...]
    size: tuple[int, int] | None


def _encode(
    scorer: Scorer,
    batches: Sequence[Batch],
    changes: Sequence[str],
    seed: int,
    scratch: Path | None,
    bar: Bar,
    ranks: Ranks,
) -> _Encoded:
    found: list[Sample] = []
    text = BatchFile(scratch)
    files: dict[str, VisualFile] = {}
    unlabelled, unread, sizes = 0, list[Reject](), set[tuple[int, int] | None]()
    for start in range(0, len(batches), ranks.count):
        # One batch per process at a time: all of them end with every visual token, but in a file.
        tasks = range(start, min(start + ranks.count, len(batches)))
        done = ranks.merge({t: _encode_batch(scorer, batches[t], changes, seed) for t in tasks if ranks.mine(t)})
        for read in (done[task] for task in tasks):
            unlabelled += read.unlabelled
            unread += read.rejects
            if read.batch is not None:
                # Their ids and labels come back as views into the file: small arrays that stay among the large ones
                # that go with each batch would keep the allocator from ever using that room again.
                found += [replace(sample, ids_T=_NO_IDS, labels_T=_NO_IDS) for sample in read.batch.samples]
                text.append(read.batch)
                sizes.add(read.size)
                for name, visual in read.visual.items():
                    files.setdefault(name, VisualFile(scratch)).append(visual)
            bar.update(1 + len(changes))
        release_freed_memory()
    assert len(sizes) <= 1, f"images of one size, or none at all, in every batch: {sizes}"
    order = sorted(range(len(found)), key=lambda i: found[i].row)
    position = {found[i].row: place for place, i in enumerate(order)}
    if len(position) < len(found):
        twice, _ = Counter(s.row for s in found).most_common(1)[0]
        raise ValueError(f"row {twice}: expected every held-out row once, got it twice; score each row only once")
    assert all(s.image_hash for s in found), "without hashes nobody knows which donors show the same picture"
    visual = {name: file.read(order) for name, file in files.items()}
    size = sizes.pop() if sizes else None
    numbers, stored = text.read(position)
    light = iter(found)
    whole = [s for batch in stored for s in batch.with_text(numbers, list(islice(light, len(batch.places))))]
    return _Encoded([whole[i] for i in order], visual, numbers, stored, unlabelled, unread, size)


def _encode_batch(scorer: Scorer, batch: Batch, changes: Sequence[str], seed: int) -> _Read:
    keep = [i for i, sample in enumerate(batch.samples) if sample.label_tokens]
    unlabelled, pixels_BCHW = len(batch) - len(keep), batch.pixels_BCHW
    size = None if pixels_BCHW is None else (int(pixels_BCHW.shape[2]), int(pixels_BCHW.shape[3]))
    if not keep:
        return _Read(None, {}, unlabelled, batch.rejects, size)
    pictures = {"correct": batch}
    if pixels_BCHW is not None:
        pictures |= {name: _changed(batch, pixels_BCHW, name, seed) for name in changes}
    visual = {
        name: scorer.encode(picture).map(lambda layer: layer.detach().cpu()).rows(keep)
        for name, picture in pictures.items()
    }
    return _Read(_without_images(batch, keep), visual, unlabelled, batch.rejects, size)


def _changed(batch: Batch, pixels_BCHW: Tensor, name: str, seed: int) -> Batch:
    """The batch with every picture changed in its pixels."""
    change = PIXEL_CHANGES[name]
    changed = [change(p_CHW, s.row, seed) for p_CHW, s in zip(pixels_BCHW, batch.samples, strict=True)]
    samples = tuple(
        replace(s, pixels_CHW=p_CHW, features_PV=None) for s, p_CHW in zip(batch.samples, changed, strict=True)
    )
    return replace(batch, samples=samples, pixels_BCHW=torch.stack(changed), features_BPV=None)


def _without_images(batch: Batch, keep: list[int]) -> Batch:
    """The chosen samples, without pixels or features: from here on only their text is needed."""
    samples = tuple(replace(batch.samples[i], pixels_CHW=None, features_PV=None) for i in keep)
    return replace(
        batch,
        samples=samples,
        ids_BT=batch.ids_BT[keep],
        labels_BT=batch.labels_BT[keep],
        lengths_B=batch.lengths_B[keep],
        block_BT=batch.block_BT[keep],
        pixels_BCHW=None,
        features_BPV=None,
        stats=CollateStats.of(samples),
    )


def _left_out(asked: Sequence[str], fixed: Mapping[str, Tensor], encoded: _Encoded, images: int) -> dict[str, str]:
    """Conditions that cannot be made here, and why."""
    reasons = {}
    for name in asked:
        if name == "mean-token" and name not in fixed:
            reasons[name] = "Left out: no mean over training images was given."
        elif name == "blind" and name not in fixed:
            reasons[name] = "Left out: no trained blind prompt was given."
        elif name in PIXEL_CHANGES and encoded.size is None:
            reasons[name] = "Left out: the pictures came without pixels that could be changed."
        elif name == "slot-mix" and images < 2:
            reasons[name] = "Left out: all scored samples show one image, so that no other can lend a slot."
    return reasons


def _note(name: str, encoded: _Encoded, images_S: IntArray) -> str:
    """What a reader has to know about how a condition came out here; mostly nothing."""
    if name in PIXEL_CHANGES and encoded.size is not None:
        return remainder(name, *encoded.size)
    others, slots = int(images_S.max()), encoded.visual["correct"].slots
    if name == "slot-mix" and others < slots:
        return f"There are {others} other images for {slots} slots, so that some lend more than one slot."
    return ""


def _score(
    scorer: Scorer,
    encoded: _Encoded,
    scene: Scene,
    name: str,
    rounds: int,
    losses: LossFile,
    bar: Bar,
    ranks: Ranks,
) -> None:
    """Per-token NLL under one condition, round by round, into `losses`."""
    tasks = [(round_, batch) for round_ in range(rounds) for batch in encoded.batches]
    for start in range(0, len(tasks), ranks.count):
        numbers = range(start, min(start + ranks.count, len(tasks)))
        done = ranks.merge({n: _nll(scorer, encoded, scene, name, *tasks[n]) for n in numbers if ranks.mine(n)})
        for number in numbers:
            for place, nll_T in zip(tasks[number][1].places, done[number], strict=True):
                expected = encoded.samples[place].label_tokens
                assert len(nll_T) == expected, f"scorer returned {len(nll_T)} losses for {expected} label tokens"
            losses.append(torch.cat(done[number]))
            bar.update(1)


def _nll(scorer: Scorer, encoded: _Encoded, scene: Scene, name: str, round_: int, stored: StoredBatch) -> list[Tensor]:
    """Losses [T] of every sample of one batch under one condition."""
    batch = stored.load(encoded.text, encoded.samples)
    visual = CONDITIONS[name].change(scene, stored.places, round_)
    return [nll_T.detach().cpu() for nll_T in scorer.nll(batch, visual).per_sample()]
