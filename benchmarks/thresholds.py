"""The basis of the detectors' thresholds: the statistic that each is compared with, over short healthy runs.

    python benchmarks/thresholds.py        writes docs/thresholds.md

Twelve healthy runs (three worlds, four shapes of connector; `threshold_runs`) of 576 samples and two epochs each. All
are healthy, so every value on the wrong side of its threshold is a false alarm. The column "at most" is Wilson's
one-sided 95% upper limit of the rate of false alarms.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch

import numpy as np
import torch

from eyechart.faults import (
    experiments,
    loss_findings,
    pairing,
    pattern,
    pattern_of_tokens,
    probes,
    rows_captions,
    weights,
)
from eyechart.files import write_atomic
from fault_site import make_worlds
from threshold_runs import SHAPES, UNTRAINED_SEEDS, WORLDS, run

PAGE = Path("docs/thresholds.md")
_Z95 = 1.6449


@dataclass(frozen=True)
class Cut:
    """One threshold and the statistic that it cuts."""

    module: str
    constant: str
    value: float
    wrong: Literal["below", "above"]
    """The side on which a value leads to a finding."""
    statistic: str


def _cut(
    module: object, constant: str, wrong: Literal["below", "above"], statistic: str, place: int | None = None
) -> Cut:
    name = constant.split(" ")[0]
    value = getattr(module, name)
    value = value[place] if place is not None else value
    return Cut(getattr(module, "__name__", ""), constant, float(value), wrong, statistic)


_TOKENS = pattern_of_tokens
CUTS = (
    _cut(_TOKENS, "SCALE", "above", "RMS ratio over its reference, or the inverse", 1),
    _cut(_TOKENS, "OF_FRESH", "below", "share of variance between images over that of a fresh connector, per stage"),
    _cut(_TOKENS, "ROUNDING", "below", "smallest share of the mean square that differs between images, of all stages"),
    _cut(_TOKENS, "_LOST", "below", "share of the projector over that of the resampler (variance, mean square)"),
    _cut(_TOKENS, "_ALIKE", "below", "share of the tower's variance between images"),
    _cut(_TOKENS, "_ONE_DIRECTION", "below", "effective rank, more than one latent"),
    _cut(_TOKENS, "_DEAD", "below", "contribution of the median group of slots over an equal share of the picture's"),
    _cut(_TOKENS, "_HELPS", "above", "loss saved by scaling the visual tokens to the text, in nats per label token"),
    _cut(weights, "MOVED", "below", "largest relative distance of a tensor from its start"),
    _cut(weights, "STILL", "below", "smallest relative distance of a tensor from its start"),
    _cut(weights, "_RELATED", "below", "largest correlation of a part with its start"),
    _cut(pairing, "NONE", "below", "z of captions and pictures, either side of the split", None),
    _cut(pairing, "NONE (a quarter of the file)", "below", "the same for quarters of the file"),
    _cut(pattern, "_COPIED", "below", "loss with the right picture, in nats per label token"),
    _cut(loss_findings, "NEIGHBOURS", "above", "difference of a loss alone and in its batch, in nats per label token"),
    _cut(experiments, "RESTLESS", "above", "relative difference of two identical calls"),
    _cut(probes, "_ANSWERS", "above", "share of prompts that contain the caption"),
    _cut(rows_captions, "_TOP_SHARE", "above", "share of the most frequent caption"),
    _cut(rows_captions, "_FEWEST", "below", "number of distinct captions"),
    _cut(rows_captions, "_UNHEARD", "above", "share of held-out words that no training caption has"),
    Cut(
        "eyechart.faults.rivals",
        "beats_fresh",
        0.5,
        "above",
        "an untrained connector beats six others (1) or not (0)",
    ),
)


def upper(false: int, of: int) -> float:
    """Wilson's one-sided 95% upper limit of a rate (Wilson 1927)."""
    share, square = false / of, _Z95**2
    middle, spread = share + square / (2 * of), _Z95 * np.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return float((middle + spread) / (1 + square / of))


def false_alarms(cut: Cut, values: list[float]) -> int:
    """Values on the wrong side."""
    return sum(value < cut.value if cut.wrong == "below" else value > cut.value for value in values)


def render(found: dict[str, list[float]], seconds: float) -> str:
    """The page."""
    lines = [
        "# The basis of the thresholds",
        "",
        "Written by `make bench-thresholds`; do not edit. "
        + " ".join((__doc__ or "").split("\n\n")[2].split()).replace(
            "`threshold_runs`", "benchmarks/threshold_runs.py"
        ),
        f"Worlds: {', '.join(WORLDS)} (drawn by the script). Connectors: {', '.join(SHAPES)}. For `beats_fresh`, "
        f"{len(UNTRAINED_SEEDS)} untrained connectors per world were tested, for which true is a false alarm. "
        f"{seconds:.0f} seconds of processor time.",
        "",
        "For thresholds that are not in this table, a comment in the code states the basis: the healthy set-ups of "
        "[fault-benchmark.md](fault-benchmark.md), in which the detector had no finding, or arithmetic.",
        "",
        "| threshold | value | statistic; a finding if it is | lowest | median | highest | false alarms | at most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cut in CUTS:
        values = found[cut.constant]
        false = false_alarms(cut, values)
        low, middle, high = (f"{float(np.quantile(values, q)):.3g}" for q in (0, 0.5, 1))
        lines.append(
            f"| {cut.module.split('.')[-1]}.{cut.constant} | {cut.value:.3g} | {cut.statistic}; {cut.wrong} | {low} | "
            f"{middle} | {high} | {false} of {len(values)} | {upper(false, len(values)):.1%} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    """Run, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE, help="where to write the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_worlds()
    began, found = time.process_time(), {cut.constant: list[float]() for cut in CUTS}
    for world in WORLDS:
        for shape in SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                for values in run(world, shape, Path(folder)):
                    for constant, value in values.items():
                        found[constant].append(value)
            print(f"{world} {shape}: {time.process_time() - began:.0f} s", flush=True)
    page = render(found, time.process_time() - began)
    write_atomic(options.page, page)
    print(page)
    return int(any(false_alarms(cut, found[cut.constant]) for cut in CUTS))


if __name__ == "__main__":
    sys.exit(main())
