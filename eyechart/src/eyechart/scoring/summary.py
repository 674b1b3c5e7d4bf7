"""Computes the results of check 1 from per-token losses.

Check 1 compares the loss with the right picture (`correct`) to the loss under other conditions, in which another input
replaces the picture. The results are the mean loss of every condition, the order of the conditions by loss, the gaps
and the verdict. A gap is the loss under a condition minus the loss under `correct`. Its standing says whether the gap
exceeds its margin (`verdict.standing`). Under `shuffled`, every sample gets the image of another sample, its donor.

This module is separate from the scoring, so that all figures can be computed again from saved per-token losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from eyechart.results import Ablation, Condition, Estimated, Reason, Remark, RemarkCode
from eyechart.scoring.conditions import CONDITIONS, CONTENT_FREE, GATES
from eyechart.scoring.decomposition import decompose
from eyechart.scoring.donors import Donors
from eyechart.scoring.plan import Plan
from eyechart.scoring.storage import LossTable, VisualSet
from eyechart.scoring.unigram import ScoredTokens, check_unigram
from eyechart.seam import IGNORE_INDEX, IntArray, Sample
from eyechart.verdict import statistics
from eyechart.verdict.influence import one_image, warning
from eyechart.verdict.pair_statistics import as_result
from eyechart.verdict.statistics import Estimate, FloatArray, Pairs
from eyechart.verdict.verdict import Counts, Gate, Missing, judge, judged_figures

_NO_ID = -1
"""Used instead of the end token's id if the vocabulary has no end token; no token has this id."""


@dataclass(frozen=True)
class SampleScore:
    """The losses of one scored sample under every condition."""

    row: int
    id: str
    image: str
    caption: str
    image_hash: str
    label_ids_T: IntArray
    """Ids of the tokens that have a label, in reading order."""
    donors: tuple[int, ...]
    """Positions, in the list of scores, of the samples whose images replaced this sample's image, one per derangement.
    A derangement assigns a donor to every sample."""
    nll: dict[str, list[FloatArray]]
    """NLL of each label token in nats, by condition: one array [T], or one array per derangement."""


@dataclass(frozen=True)
class Scores(Sequence[SampleScore]):
    """All scored samples, in the order of their rows.

    A `SampleScore` is assembled when it is requested; the losses stay in a memory-mapped file.
    """

    samples: list[Sample]
    """The samples with their texts, without images."""
    donors_SR: IntArray
    losses: LossTable
    visual: VisualSet | None
    """Visual tokens of the samples' own images, also in a memory-mapped file; None if there are no samples."""

    def __len__(self) -> int:
        """Return the number of scored samples."""
        return len(self.samples)

    @overload
    def __getitem__(self, position: int) -> SampleScore: ...

    @overload
    def __getitem__(self, position: slice) -> list[SampleScore]: ...

    def __getitem__(self, position: int | slice) -> SampleScore | list[SampleScore]:
        """Return the scores of one sample, or a list of scores for a slice."""
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        place = range(len(self))[position]
        sample = self.samples[place]
        return SampleScore(
            row=sample.row,
            id=sample.id,
            image=sample.image,
            caption=sample.caption,
            image_hash=sample.image_hash,
            label_ids_T=sample.labels_T[sample.labels_T != IGNORE_INDEX],
            donors=tuple(self.donors_SR[place].tolist()),
            nll=self.losses.of(place),
        )


def summarise(
    scores: Sequence[SampleScore], plan: Plan, donors: Donors, unscored: Mapping[str, int], remarks: Sequence[Remark]
) -> Ablation:
    """Compute the results of check 1, including the verdict, from the scores.

    Losses that are not finite become None in the results, never NaN.

    Args:
        scores: every scored sample.
        plan: the requested measurements.
        donors: the assignment of donors to samples under `shuffled`.
        unscored: number of held-out samples that could not be scored, by reason.
        remarks: remarks on how conditions were computed in this run, and on what was left out.
    """
    settings, requested = plan.settings, plan.requested
    if requested is None:
        requested = len(scores) + sum(unscored.values())
    asked = [name for name in plan.conditions if name in CONDITIONS]
    names = [name for name in asked if scores and name in scores[0].nll]
    margins = {"shuffled": settings.margin_shuffled, "zero": settings.margin_zero, "noise": settings.margin_noise}
    table = _Table.of(scores, names, plan.vocabulary.end_id)
    donors_of = {name: donors.table_SR if CONDITIONS[name].uses_donors else None for name in names}
    estimates = {
        name: found for name in names if (found := table.estimate(name, "correct", donors_of[name])) is not None
    }
    measured = [name for name in GATES if name in estimates]
    gates = {name: Gate.of(name, margins[name], estimates[name], len(measured)) for name in measured}
    conditions = {name: _condition(table, name, estimates.get(name), gates.get(name)) for name in names}
    uses_donors = any(CONDITIONS[name].uses_donors for name in asked)
    judgement = judge(
        list(gates.values()),
        non_finite=[name for name in names if not table.finite(name)],
        missing=Missing(
            left_out=tuple(name for name in GATES if name not in asked),
            donor_shortage=donors.shortage if uses_donors and scores else {},
            unscored=unscored,
        ),
        counts=Counts(len(scores), requested, plan.available),
    )
    losses = {name: condition.loss for name, condition in conditions.items() if condition.loss is not None}
    finite = {name: sums_SR for name, sums_SR in table.sums.items() if table.finite(name)}
    carried = _carried(scores, table, gates["shuffled"], donors) if "shuffled" in gates else []
    return Ablation(
        verdict=judgement.verdict,
        reasons=[*judgement.reasons, *carried],
        samples=len(scores),
        requested=requested,
        available=plan.available,
        label_tokens=int(table.tokens_S.sum()),
        clusters=len({score.image_hash for score in scores}),
        seed=plan.seed,
        derangements=donors.found if "shuffled" in names else 0,
        conditions=conditions,
        order=sorted(losses, key=lambda name: losses[name]),
        shuffled_beyond=_shuffled_beyond(table, donors),
        needed_samples=judgement.needed_samples,
        rejected=dict(unscored),
        remarks=[*_made(donors.found, names), *remarks],
        unigram=check_unigram(table.scored, finite, plan.training, plan.vocabulary.size),
        decomposition=decompose(finite, table.tokens_S, table.clusters_S, donors.table_SR, plan.blind),
    )


def _shuffled_beyond(table: _Table, donors: Donors) -> dict[str, Estimated]:
    """Return the paired difference, with an interval, between `shuffled` and each condition without picture content."""
    return {
        name: as_result(found)
        for name in CONTENT_FREE
        if "shuffled" in table.sums and name in table.sums
        if (found := table.estimate("shuffled", name, donors.table_SR)) is not None
    }


def _carried(scores: Sequence[SampleScore], table: _Table, gate: Gate, donors: Donors) -> list[Reason]:
    """Return a list with a warning if the gap of a gate depends on a single image; otherwise an empty list.

    A gate is a condition that decides the verdict.
    """
    pairs = Pairs.of(table.differences(gate.name, "correct"), table.tokens_S, table.clusters_S, donors.table_SR)
    found = one_image(pairs, gate)
    if found is None:
        return []
    first = scores[int(np.flatnonzero(table.clusters_S == found.image)[0])]
    return [warning(found, gate, first.row, first.image)]


@dataclass(frozen=True)
class _Table:
    """The scores as arrays over S samples and R rounds: one round per derangement, otherwise a single round."""

    sums: dict[str, FloatArray]
    """Summed NLL of each caption by condition, [S, R], in nats."""
    sums_without_eos: dict[str, FloatArray]
    tokens_S: IntArray
    tokens_without_eos_S: IntArray
    has_end: bool
    """Whether captions have an end token."""
    clusters_S: IntArray
    ids_N: IntArray
    """Ids of the label tokens of all samples, concatenated in the order of the samples."""

    @classmethod
    def of(cls, scores: Sequence[SampleScore], names: Sequence[str], end_id: int | None) -> _Table:
        size = len(scores)
        rounds = {name: len(scores[0].nll[name]) if scores else 0 for name in names}
        sums = {name: np.empty((size, rounds[name])) for name in names}
        without = {name: np.empty((size, rounds[name])) for name in names}
        tokens_S, words_S = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        ids: list[IntArray] = []
        for i, score in enumerate(scores):  # read each score only once: assembling it takes longer than summing
            word_T = score.label_ids_T != (_NO_ID if end_id is None else end_id)
            tokens_S[i], words_S[i] = len(word_T), word_T.sum()
            ids.append(score.label_ids_T)
            for name in names:
                sums[name][i] = [nll_T.sum() for nll_T in score.nll[name]]
                without[name][i] = [nll_T[word_T].sum() for nll_T in score.nll[name]]
        has_end = end_id is not None
        clusters_S = statistics.clusters_of([score.image_hash for score in scores])
        ids_N = np.concatenate(ids) if ids else np.empty(0, dtype=np.int64)
        return cls(sums, without, tokens_S, words_S, has_end, clusters_S, ids_N)

    @property
    def scored(self) -> ScoredTokens:
        return ScoredTokens(self.ids_N, self.tokens_S, self.clusters_S)

    def finite(self, name: str) -> bool:
        return bool(np.isfinite(self.sums[name]).all())

    def comparable(self, name: str, other: str) -> bool:
        return name != other and self.finite(name) and self.finite(other)

    def differences(self, name: str, other: str) -> FloatArray:
        """Return the differences D_ir [S, R] between the summed NLL under two conditions, in nats per caption."""
        return self.sums[name] - self.sums[other]

    def estimate(self, name: str, other: str, donors_SR: IntArray | None) -> Estimate | None:
        """Estimate the loss under `name` minus the loss under `other`; None if a loss is not finite.

        Only `name` may be a condition with donors, whose assignment is then `donors_SR`.
        """
        if not self.comparable(name, other):
            return None
        return statistics.estimate(self.differences(name, other), self.tokens_S, self.clusters_S, donors_SR)

    def gap_without_eos(self, name: str) -> float | None:
        if not self.has_end or not self.comparable(name, "correct") or not self.tokens_without_eos_S.any():
            return None
        differences_SR = self.sums_without_eos[name] - self.sums_without_eos["correct"]
        return statistics.weighted_mean(differences_SR.mean(axis=1), self.tokens_without_eos_S)


def _condition(table: _Table, name: str, estimate: Estimate | None, gate: Gate | None) -> Condition:
    kind = CONDITIONS[name]
    average_S = table.sums[name].mean(axis=1)
    finite = table.finite(name)
    shared = {
        "loss": statistics.weighted_mean(average_S, table.tokens_S) if finite else None,
        "loss_per_caption": float(average_S.mean()) if finite else None,
        "gate": kind.role == "gate",
    }
    if estimate is None:
        return Condition(**shared)
    return Condition(
        **shared,
        **judged_figures(estimate, gate),
        win_rate=statistics.win_rate(table.differences(name, "correct")),
        gap_without_eos=table.gap_without_eos(name),
    )


def _made(derangements: int, names: Sequence[str]) -> list[Remark]:
    """Return remarks on the conditions that other runbooks (test procedures) define differently."""
    codes: dict[str, RemarkCode] = {
        "shuffled": "donors-from-all-samples",
        "noise": "noise-of-scalar-moments",
        "slot-mix": "slot-of-another-image",
    }
    figures = {"shuffled": {"derangements": derangements}}
    return [
        Remark(code=code, about=name, figures=figures.get(name, {})) for name, code in codes.items() if name in names
    ]
