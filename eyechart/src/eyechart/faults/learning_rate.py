"""Checks the learning rate of a connector by how far one update, and all updates so far, move its weights.

AdamW changes every weight by about the learning rate per update: by exactly the learning rate in the first update, and
by at most about the learning rate in later ones (Kingma and Ba 2015, section 2.1). Two dimensionless measures follow
from this. Each is the median over the connector's matrices. A matrix is a tensor with at least two dimensions and 256
values that is not initialised to a constant.

    step     learning rate / RMS of the initial values       the size of one update relative to the weights
    moved    ||w - w0|| / ||w0||                             how far all updates together have moved the weights

`step` can be computed without training, so it is checked before the first update and whenever the learning rate
changes. `moved` is measured on a checkpoint and does not depend on the config. It therefore also reveals a learning
rate other than the one in the config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor

from eyechart.faults.table import finding
from eyechart.results import Finding, Verdict

# size: values of a matrix
_ENOUGH = 256
"""Minimum number of values that a matrix must have to be included."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
HIGH = 0.5
"""If `step` is at least this, one update changes the weights by half of their own size or more. In the fault benchmark
(the demo data sets scenes and digits, 1,200 rows, two epochs), the unchanged configs have a `step` of 0.034. At 0.17,
runs pass without a finding. At 1.0, the connector's attention reads only part of each image. No healthy set-up of the
benchmark is above 0.17."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
FAR_HIGH = 3.0
"""If `step` is at least this, every update replaces the weights with entirely different ones. The three runs of the
fault benchmark above this limit (`step` 10, 34 and 51 on scenes) all end with a gradient that is not finite."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_FAST, _SLOW = 0.2, 3e-3
"""Upper and lower limit of `moved / sqrt(updates)`, the size of one update relative to the weights if updates have
unrelated directions. In the fault benchmark (the demo data sets scenes and digits), runs with the config's learning
rate have values of 0.018 to 0.030, even after only 15 updates. Runs with other learning rates have 0.39 and 0.43 (30
times the config's), 0.083 and 0.087 (five times), 0.0054 (a tenth), and 0.0008 and 0.0012 (a hundredth). Of 10 healthy
set-ups that were run, one is outside the limits (a fiftieth of the learning rate, one epoch). This set-up gets only a
note."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_LITTLE = 0.1
"""If `moved` is at least this, the weights are far enough from their initial values that a low learning rate does not
explain the scores."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_FAR_LOW = 10
"""If `Movement.pace` is below `_SLOW` by more than this factor, the learning rate alone explains that nothing was
learnt."""


@dataclass(frozen=True)
class Movement:
    """How far a connector's weights have moved from their initial values."""

    moved: float
    """Median over matrices of ||w - w0|| / ||w0||."""
    updates: int
    """Number of optimizer updates, at least 1."""

    @property
    def pace(self) -> float:
        """Return `moved` divided by the square root of the number of updates."""
        return self.moved / math.sqrt(self.updates)


def matrices(initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the matrices: tensors that are large enough and not initialised to a constant."""
    return {
        name: value.detach()
        for name, value in initial.items()
        if value.ndim >= 2 and value.numel() >= _ENOUGH and float(value.detach().float().std()) > 0
    }


def typical_size(initial: Mapping[str, Tensor]) -> float | None:
    """Return the median over all matrices of the RMS of their initial values; None if there is no matrix."""
    sizes = [float(value.float().pow(2).mean().sqrt()) for value in matrices(initial).values()]
    return median(sizes) if sizes else None


def movement(initial: Mapping[str, Tensor], stored: Mapping[str, Any], updates: int | None) -> Movement | None:
    """Measure how far all updates together have moved the weights; return None if there is no matrix or no update.

    Args:
        initial: the connector's tensors before training, by name.
        stored: the connector's current tensors, by name; tensors that are missing or have another shape are left out.
        updates: the number of optimizer updates between `initial` and `stored`, if known.
    """
    judged = {
        name: start
        for name, start in matrices(initial).items()
        if isinstance(value := stored.get(name), Tensor) and value.shape == start.shape
    }
    if not judged or not updates or updates < 1:
        return None
    far = [
        float((stored[name].detach().float() - start.float()).norm() / start.float().norm())
        for name, start in judged.items()
    ]
    return Movement(median(far), updates)


def diagnose_step(rate: float, size: float | None) -> list[Finding]:
    """Return a finding if one update at this learning rate is too large relative to the weights.

    Args:
        rate: the learning rate.
        size: `typical_size` of the connector's initial weights.
    """
    if size is None or rate < HIGH * size:
        return []
    far = rate >= FAR_HIGH * size
    return [
        finding(
            "learning-rate-too-high",
            f"the learning rate {rate:.3g} is {rate / size:.2g} times the connector's typical weight ({size:.2g}), and "
            "AdamW moves every weight by about the learning rate in each update: "
            + ("the first updates replace the initial weights" if far else "a few updates undo the initial weights"),
            f"lower train.lr to about {_usual(size):.1g} (a thirtieth of the typical weight), or less",
            "error" if far else "warning",
            learning_rate=rate,
            typical_weight=size,
            step=rate / size,
        )
    ]


def diagnose_movement(
    seen: Movement | None, rate: float | None, size: float | None, verdict: Verdict | None
) -> list[Finding]:
    """Return a finding if the updates of a finished run have moved the weights too far or too little.

    Args:
        seen: how far the weights in the checkpoint have moved, if measured.
        rate: the peak learning rate in the checkpoint's config, if known.
        size: `typical_size` of the connector's initial weights.
        verdict: the verdict of check 1, if check 1 was run. If it is PASS, the learning rate was not too low.
    """
    if seen is None or size is None:
        return []
    evidence = {"moved": seen.moved, "updates": seen.updates, "pace": seen.pace, "learning_rate": rate}
    config = "" if rate is None else f"; train.lr is {rate:.3g}, {rate / size:.2g} times the typical weight"
    if seen.pace >= _FAST:
        return [
            finding(
                "learning-rate-too-high",
                f"{seen.updates} updates have moved the connector's weights by {seen.moved:.2g} times their own size: "
                f"single updates were about as large as the weights{config}",
                f"lower train.lr to about {_usual(size):.1g}, and check the schedule and the groups of the optimizer "
                "for a rate that the config does not have",
                "warning" if verdict == "PASS" else "error",
                **evidence,
            )
        ]
    if verdict in (None, "PASS") or seen.pace >= _SLOW or seen.moved >= _LITTLE:
        return []
    return [
        finding(
            "learning-rate-too-low",
            f"{seen.updates} updates have moved the connector's weights by only {seen.moved:.2g} times their own "
            f"size{config}: the connector is still almost the untrained one",
            f"raise train.lr towards {_usual(size):.1g} (a thirtieth of the typical weight), and check the schedule "
            "and the groups of the optimizer for a rate that the config does not have; more epochs help less",
            "error" if seen.pace < _SLOW / _FAR_LOW else "note",
            **evidence,
        )
    ]


def could_not_move(rate: float | None, updates: int | None, initial: Mapping[str, Tensor]) -> bool:
    """Return whether `updates` updates at this learning rate are too few to move the weights by `_LITTLE`."""
    size = typical_size(initial)
    return bool(rate and updates and size and rate * updates < _LITTLE * size)


def _usual(size: float) -> float:
    """Return the learning rate at which an update is a thirtieth of the weights, as in the configs of the demo data."""
    return size / 30
