"""Simulates how often a run reports an onset ("begins to look") although no gap exceeds the margin.

    python benchmarks/looks_error.py --runs 5000

Every run takes 7 looks at 16 captions of T_i label tokens, each with its own picture and 7 wrong pictures that the
package's `draw_candidates` draws, and evaluates them with the function that training uses (`shuffled_gap`). The
differences are

    D_ij = T_i * gap + own_i + donor_j + N(0, 1)             nats, T_i in 6..21; own and donor have a mean of 0

at a true gap of 0 or exactly at the margin of 0.05 nats per token, in these worlds:

    normal    own_i = N(0, 2): captions differ
    heavy     as normal, with Student's t of 3 degrees of freedom for own_i and for the noise
    read      own_i = 2 (L - mean), L lognormal: few captions gain much from their own picture
    vivid     own_j = donor_j = 10 for one picture in 16: it helps its own caption and misleads the others
    lengths   T_i lognormal, 2 to about 80 tokens, and own_i = T_i * N(0, 0.3)
    hubs      donor_j = N(0, 2): some pictures suit every caption, others none
    harmed    own_i = -2 (L - mean): few captions lose much with their own picture, all others gain a little
    rare      own_j = donor_j = -10 for one picture in 16, all others gain a little. If no such picture is among
              the 16, the sample contains no sign of it, and no formula can account for it

Columns: the share of runs with an onset if the 7 looks are independent, and if they are identical (which is the share
    of looks with the standing `costs`). The looks of a real run share captions and pictures, so its rate is between
    these two.

In the first four worlds the share must not exceed the nominal 1%. The exit code is 1 if it does by more than chance can
explain. The other worlds are reported but not judged, because Student's t on 16 captions is too narrow for them.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import numpy as np

from eyechart.results import Look
from eyechart.scoring.pairs import draw_candidates
from eyechart.seam import IntArray
from eyechart.verdict.onset import onset
from eyechart.verdict.statistics import FloatArray
from qwen3_vlm.train.looks import IMAGES, MOST_LOOKS, SAMPLES, shuffled_gap

MARGIN = 0.05
WORLDS = ("normal", "heavy", "read", "vivid", "lengths", "hubs", "harmed", "rare")
JUDGED = WORLDS[:4]
_NOMINAL = 0.01
_LOG_MEAN = math.exp(0.5)
"""Mean of a lognormal distribution with sigma 1."""


@dataclass(frozen=True)
class FalseOnsets:
    """Shares of runs that reported an onset."""

    independent: float
    identical: float


def simulate(world: str, gap: float, runs: int, seed: int = 0) -> FalseOnsets:
    """Draw `runs` runs of one world whose true gap is `gap`, and count those with an onset."""
    generator = np.random.default_rng([seed, WORLDS.index(world)])
    pictures_S = np.arange(SAMPLES)
    false_runs = false_looks = 0
    for _ in range(runs):
        draw = int(generator.integers(2**31))
        donors_SK = draw_candidates(pictures_S, pictures_S, None, IMAGES, 0, draw).random_SK
        looks = []
        for step in range(MOST_LOOKS):
            differences_SK, tokens_S = differences(world, gap, donors_SK, generator)
            found, stood = shuffled_gap(differences_SK, tokens_S, pictures_S, donors_SK, MARGIN, MOST_LOOKS)
            looks.append(Look(step=step, correct=0.0, gap_shuffled=found.gap, gap_zero=0.0, shuffled=stood.standing))
        false_runs += onset(looks) is not None
        false_looks += sum(onset([look]) is not None for look in looks)
    return FalseOnsets(false_runs / runs, false_looks / (runs * MOST_LOOKS))


def differences(
    world: str, gap: float, donors_SK: IntArray, generator: np.random.Generator
) -> tuple[FloatArray, IntArray]:
    """Return differences [S,K] in nats and numbers of label tokens [S] of one look."""
    size = len(donors_SK)
    tokens_S = generator.integers(6, 22, size=size)
    own_S, donor_S = np.zeros(size), np.zeros(size)
    noise_SK = generator.normal(0, 1, size=donors_SK.shape)
    if world == "normal":
        own_S = generator.normal(0, 2, size=size)
    elif world == "heavy":
        own_S = 2 * generator.standard_t(3, size=size)
        noise_SK = generator.standard_t(3, size=donors_SK.shape)
    elif world in ("read", "harmed"):
        own_S = (2 if world == "read" else -2) * (generator.lognormal(0, 1, size=size) - _LOG_MEAN)
    elif world in ("vivid", "rare"):
        own_S = (10 if world == "vivid" else -10) * ((generator.random(size) < 1 / 16) - 1 / 16)
        donor_S = own_S
    elif world == "lengths":
        tokens_S = np.maximum(2, np.round(generator.lognormal(2.5, 0.8, size=size))).astype(np.int64)
        own_S = tokens_S * generator.normal(0, 0.3, size=size)
    else:
        donor_S = generator.normal(0, 2, size=size)
    return (tokens_S * gap + own_S)[:, None] + donor_S[donors_SK] + noise_SK, tokens_S


def acceptable(world: str, share: float, runs: int) -> bool:
    """Return whether the share of runs with a false onset is at most the nominal rate plus three standard errors."""
    return world not in JUDGED or share <= _NOMINAL + 3 * math.sqrt(_NOMINAL * (1 - _NOMINAL) / runs)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Simulated share of runs that report a false onset.")
    parser.add_argument("--runs", type=int, default=5000, help="runs of 7 looks per line (default 5000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"runs with a false onset: {MOST_LOOKS} looks, margin {MARGIN}, nominally at most {_NOMINAL:.0%}")
    print(f"{'world':<8} {'true gap':>8} {'independent':>11} {'identical':>9}   {arguments.runs} runs per line")
    right = True
    for world in WORLDS:
        for gap in (0.0, MARGIN):
            got = simulate(world, gap, arguments.runs, arguments.seed)
            fine = acceptable(world, got.independent, arguments.runs)
            mark = "" if fine and world in JUDGED else "  not judged" if fine else "  ABOVE"
            print(f"{world:<8} {gap:>8} {got.independent:>11.2%} {got.identical:>9.2%}{mark}", flush=True)
            right &= fine
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
