"""From per-token losses to the figures of check 1: losses, gaps, the order and how to read it, and the verdict.

Kept apart from the scoring, so that saved per-token losses give the same figures again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from eyechart.results import Ablation, Condition
from eyechart.scoring.conditions import CONDITIONS, GATES
from eyechart.scoring.decomposition import decompose
from eyechart.scoring.donors import Donors
from eyechart.scoring.plan import Plan
from eyechart.scoring.storage import LossTable, VisualSet
from eyechart.seam import IGNORE_INDEX, IntArray, Sample
from eyechart.verdict import statistics
from eyechart.verdict.influence import one_image, warn
from eyechart.verdict.statistics import Estimate, FloatArray, Pairs
from eyechart.verdict.verdict import PASS_LEVEL, Gate, Missing, judge, level_of_fail

_NO_ID = -1
"""No token: where a vocabulary has none that ends a caption."""


@dataclass(frozen=True)
class SampleScore:
    """One scored sample under every condition."""

    row: int
    id: str
    image: str
    caption: str
    image_hash: str
    label_ids_T: IntArray
    """Token ids that carry loss, in reading order."""
    donors: tuple[int, ...]
    """Positions (in the list of scores) of the samples whose images stood in for this one's, one per derangement."""
    nll: dict[str, list[FloatArray]]
    """Per condition, NLL per label token in nats: one array [T], or one per derangement."""


@dataclass(frozen=True)
class Scores(Sequence[SampleScore]):
    """Every scored sample, by row. Each is put together when it is asked for: the losses stay in a mapped file."""

    samples: list[Sample]
    """Their texts, without images."""
    donors_SR: IntArray
    losses: LossTable
    visual: VisualSet | None
    """Their own visual tokens, in a mapped file too; None without samples."""

    def __len__(self) -> int:
        """Number of scored samples."""
        return len(self.samples)

    @overload
    def __getitem__(self, position: int) -> SampleScore: ...

    @overload
    def __getitem__(self, position: slice) -> list[SampleScore]: ...

    def __getitem__(self, position: int | slice) -> SampleScore | list[SampleScore]:
        """One sample, or some."""
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
    scores: Sequence[SampleScore], plan: Plan, donors: Donors, unscored: Mapping[str, int], notes: Mapping[str, str]
) -> Ablation:
    """Turn scores into judged results. Non-finite losses become None there, never NaN.

    Args:
        scores: every scored sample.
        plan: what was asked for.
        donors: of `shuffled`.
        unscored: held-out samples that could not be scored, by reason.
        notes: by condition, what is peculiar to how it was made here, or why it was left out.
    """
    settings, requested = plan.settings, plan.requested
    if requested is None:
        requested = len(scores) + sum(unscored.values())
    asked = [name for name in plan.conditions if name in CONDITIONS]
    names = [name for name in asked if scores and name in scores[0].nll]
    margins = {"shuffled": settings.margin_shuffled, "zero": settings.margin_zero, "noise": settings.margin_noise}
    table = _Table.of(scores, names, plan.vocabulary.end_id)
    estimates = {
        name: table.estimate(name, donors.table_SR if CONDITIONS[name].uses_donors else None) for name in names
    }
    conditions = {name: _condition(table, name, estimates[name], margins.get(name)) for name in names}
    gates = [Gate(name, margins[name], estimate) for name in GATES if (estimate := estimates.get(name)) is not None]
    uses_donors = any(CONDITIONS[name].uses_donors for name in asked)
    judgement = judge(
        gates,
        non_finite=[name for name in names if not table.finite(name)],
        missing=Missing(
            left_out=tuple(name for name in GATES if name not in asked),
            donor_shortage=donors.shortage if uses_donors and scores else "",
            unscored=unscored,
        ),
        samples=len(scores),
        requested=requested,
    )
    losses = {name: condition.loss for name, condition in conditions.items() if condition.loss is not None}
    warnings = [
        warning
        for gate in gates
        if gate.name == "shuffled" and (warning := _carried(scores, table, gate, donors, level_of_fail(len(gates))))
    ]
    finite = {name: sums_SR for name, sums_SR in table.sums.items() if table.finite(name)}
    return Ablation(
        verdict=judgement.verdict,
        reasons=judgement.reasons + warnings,
        samples=len(scores),
        requested=requested,
        label_tokens=int(table.tokens_S.sum()),
        clusters=len({score.image_hash for score in scores}),
        seed=plan.seed,
        derangements=donors.found if "shuffled" in names else 0,
        conditions=conditions,
        order=sorted(losses, key=lambda name: losses[name]),
        order_reading=read_order(losses, {name for name in GATES if _surely_costs(conditions.get(name))}),
        needed_samples=judgement.needed_samples,
        rejected=dict(unscored),
        wording=_wording(donors.found, names, notes),
        decomposition=decompose(finite, table.tokens_S, table.clusters_S, donors.table_SR, plan.blind),
    )


def _carried(scores: Sequence[SampleScore], table: _Table, gate: Gate, donors: Donors, fail_level: float) -> str:
    """The warning that one image carries a gate's gap; empty where none does."""
    pairs = Pairs.of(table.differences(gate.name), table.tokens_S, table.clusters_S, donors.table_SR)
    found = one_image(pairs, gate, fail_level)
    if found is None:
        return ""
    first = scores[int(np.flatnonzero(table.clusters_S == found.image)[0])]
    return warn(found, gate, first.row, first.image)


def _surely_costs(condition: Condition | None) -> bool:
    return condition is not None and condition.lower99 is not None and condition.lower99 > 0


def read_order(losses: Mapping[str, float], sure: Collection[str]) -> str:
    """Say which known pattern the order of the losses resembles. It is told, never judged.

    Args:
        losses: finite losses by condition.
        sure: of shuffled, zero and noise those that surely cost something (99% lower bound above 0).
    """
    needed = ("correct", "shuffled", "zero", "noise")
    if any(name not in losses for name in needed):
        return "not all of correct, shuffled, zero and noise have a loss, so the order is not read"
    correct, shuffled, zero, noise = (losses[name] for name in needed)
    if correct == shuffled == zero == noise:
        return "all losses are equal: the language model does not notice what stands in the image positions"
    if correct >= min(shuffled, zero, noise):
        return "correct is not the lowest: no pattern of a connector that carries the picture"
    if "shuffled" not in sure and not {"zero", "noise"} <= set(sure):
        return "neither another sample's picture nor both of zeros and noise surely cost anything: no order is read"
    if "shuffled" not in sure:
        return (
            "another sample's picture costs nothing that is sure, while zeros and noise do: the order of visual tokens "
            "that act as one prompt for all pictures"
        )
    if shuffled > max(zero, noise):
        return (
            "a wrong picture misleads more than none (shuffled above zero and noise), the order of a connector whose "
            "content the language model reads"
        )
    if shuffled < min(zero, noise):
        return (
            "a wrong picture costs less than none (shuffled below zero and noise), the order in the runbook and of an "
            "under-trained connector: longer training usually turns it round"
        )
    return "shuffled lies between zero and noise: between the orders of an under-trained and a well-trained connector"


@dataclass(frozen=True)
class _Table:
    """The scores as arrays: S samples, R rounds."""

    sums: dict[str, FloatArray]
    """Summed NLL per condition, [S, R], nats per caption."""
    sums_without_eos: dict[str, FloatArray]
    tokens_S: IntArray
    tokens_without_eos_S: IntArray
    has_end: bool
    """Whether any token ends a caption at all."""
    clusters_S: IntArray

    @classmethod
    def of(cls, scores: Sequence[SampleScore], names: Sequence[str], end_id: int | None) -> _Table:
        size = len(scores)
        rounds = {name: len(scores[0].nll[name]) if scores else 0 for name in names}
        sums = {name: np.empty((size, rounds[name])) for name in names}
        without = {name: np.empty((size, rounds[name])) for name in names}
        tokens_S, words_S = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        for i, score in enumerate(scores):  # once: putting a sample together takes longer than adding it up
            word_T = score.label_ids_T != (_NO_ID if end_id is None else end_id)
            tokens_S[i], words_S[i] = len(word_T), word_T.sum()
            for name in names:
                sums[name][i] = [nll_T.sum() for nll_T in score.nll[name]]
                without[name][i] = [nll_T[word_T].sum() for nll_T in score.nll[name]]
        has_end = end_id is not None
        return cls(
            sums, without, tokens_S, words_S, has_end, statistics.clusters_of([score.image_hash for score in scores])
        )

    def finite(self, name: str) -> bool:
        return bool(np.isfinite(self.sums[name]).all())

    def comparable(self, name: str) -> bool:
        return name != "correct" and self.finite("correct") and self.finite(name)

    def differences(self, name: str) -> FloatArray:
        """D_ir [S, R], nats per caption."""
        return self.sums[name] - self.sums["correct"]

    def estimate(self, name: str, donors_SR: IntArray | None) -> Estimate | None:
        if not self.comparable(name):
            return None
        return statistics.estimate(self.differences(name), self.tokens_S, self.clusters_S, donors_SR)

    def gap_without_eos(self, name: str) -> float | None:
        if not self.has_end or not self.comparable(name) or not self.tokens_without_eos_S.any():
            return None
        differences_SR = self.sums_without_eos[name] - self.sums_without_eos["correct"]
        return statistics.weighted_mean(differences_SR.mean(axis=1), self.tokens_without_eos_S)


def _condition(table: _Table, name: str, estimate: Estimate | None, margin: float | None) -> Condition:
    kind = CONDITIONS[name]
    average_S = table.sums[name].mean(axis=1)
    finite = table.finite(name)
    return Condition(
        loss=statistics.weighted_mean(average_S, table.tokens_S) if finite else None,
        loss_per_caption=float(average_S.mean()) if finite else None,
        gate=kind.role == "gate",
        margin=margin if kind.role == "gate" else None,
        gap=estimate.gap if estimate else None,
        se=estimate.se if estimate else None,
        ci95=estimate.interval(0.95) if estimate else None,
        lower99=estimate.lower(PASS_LEVEL) if estimate else None,
        win_rate=statistics.win_rate(table.differences(name)) if estimate else None,
        gap_without_eos=table.gap_without_eos(name),
        meaning=kind.meaning,
    )


def _wording(derangements: int, names: Sequence[str], notes: Mapping[str, str]) -> dict[str, str]:
    """How the conditions were made, where a reader of another runbook would assume something else."""
    wording = {}
    if "shuffled" in names:
        wording["shuffled"] = (
            "The runbook takes the wrong image from the same batch; here it comes from any scored sample with another "
            f"image and another caption, {derangements} different ones per caption, so that the figure does not "
            "depend on the batch size."
        )
    if "noise" in names:
        wording["noise"] = (
            "Mean and standard deviation are one number each over the visual tokens of all scored images; every sample "
            "has its own draw."
        )
    if "slot-mix" in names:
        wording["slot-mix"] = "Every slot comes from another image than the caption's own, drawn anew for every sample."
    for name, note in notes.items():
        wording[name] = f"{wording[name]} {note}" if name in wording else note
    return wording
