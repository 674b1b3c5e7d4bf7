"""Assigns wrong pictures to samples, by drawing R disjoint derangements of all scored samples.

A derangement gives every sample the image of another sample, its *donor*, and uses every sample as a donor once. A
donor never has the sample's own image (by content hash) or caption, because its picture would then not be wrong. No
pair (sample, donor) occurs twice, so R derangements of S samples have S*R different pairs. Derangements are drawn once,
from the seed, before any sample is scored.

Dimension suffixes: S samples, R derangements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching, maximum_flow

from eyechart.seam import Grid, IntArray

_STREAM = 1
"""The second element of the seed sequence, which makes the draw of donors independent of the draw of noise."""

_ALL_PAIRS_UP_TO = 2048
"""Up to this number of samples, the exact search uses all allowed pairs, of which there are at most 4 million."""
_OFFERED = 32
"""With more samples, the search uses only this number of random donors per sample and of random samples per donor."""

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Donors:
    """The derangements that were found, and the reason if there are fewer than requested."""

    table_SR: IntArray
    """Column r is a derangement: sample i is scored with the image of sample table_SR[i, r]."""
    requested: int
    shortage: Mapping[str, int] = field(default_factory=dict)
    """If there are fewer derangements than requested, the figures that explain why (`_shortage`); otherwise empty."""

    @property
    def found(self) -> int:
        """R, the number of derangements that were found."""
        return int(self.table_SR.shape[1])


def draw_within_grids(
    grids: Sequence[Grid], hashes: Sequence[str], captions: Sequence[str], requested: int, seed: int
) -> Donors:
    """Draw derangements in which as many samples as possible get an image with their own grid.

    A grid is the shape of the array of an image's visual tokens. Samples with the same grid exchange images only with
    each other if `requested` derangements of them exist. All other samples form one mixed group, whatever their grids.
    If the mixed group has too few derangements, the samples of further grids are added to it, starting with the grid
    that has the fewest samples. The derangements of all groups are then combined into derangements of all samples.

    Args:
        grids: the grid of each sample (`Sample.grid`).
        hashes: as for `draw_donors`.
        captions: as for `draw_donors`.
        requested: R, the number of derangements.
        seed: seed of the run.
    """
    by_grid: dict[Grid, list[int]] = {}
    for place, grid in enumerate(grids):
        by_grid.setdefault(grid, []).append(place)

    def drawn(places: Sequence[int]) -> Donors:
        return draw_donors([hashes[p] for p in places], [captions[p] for p in places], requested, seed)

    groups = sorted(by_grid.values(), key=len)
    alone = {id(group): drawn(group) for group in groups} if len(groups) > 1 else {}
    kept = [group for group in groups if id(group) in alone and not alone[id(group)].shortage]
    rest = sorted(place for group in groups if group not in kept for place in group)
    together = drawn(rest)
    while together.shortage and kept:
        rest = sorted([*rest, *kept.pop(0)])
        together = drawn(rest)
    table_SR = np.empty((len(grids), together.found), dtype=np.int64)
    for places, found in [(rest, together), *((group, alone[id(group)]) for group in kept)]:
        table_SR[places] = np.asarray(places, dtype=np.int64)[found.table_SR[:, : together.found]]
    return Donors(table_SR, requested, together.shortage)


def draw_donors(hashes: Sequence[str], captions: Sequence[str], requested: int, seed: int) -> Donors:
    """Draw `requested` disjoint derangements, or as many as exist.

    Args:
        hashes: the content hash of each sample's image. The samples are in canonical order (by row), so that the draw
            does not depend on how they were batched.
        captions: the caption of each sample.
        requested: R, the number of derangements.
        seed: seed of the run.
    """
    kinds = _Kinds.of(hashes, captions)
    generator = np.random.default_rng([seed, _STREAM])
    columns = _draw_by_swaps(kinds, requested, generator)
    searched = 0
    if len(columns) < requested:
        columns, searched = _draw_by_flow(kinds, requested, generator)
    table_SR = np.stack(columns, axis=1) if columns else np.empty((len(hashes), 0), dtype=np.int64)
    shortage = {} if len(columns) == requested else _shortage(hashes, captions, requested, len(columns), searched)
    return Donors(table_SR, requested, shortage)


@dataclass(frozen=True)
class _Kinds:
    """The image index and caption index of each sample, which show without an S x S table which donors are allowed."""

    images_S: IntArray
    texts_S: IntArray

    @classmethod
    def of(cls, hashes: Sequence[str], captions: Sequence[str]) -> _Kinds:
        return cls(*(np.unique(np.asarray(keys, dtype=np.str_), return_inverse=True)[1] for keys in (hashes, captions)))

    def __len__(self) -> int:
        return len(self.images_S)

    def differ(self, own: IntArray | int, donor: IntArray | int) -> BoolArray:
        """Return, element by element, whether the pair is allowed: sample and donor differ in image and caption."""
        different: BoolArray = (self.images_S[own] != self.images_S[donor]) & (self.texts_S[own] != self.texts_S[donor])
        return different


def _draw_by_swaps(kinds: _Kinds, requested: int, generator: np.random.Generator) -> list[IntArray]:
    """Draw random permutations and repair forbidden pairs by swaps; stop at the first that cannot be repaired."""
    columns: list[IntArray] = []
    size = len(kinds)
    everyone_S = np.arange(size)

    def free(own: IntArray | int, donor: IntArray | int) -> BoolArray:
        """Return whether a pair is allowed and does not occur in an earlier derangement."""
        found = kinds.differ(own, donor)
        for column_S in columns:
            found = found & (column_S[own] != donor)
        return found

    while len(columns) < requested:
        donor_S = generator.permutation(size)
        for i in np.flatnonzero(~free(everyone_S, donor_S)).tolist():
            if free(i, int(donor_S[i])):  # an earlier swap has already repaired it
                continue
            # After the swap, both i and j must have an allowed donor. Before it, j's donor need not be allowed.
            partners = np.flatnonzero(free(i, donor_S) & free(everyone_S, int(donor_S[i])))
            if len(partners) == 0:
                return columns
            j = generator.choice(partners)
            donor_S[[i, j]] = donor_S[[j, i]]
        columns.append(donor_S.astype(np.int64))
    return columns


def _draw_by_flow(kinds: _Kinds, requested: int, generator: np.random.Generator) -> tuple[list[IntArray], int]:
    """Find as many disjoint derangements as exist, up to `requested`.

    R disjoint derangements exist if and only if allowed pairs can be chosen such that every sample and every donor is
    in exactly R of them. Such a choice is a flow of S*R through edges of capacity 1. The chosen pairs are a bipartite
    graph with R edges at every vertex, which can always be divided into R perfect matchings (König's theorem). If
    derangements were drawn one after the other, the draw could fail although R of them exist; this search cannot.

    With more than `_ALL_PAIRS_UP_TO` samples, the search uses only a random part of the pairs, because all pairs would
    take gigabytes. In that case it can, with a small probability, find fewer derangements than exist.

    The second return value is the number of random donors that were drawn per sample, or 0 if all allowed pairs were
    used.
    """
    size = len(kinds)
    own_S, donor_S = (
        generator.permutation(size),
        generator.permutation(size),
    )  # random, so that the fixed order in which the solver works has no influence
    searched = _OFFERED if size > _ALL_PAIRS_UP_TO else 0
    mixed_SS = _some_pairs(kinds, own_S, donor_S, generator) if searched else _all_pairs(kinds, own_S, donor_S)
    for count in range(requested, 0, -1):
        regular_SS = _regular_part(mixed_SS, count)
        if regular_SS is None:
            continue
        columns = []
        for _ in range(count):
            match_S = maximum_bipartite_matching(regular_SS, perm_type="column")
            assert (match_S >= 0).all(), "a regular bipartite graph has a perfect matching"
            taken_SS = csr_array((np.ones(size, dtype=np.int32), (np.arange(size), match_S)), shape=(size, size))
            regular_SS = regular_SS - taken_SS
            regular_SS.eliminate_zeros()
            column_S = np.empty(size, dtype=np.int64)
            column_S[own_S] = donor_S[match_S]
            columns.append(column_S)
        return columns, searched
    return [], searched


def _all_pairs(kinds: _Kinds, own_S: IntArray, donor_S: IntArray) -> csr_array:
    allowed_SS = kinds.differ(own_S[:, None], donor_S[None, :])
    return csr_array(allowed_SS.astype(np.int32))


def _some_pairs(kinds: _Kinds, own_S: IntArray, donor_S: IntArray, generator: np.random.Generator) -> csr_array:
    """Return a random part of the allowed pairs: the same number of draws for every sample and for every donor."""
    size = len(kinds)
    drawn = generator.integers(size, size=(2, size, _OFFERED))
    everyone = np.broadcast_to(np.arange(size)[:, None], (size, _OFFERED))
    rows = np.concatenate([everyone.ravel(), drawn[0].ravel()])
    columns = np.concatenate([drawn[1].ravel(), everyone.ravel()])
    keep = kinds.differ(own_S[rows], donor_S[columns])
    pairs = np.unique(rows[keep] * size + columns[keep])
    return csr_array((np.ones(len(pairs), dtype=np.int32), (pairs // size, pairs % size)), shape=(size, size))


def _regular_part(allowed_SS: csr_array, count: int) -> csr_array | None:
    """Choose allowed pairs such that every row and every column has exactly `count`; None if that is impossible."""
    size = allowed_SS.shape[0]
    if size == 0 or min(allowed_SS.sum(axis=0).min(), allowed_SS.sum(axis=1).min()) < count:
        return None
    own, donor = allowed_SS.nonzero()
    everyone_S, ones_S = np.arange(size), np.ones(size, dtype=np.int32)
    source, sink = 2 * size, 2 * size + 1  # vertices: samples, then donors, then these two
    tails = np.concatenate([own, np.full(size, source), everyone_S + size])
    heads = np.concatenate([donor + size, everyone_S, np.full(size, sink)])
    capacity = np.concatenate([np.ones(len(own), dtype=np.int32), count * ones_S, count * ones_S])
    graph = csr_array((capacity, (tails, heads)), shape=(sink + 1, sink + 1), dtype=np.int32)
    result = maximum_flow(graph, source, sink)
    if result.flow_value < size * count:
        return None
    chosen = (result.flow.tocsr()[:size, size : 2 * size] > 0).astype(np.int32)
    return chosen


def _shortage(
    hashes: Sequence[str], captions: Sequence[str], requested: int, found: int, searched: int
) -> dict[str, int]:
    """Return the figures that explain why there are fewer derangements than requested.

    They include how often the most common image and the most common caption occur. `searched` is the number of random
    donors drawn per sample, or 0 if all allowed pairs were used.
    """
    return {
        "found": found,
        "requested": requested,
        "samples": len(hashes),
        "same_image": max(Counter(hashes).values(), default=0),
        "same_caption": max(Counter(captions).values(), default=0),
        "searched": searched,
    }
