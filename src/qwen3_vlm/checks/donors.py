"""Who lends whom a picture: R disjoint derangements over all scored samples.

A derangement gives every sample the image of another one and uses every image once. A donor never has the same image
(by content hash) and never the same caption, for then its picture would not be a wrong one; no pair (own, donor)
comes twice, so R derangements hold n*R different pairs. They are drawn once, by seed, before anything is scored.

Dimension suffixes: S samples, R derangements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching, maximum_flow

from qwen3_vlm.batch import IntArray

_STREAM = 1
"""Second word of the seed: keeps the donors' generator apart from the noise, which uses another."""

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Donors:
    """The derangements that exist, and why there are not more."""

    table_SR: IntArray
    """Column r is a permutation: sample i sees the image of sample table_SR[i, r]."""
    requested: int
    shortage: str
    """One sentence where fewer than requested exist, else empty."""

    @property
    def found(self) -> int:
        """R, the number of derangements."""
        return int(self.table_SR.shape[1])


def draw_donors(hashes: Sequence[str], captions: Sequence[str], requested: int, seed: int) -> Donors:
    """Draw `requested` disjoint derangements, or as many as exist at all.

    Args:
        hashes: image content hash of each sample, in canonical order (by row), so that the draw does not depend on
            how the samples were batched.
        captions: their captions.
        requested: R.
        seed: of the run.
    """
    allowed_SS = _allowed(hashes, captions)
    generator = np.random.default_rng([seed, _STREAM])
    columns = _draw_by_swaps(allowed_SS, requested, generator)
    if len(columns) < requested:
        columns = _draw_exactly(allowed_SS, requested, generator)
    table_SR = np.stack(columns, axis=1) if columns else np.empty((len(hashes), 0), dtype=np.int64)
    shortage = "" if len(columns) == requested else _explain(hashes, captions, requested, len(columns))
    return Donors(table_SR, requested, shortage)


def _allowed(hashes: Sequence[str], captions: Sequence[str]) -> BoolArray:
    """Bool [S, S]: may column j lend its image to row i? The diagonal is False, a sample equals itself."""
    images_S = np.unique(np.asarray(hashes, dtype=np.str_), return_inverse=True)[1]
    texts_S = np.unique(np.asarray(captions, dtype=np.str_), return_inverse=True)[1]
    different: BoolArray = (images_S[:, None] != images_S[None, :]) & (texts_S[:, None] != texts_S[None, :])
    return different


def _draw_by_swaps(allowed_SS: BoolArray, requested: int, generator: np.random.Generator) -> list[IntArray]:
    """Random permutations, repaired by swaps. Stops at the first that cannot be repaired this way."""
    free_SS = allowed_SS.copy()
    columns: list[IntArray] = []
    size = len(free_SS)
    everyone_S = np.arange(size)
    while len(columns) < requested:
        donor_S = generator.permutation(size)
        for i in np.flatnonzero(~free_SS[everyone_S, donor_S]):
            if free_SS[i, donor_S[i]]:  # an earlier swap has already helped
                continue
            # Swapping with j must leave both with an allowed donor; j may be well or badly off before.
            partners = np.flatnonzero(free_SS[i, donor_S] & free_SS[:, donor_S[i]])
            if len(partners) == 0:
                return columns
            j = generator.choice(partners)
            donor_S[[i, j]] = donor_S[[j, i]]
        free_SS[everyone_S, donor_S] = False
        columns.append(donor_S.astype(np.int64))
    return columns


def _draw_exactly(allowed_SS: BoolArray, requested: int, generator: np.random.Generator) -> list[IntArray]:
    """Find as many disjoint derangements as exist, up to `requested`.

    R of them exist exactly if some R pairs per own image and per donor can be chosen, which is a flow of n*R through
    edges of capacity 1; a graph with R edges at every vertex always falls apart into R perfect matchings (König).
    Drawing one derangement at a time could paint itself into a corner where R exist; this cannot.
    """
    size = len(allowed_SS)
    own_S, donor_S = generator.permutation(size), generator.permutation(size)
    mixed_SS = allowed_SS[np.ix_(own_S, donor_S)]  # so that the solver's fixed order favours nobody
    for count in range(requested, 0, -1):
        regular_SS = _regular_part(mixed_SS, count)
        if regular_SS is None:
            continue
        columns = []
        for _ in range(count):
            match_S = maximum_bipartite_matching(csr_array(regular_SS), perm_type="column")
            assert (match_S >= 0).all(), "a regular bipartite graph has a perfect matching"
            regular_SS[np.arange(size), match_S] = False
            column_S = np.empty(size, dtype=np.int64)
            column_S[own_S] = donor_S[match_S]
            columns.append(column_S)
        return columns
    return []


def _regular_part(allowed_SS: BoolArray, count: int) -> BoolArray | None:
    """Choose allowed pairs so that every row and every column has exactly `count`, or None if that is impossible."""
    size = len(allowed_SS)
    if size == 0 or min(allowed_SS.sum(axis=0).min(), allowed_SS.sum(axis=1).min()) < count:
        return None
    own, donor = np.nonzero(allowed_SS)
    everyone_S, ones_S = np.arange(size), np.ones(size, dtype=np.int32)
    source, sink = 2 * size, 2 * size + 1  # vertices: own images, then donors, then these two
    tails = np.concatenate([own, np.full(size, source), everyone_S + size])
    heads = np.concatenate([donor + size, everyone_S, np.full(size, sink)])
    capacity = np.concatenate([np.ones(len(own), dtype=np.int32), count * ones_S, count * ones_S])
    graph = csr_array((capacity, (tails, heads)), shape=(sink + 1, sink + 1), dtype=np.int32)
    result = maximum_flow(graph, source, sink)
    if result.flow_value < size * count:
        return None
    chosen: BoolArray = result.flow.tocsr()[:size, size : 2 * size].toarray() > 0
    return chosen


def _explain(hashes: Sequence[str], captions: Sequence[str], requested: int, found: int) -> str:
    size = len(hashes)
    image = max(Counter(hashes).values(), default=0)
    caption = max(Counter(captions).values(), default=0)
    return (
        f"only {found} of {requested} disjoint sets of wrong pictures exist for {size} samples: a donor must differ in "
        f"image and caption, and {image} of them share the most common image, {caption} the most common caption; "
        "score more, or more varied, samples"
    )
