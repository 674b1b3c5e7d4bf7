"""Encodes every image for check 1, and leaves out and counts the samples that cannot be scored.

Samples without label tokens or without an image cannot be scored. Images can only replace each other if they have equal
numbers of visual tokens, so samples whose number is not the most common one are also left out. A `grid` is the shape of
the array of an image's visual tokens. Samples with a grid may have any number of visual tokens, because `resampling`
converts the tokens of one grid to another.

A *condition* is what the language model receives at the image positions, such as the correct picture or zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eyechart.data.images import content_hash
from eyechart.progress import Bar
from eyechart.scoring import contract
from eyechart.scoring.conditions import CONDITIONS
from eyechart.scoring.pixels import PIXEL_CHANGES
from eyechart.scoring.plan import Execution, Plan
from eyechart.scoring.spool import release_freed_memory
from eyechart.scoring.storage import BatchFile, StoredBatch, VisualFile, VisualSet
from eyechart.seam import Batch, Reject, Sample, ScorerOfBatches, VisualTokens

_ANY = 0
"""The key of the group that contains all samples with a grid."""
_NO_IDS = np.empty(0, dtype=np.int64)
NO_LABELS, NO_IMAGE, OTHER_TOKENS = "no label tokens", "no image", "another number of visual tokens"
"""The reasons why samples are counted as unscored."""


@dataclass(frozen=True)
class Run:
    """The arguments of one call of `ablate`, and values derived from them."""

    scorer: ScorerOfBatches
    plan: Plan
    execution: Execution
    conditions: tuple[str, ...]
    """The requested conditions; names in MEASUREMENTS, which are computed elsewhere, are left out."""

    @property
    def changes(self) -> list[str]:
        """The conditions that change the pixels."""
        return [name for name in self.conditions if name in PIXEL_CHANGES]

    @property
    def given(self) -> dict[str, Tensor | None]:
        """The visual tokens of the conditions that use the same ones for every sample; None if not available."""
        return {"mean-token": self.plan.mean_tokens, "blind": self.plan.blind.prompt_QE if self.plan.blind else None}

    @property
    def fixed(self) -> dict[str, Tensor]:
        """The visual tokens in `given` that are available and whose conditions are requested."""
        return {name: tokens for name, tokens in self.given.items() if tokens is not None and name in self.conditions}

    @property
    def passes(self) -> int:
        """The number of times that each batch is encoded or scored."""
        rounds = self.plan.settings.derangements
        scored = [name for name in self.conditions if name not in self.given or name in self.fixed]
        return 1 + len(self.changes) + sum(rounds if CONDITIONS[name].uses_donors else 1 for name in scored)


@dataclass(frozen=True)
class Encoded:
    """All samples after encoding, without their images."""

    samples: list[Sample]
    """The samples that can be scored, in canonical order (by row)."""
    visual: dict[str, VisualSet]
    """The visual tokens by condition: `correct` has those of the unchanged pictures, the other conditions those of
    pictures with changed pixels."""
    text: Tensor
    """The token ids, labels, image positions and lengths of all batches, in a memory-mapped file."""
    batches: list[StoredBatch]
    unscored: Counter[str]
    """The number of samples left out, by reason."""
    unread: list[Reject]
    """The rows whose image could not be read."""
    sizes: set[tuple[int, int] | None]
    """The distinct (height, width) pairs of the images; contains None if a batch has no pixels."""

    @property
    def places(self) -> list[int]:
        """The canonical position of each sample (its position by row), in the order of scoring."""
        return [place for batch in self.batches for place in batch.places]


@dataclass(frozen=True)
class _Part:
    """Encoded samples of one batch that have the same number of visual tokens, or that have a grid."""

    batch: Batch
    """The batch of these samples, without images."""
    visual: dict[str, VisualTokens]


@dataclass(frozen=True)
class _Read:
    """The result of encoding one batch."""

    parts: list[_Part]
    unscored: Counter[str]
    rejects: tuple[Reject, ...]
    size: tuple[int, int] | None


@dataclass
class _Group:
    """All encoded samples that have the same number of visual tokens, or that have a grid."""

    scratch: Path | None
    text: BatchFile
    found: list[Sample] = field(default_factory=list)
    files: dict[str, VisualFile] = field(default_factory=dict)
    form: list[object] = field(default_factory=list)

    def append(self, part: _Part) -> None:
        """Add encoded samples of one batch.

        Raises:
            ValueError: the visual tokens differ in shape or dtype from those of earlier samples.
        """
        # Ids and labels are dropped here and read back later as views into the file. If small arrays stayed in memory
        # between the large arrays of each batch, the allocator could not reuse the memory of the large ones.
        self.found += [replace(sample, ids_T=_NO_IDS, labels_T=_NO_IDS) for sample in part.batch.samples]
        self.text.append(part.batch)
        for name, visual in part.visual.items():
            # If samples have a grid, their numbers of tokens may differ, but not the widths.
            axes = slice(2 if part.batch.samples[0].grid else 1, None)
            form: list[object] = [(tuple(layer.shape[axes]), layer.dtype) for layer in visual.layers]
            self.form = self.form or form
            if form != self.form:
                raise ValueError(
                    f"Scorer.encode: expected visual tokens [Q,E] of one shape and type, got {self.form} and {form}"
                )
            self.files.setdefault(name, VisualFile(self.scratch)).append(visual)


def encode_all(run: Run, batches: Sequence[Batch], bar: Bar) -> Encoded:
    """Read and encode every batch once, and encode it once more for every condition that changes its pixels.

    Raises:
        ValueError: two samples have the same row; images are too small to be cut into tiles; the disk is full; the
            scorer breaks its contract.
    """
    ranks, scratch, groups = run.execution.ranks, run.execution.scratch, dict[int, _Group]()
    unscored, unread, sizes = Counter[str](), list[Reject](), set[tuple[int, int] | None]()
    for start in range(0, len(batches), ranks.count):
        # Each process encodes one batch at a time. In the end, every process has all visual tokens, in its own file.
        tasks = range(start, min(start + ranks.count, len(batches)))
        done = ranks.merge({t: _encode_batch(run, batches[t]) for t in tasks if ranks.mine(t)})
        for read in (done[task] for task in tasks):
            unscored += read.unscored
            unread += read.rejects
            for part in read.parts:
                slots = _ANY if part.batch.samples[0].grid else int(part.visual["correct"].layers[0].shape[1])
                groups.setdefault(slots, _Group(scratch, BatchFile(scratch))).append(part)
                sizes.add(read.size)
            bar.update(1 + len(run.changes))
        release_freed_memory()
    if not groups:
        return Encoded([], {}, torch.empty(0, dtype=torch.int64), [], unscored, unread, sizes)
    # An image cannot replace one with another number of visual tokens, so only the most common number is scored.
    chosen = max(groups, key=lambda slots: (len(groups[slots].found), slots))
    unscored += Counter({OTHER_TOKENS: sum(len(g.found) for slots, g in groups.items() if slots != chosen)})
    group = groups[chosen]
    found = group.found
    order = sorted(range(len(found)), key=lambda i: found[i].row)
    position = {found[i].row: place for place, i in enumerate(order)}
    if len(position) < len(found):
        twice, _ = Counter(s.row for s in found).most_common(1)[0]
        raise ValueError(f"row {twice}: expected every held-out row once, got it twice; pass each row only once")
    complete = ["correct"] if None in sizes else list(group.files)
    visual = {name: group.files[name].read(order) for name in complete}
    numbers, stored = group.text.read(position)
    light = iter(found)
    whole = [s for batch in stored for s in batch.with_text(numbers, list(islice(light, len(batch.places))))]
    return Encoded([whole[i] for i in order], visual, numbers, stored, unscored, unread, sizes)


def _encode_batch(run: Run, batch: Batch) -> _Read:
    pictured = [i for i, sample in enumerate(batch.samples) if sample.has_image]
    unscored = Counter({NO_IMAGE: len(batch) - len(pictured)})
    rejects, batch = batch.rejects, batch if len(pictured) == len(batch) else batch.rows(pictured)
    keep = [i for i, sample in enumerate(batch.samples) if sample.label_tokens]
    unscored[NO_LABELS] = len(batch) - len(keep)
    pixels_BCHW = batch.pixels_BCHW
    size = None if pixels_BCHW is None else (int(pixels_BCHW.shape[2]), int(pixels_BCHW.shape[3]))
    if not keep:
        return _Read([], +unscored, rejects, size)
    pictures = {"correct": batch}
    if pixels_BCHW is not None:
        pictures |= {name: _changed(batch, pixels_BCHW, name, run.plan.seed) for name in run.changes}
    visual = {name: contract.encode(run.scorer, picture) for name, picture in pictures.items()}
    counts = visual["correct"].counts()
    for name, changed in visual.items():
        if changed.counts() != counts:
            raise ValueError(
                f"Scorer.encode: expected the same numbers of visual tokens for pictures changed by {name}, got others"
            )
    if batch.samples[keep[0]].grid:
        return _Read(
            [_Part(_for_scoring(batch, keep), {"correct": visual["correct"].rows(keep)})], +unscored, rejects, size
        )
    places = {slots: [i for i in keep if counts[i] == slots] for slots in dict.fromkeys(counts[i] for i in keep)}
    parts = [
        _Part(_for_scoring(batch, some), {name: _cut(v.rows(some), slots) for name, v in visual.items()})
        for slots, some in places.items()
    ]
    return _Read(parts, +unscored, rejects, size)


def _cut(visual: VisualTokens, slots: int) -> VisualTokens:
    """Return the visual tokens of images that have `slots` tokens each, without padding."""
    return visual if visual.counts_B is None else VisualTokens(tuple(layer[:, :slots] for layer in visual.layers))


def _changed(batch: Batch, pixels_BCHW: Tensor, name: str, seed: int) -> Batch:
    """Return the batch with the pixels of every picture changed by the condition `name`."""
    change = PIXEL_CHANGES[name]
    changed = [change(p_CHW, s.row, seed) for p_CHW, s in zip(pixels_BCHW, batch.samples, strict=True)]
    samples = tuple(
        replace(s, pixels_CHW=p_CHW, features_PV=None) for s, p_CHW in zip(batch.samples, changed, strict=True)
    )
    return replace(batch, samples=samples, pixels_BCHW=torch.stack(changed), features_BPV=None)


def _for_scoring(batch: Batch, keep: list[int]) -> Batch:
    """Return the samples at positions `keep` without pixels and features: scoring only needs text and image hash."""
    samples = tuple(s if s.image_hash else replace(s, image_hash=_hash(batch, i)) for i, s in enumerate(batch.samples))
    return replace(batch, samples=samples).text().rows(keep)


def _hash(batch: Batch, place: int) -> str:
    """Return an image hash for a sample that has none.

    Samples with equal hashes have the same picture and are not donors for each other. Without pixels, the path of the
    image is used, or the row if there is no path.
    """
    if batch.pixels_BCHW is not None:
        return content_hash(batch.pixels_BCHW[place].cpu())
    return batch.samples[place].image or f"row {batch.samples[place].row}"
