"""Tests whether captions match their images, from the captions and the tower features, without a language model.

Similar images should have similar captions. Let K be the cosine similarities of the centred, pooled tower features, and
L those of the centred tf-idf vectors of the captions, both with a zero diagonal. Then

    A = sum_ij K_ij L_ij            z = (A - mean A under shuffled captions) / (its standard deviation)

A is the Hilbert-Schmidt independence criterion, and z compares it with its permutation null distribution (Gretton et
al. 2008). If the captions belong to other images, z is as small as for shuffled captions: between about -3 and 3. The
test does not show which caption belongs to which image.

Suffixes of array names give their dimensions: N samples, V width of the tower, W distinct words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eyechart.faults.table import finding
from eyechart.results import Finding
from eyechart.verdict.statistics import FloatArray

# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 6
SURE, NONE = 6.0, 3.0
"""If z is at least SURE, the captions match the images. If z is below NONE, there is no sign that they do."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_ENOUGH = 64
"""Minimum number of samples to conclude that there is no association; with fewer, a weak association is not
detected."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_MANY = 100
"""With at least this many samples, a missing association alone is enough for a warning."""
# size: shuffles of the permutation test
_SHUFFLES = 200
# size: parts of the data file, and the fewest samples in each
_PARTS, _ENOUGH_OF_PART = 4, 24


@dataclass(frozen=True)
class Part:
    """A consecutive part of the data file."""

    first_row: int
    last_row: int
    z: float | None


@dataclass(frozen=True)
class Association:
    """How strongly captions are associated with their images."""

    samples: int
    z: float | None
    """Number of standard deviations above the mean for shuffled captions; None if all captions or all images are
    equal."""
    parts: tuple[Part, ...] = ()
    """The association in consecutive parts of the data file; empty if there are too few samples."""


@dataclass(frozen=True)
class Pairing:
    """The association in the training split and in the held-out split."""

    train: Association
    held_out: Association | None = None


def association(
    pooled_NV: FloatArray, captions: Sequence[str], seed: int = 0, rows: Sequence[int] | None = None
) -> Association:
    """Measure whether similar images have similar captions.

    Args:
        pooled_NV: tower features averaged over patches, one row per sample.
        captions: the samples' captions.
        seed: seed for the shuffles.
        rows: the row of each sample in the data file; if given, each quarter of the file is also measured separately.
    """
    whole = _association(pooled_NV, captions, seed)
    if rows is None or len(rows) < _PARTS * _ENOUGH_OF_PART:
        return whole
    parts = []
    for part in np.array_split(np.argsort(rows), _PARTS):
        z = _association(pooled_NV[part], [captions[i] for i in part], seed).z
        parts.append(Part(rows[int(part[0])], rows[int(part[-1])], z))
    return replace(whole, parts=tuple(parts))


def _association(pooled_NV: FloatArray, captions: Sequence[str], seed: int) -> Association:
    assert len(pooled_NV) == len(captions)
    images_NN, words_NN = _similarity(pooled_NV), _similarity(_tf_idf(captions))
    if images_NN is None or words_NN is None:
        return Association(len(captions), None)
    rng = np.random.default_rng(seed)
    null = []
    for _ in range(_SHUFFLES):
        order = rng.permutation(len(captions))
        null.append(float((images_NN * words_NN[np.ix_(order, order)]).sum()))
    spread = float(np.std(null))
    if spread == 0:
        return Association(len(captions), None)
    return Association(len(captions), (float((images_NN * words_NN).sum()) - float(np.mean(null))) / spread)


def diagnose_pairing(pairing: Pairing, ignored: bool) -> list[Finding]:
    """Return findings about captions that do not match their images.

    Args:
        pairing: the association in the training split and in the held-out split.
        ignored: whether check 1 found that the model ignores the content of the image. If it did not, a missing
            association in both splits is only a warning, because the captions may describe details that this
            tower's features do not contain.
    """
    train, held_out = pairing.train, pairing.held_out
    fix = (
        "check how the data file pairs captions with images: rows off by one, two lists sorted differently, paths "
        "rewritten; compare a few rows by eye"
    )
    evidence: dict[str, Any] = {"z_train": train.z, "z_held_out": held_out.z if held_out else None}
    broken = _lacks(train)
    if broken and held_out is not None and _shows(held_out):
        which, other, sure = "training", f"while held-out captions match (z {held_out.z:.1f})", True
    elif held_out is not None and _lacks(held_out) and _shows(train):
        which, other, sure = "held-out", f"while training captions match (z {train.z:.1f})", True
    elif broken and ignored:
        which, other, sure = "training", "and the connector trained on them ignores the picture", True
    elif broken and train.samples >= _MANY:
        which, other, sure = "training", "unless they describe something that this vision tower does not see", False
    else:
        return [*_stretches(train)]
    side = train if which == "training" else held_out
    assert side is not None and side.z is not None
    return [
        finding(
            "pairs-mismatched",
            f"{which} captions do not seem to match their images: over {side.samples} rows, the captions of similar "
            f"images are no more similar than after shuffling (z {side.z:.1f}; above {NONE:g} would be a sign of "
            f"pairing), {other}",
            fix,
            None if sure else "warning",
            **evidence,
        )
    ]


def _stretches(train: Association) -> Iterator[Finding]:
    """Yield a finding if some parts of the data file, such as shards, have no association, but others have one."""
    z_of = {part: part.z for part in train.parts if part.z is not None}
    sound = [part for part, z in z_of.items() if z >= SURE]
    broken = [part for part, z in z_of.items() if z < NONE]
    if not broken or len(sound) < 2 or len(sound) + len(broken) < len(train.parts):
        return
    part = broken[0]
    yield finding(
        "pairs-mismatched",
        f"training captions do not seem to match their images in rows {part.first_row} to {part.last_row} of the "
        f"data file: the captions of similar images are no more similar there than after shuffling (z {part.z:.1f}; "
        f"above {NONE:g} would be a sign of pairing), while elsewhere in the file they are more similar (z "
        f"{min(z_of[p] for p in sound):.1f} and more)",
        "check how that part of the file was made (a separate shard, rows off by one), and compare a few of its rows "
        "by eye",
        z_parts=[part.z for part in train.parts],
        rows=[part.first_row, part.last_row],
    )


def _shows(side: Association) -> bool:
    return side.z is not None and side.z >= SURE


def _lacks(side: Association) -> bool:
    return side.z is not None and side.z < NONE and side.samples >= _ENOUGH


def _tf_idf(captions: Sequence[str]) -> FloatArray:
    """Return tf-idf vectors of the captions [N,W].

    Words that occur in only one caption, or in all, cannot show an association and are left out.
    """
    words = [Counter(re.findall(r"\w+", caption.lower())) for caption in captions]
    documents = Counter(word for counts in words for word in counts)
    kept = {word: i for i, word in enumerate(sorted(w for w, n in documents.items() if 1 < n < len(captions)))}
    table_NW = np.zeros((len(captions), max(1, len(kept))))
    for row, counts in enumerate(words):
        for word in counts.keys() & kept.keys():
            table_NW[row, kept[word]] = np.log(len(captions) / documents[word])
    return table_NW


def _similarity(values_NX: FloatArray) -> FloatArray | None:
    """Return the cosine similarities of the centred rows, with a zero diagonal; None if all rows are equal."""
    centred_NX = values_NX.astype(np.float64) - values_NX.mean(axis=0)
    norms_N = np.linalg.norm(centred_NX, axis=1, keepdims=True)
    if not np.isfinite(norms_N).all() or float(norms_N.max()) <= 1e-9 * float(np.abs(values_NX).max() or 1.0):
        return None
    unit_NX = centred_NX / np.maximum(norms_N, 1e-12)
    similar_NN: FloatArray = unit_NX @ unit_NX.T
    np.fill_diagonal(similar_NN, 0.0)
    return similar_NN
