"""Check 1: score the same captions under every condition, then judge what taking the picture away costs.

    loss(c) = sum_i sum_t nll[i,t,c] / sum_i T_i         nats per label token; gaps are paired, `statistics` says how

Each image is encoded once, however many conditions there are. Samples are brought into canonical order (by row) before
donors and noise are drawn, so that results do not depend on the batch size or on the order of the batches.

Dimension suffixes: S samples, R derangements (1 for conditions without donors), T label tokens of one sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from qwen3_vlm.batch import IGNORE_INDEX, Batch, CollateStats, Sample, VisualTokens
from qwen3_vlm.checks.conditions import CONDITIONS, Scene, check_mean_tokens
from qwen3_vlm.checks.donors import draw_donors
from qwen3_vlm.checks.scoring import Ranks, Scorer
from qwen3_vlm.checks.statistics import FloatArray
from qwen3_vlm.checks.summary import Circumstances, SampleScore, summarise
from qwen3_vlm.config import AblationConfig
from qwen3_vlm.results import Ablation

NO_LABELS = "no label tokens"
"""Reason under which samples without a label token are counted as unscored."""


class Progress(Protocol):
    """The two methods of a tqdm bar that are used."""

    def update(self, n: int) -> object:
        """Count `n` more scored samples."""
        ...

    def close(self) -> object:
        """End the bar."""
        ...


class _NoProgress:
    def update(self, n: int) -> None:
        pass

    def close(self) -> None:
        pass


@torch.no_grad()
def ablate(
    scorer: Scorer,
    batches: Sequence[Batch],
    settings: AblationConfig,
    seed: int,
    conditions: Sequence[str],
    mean_tokens: Tensor | None,
    requested: int,
    eos_id: int,
    rejected: Mapping[str, int],
    progress: Callable[[int], Progress] | None = None,
    ranks: Ranks | None = None,
) -> tuple[Ablation, list[SampleScore]]:
    """Run check 1.

    Args:
        scorer: the model, behind the seam.
        batches: the held-out samples with their images; rows must be distinct.
        settings: margins and number of derangements.
        seed: draws donors and noise.
        conditions: names from `parse_conditions`, `correct` first.
        mean_tokens: [Q,E] mean visual tokens of training images, or None: `mean-token` is then left out, and said so.
        requested: samples asked for.
        eos_id: token that ends a caption, for gaps without it.
        rejected: rows among those asked for that could not be read, by reason, those of `Batch.rejects` included.
        progress: makes a progress bar for a total of sample scorings (an encoding counts as one).
        ranks: the processes that share the work, each called with the same arguments; None for one.

    Returns:
        The judged results, and every sample's per-token losses in canonical order.

    Raises:
        ValueError: two samples with the same row, or mean tokens of another connector.
    """
    assert conditions and conditions[0] == "correct", "parse_conditions puts `correct` first"
    names = [name for name in conditions if name != "mean-token" or mean_tokens is not None]
    planned = sum(settings.derangements if CONDITIONS[name].uses_donors else 1 for name in names)
    ranks = ranks or Ranks()
    bar = progress(sum(map(len, batches)) * (1 + planned)) if progress else _NoProgress()
    try:
        encoded = _encode(scorer, batches, bar, ranks)
        samples = encoded.samples
        donors = draw_donors([s.image_hash for s in samples], [s.caption for s in samples], settings.derangements, seed)
        nll: dict[str, list[list[FloatArray]]] = {}
        if samples:
            assert encoded.visual is not None
            if "mean-token" in names and mean_tokens is not None:
                check_mean_tokens(encoded.visual, mean_tokens)
            scene = Scene(encoded.visual, tuple(s.row for s in samples), donors.table_SR, mean_tokens, seed)
            nll = {name: _score(scorer, encoded, scene, name, bar, ranks) for name in names}
    finally:
        bar.close()
    scores = [
        SampleScore(
            row=sample.row,
            id=sample.id,
            image=sample.image,
            caption=sample.caption,
            image_hash=sample.image_hash,
            label_ids_T=sample.labels_T[sample.labels_T != IGNORE_INDEX],
            donors=tuple(int(donor) for donor in donors.table_SR[i]),
            nll={name: rounds[i] for name, rounds in nll.items() if rounds[i]},
        )
        for i, sample in enumerate(samples)
    ]
    unscored = Counter(rejected) + Counter({NO_LABELS: encoded.unlabelled})
    circumstances = Circumstances(tuple(conditions), donors, dict(unscored), requested, eos_id, seed)
    return summarise(scores, settings, circumstances), scores


@dataclass(frozen=True)
class _Encoded:
    """Everything encoded once, images dropped."""

    samples: list[Sample]
    """Scorable samples in canonical order."""
    visual: VisualTokens | None
    """Their visual tokens, in that order, on the CPU; None without samples."""
    batches: list[tuple[Batch, list[int]]]
    """Batches without images, and where each of their samples stands in `samples`."""
    unlabelled: int
    """Samples left out because they have no label token."""


def _encode(scorer: Scorer, batches: Sequence[Batch], bar: Progress, ranks: Ranks) -> _Encoded:
    slim: list[Batch] = []
    encoded: dict[int, VisualTokens] = {}
    unlabelled = 0
    for batch in batches:
        keep = [i for i, sample in enumerate(batch.samples) if sample.label_tokens]
        unlabelled += len(batch) - len(keep)
        if keep:
            if ranks.mine(len(slim)):
                encoded[len(slim)] = scorer.encode(batch).map(lambda layer: layer.detach().cpu()).rows(keep)
            slim.append(_without_images(batch, keep))
        bar.update(len(batch))
    done = ranks.merge(encoded)
    visual = [done[task] for task in range(len(slim))]
    found = [sample for batch in slim for sample in batch.samples]
    order = sorted(range(len(found)), key=lambda i: found[i].row)
    samples = [found[i] for i in order]
    position = {sample.row: i for i, sample in enumerate(samples)}
    if len(position) < len(samples):
        twice, _ = Counter(s.row for s in samples).most_common(1)[0]
        raise ValueError(f"row {twice}: expected every held-out row once, got it twice; score each row only once")
    assert all(s.image_hash for s in samples), "without hashes nobody knows which donors show the same picture"
    places = [[position[sample.row] for sample in batch.samples] for batch in slim]
    ordered = VisualTokens.cat(visual).rows(order) if visual else None
    return _Encoded(samples, ordered, list(zip(slim, places, strict=True)), unlabelled)


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


def _score(
    scorer: Scorer, encoded: _Encoded, scene: Scene, name: str, bar: Progress, ranks: Ranks
) -> list[list[FloatArray]]:
    """Per-token NLL under one condition: by sample in canonical order, then by round."""
    kind = CONDITIONS[name]
    rounds = range(scene.donors_SR.shape[1] if kind.uses_donors else 1)
    tasks = [(round_, batch, places) for round_ in rounds for batch, places in encoded.batches]
    scored: dict[int, list[FloatArray]] = {}
    for task, (round_, batch, places) in enumerate(tasks):
        if ranks.mine(task):
            result = scorer.nll(batch, kind.change(scene, places, round_))
            scored[task] = [nll_T.detach().cpu().double().numpy() for nll_T in result.per_sample()]
        bar.update(len(batch))
    done = ranks.merge(scored)
    by_sample: list[list[FloatArray]] = [[] for _ in encoded.samples]
    for task, (_, _, places) in enumerate(tasks):
        for place, nll_T in zip(places, done[task], strict=True):
            expected = encoded.samples[place].label_tokens
            assert len(nll_T) == expected, f"scorer returned {len(nll_T)} losses for {expected} label tokens"
            by_sample[place].append(nll_T)
    return by_sample
