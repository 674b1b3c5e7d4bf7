"""Compares the canary in a checkpoint with new results for the same rows, and reports the first stage that differs.

The canary contains the results of the model for a few held-out rows, from the time when the checkpoint was saved. The
stages are, in order: the ids of prompt and caption, the pixels, the visual tokens, the losses. Each stage depends on
the earlier ones, so only the first difference is reported. Ids and pixels must be equal. For visual tokens and losses,
`Allowed` gives the largest difference that counts as rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eyechart.exits import NamedInputError
from eyechart.faults.table import FAULTS, agree, finding
from eyechart.results import Finding
from eyechart.seam import Sample
from qwen3_vlm.build import Prepared
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.evidence.canary import (
    Reading,
    batches_of,
    device_name,
    loss_difference,
    read,
    visual_difference,
)

_TIMES = 10.0
"""Factor between the difference of the two passes of a save and the difference that is allowed later.

It is above 1 because the checkpoint may be opened on another machine or with other versions of libraries."""
_LEAST = {"fp32": 1e-4, "bf16": 0.1}
"""For each precision, the smallest value that the allowed difference can have.

It is a share of the RMS for visual tokens, and a share of one nat plus the loss for losses. The largest measured
difference was 1.8e-6 in fp32 and 0.039 in bf16, between two attention implementations, one and two threads, and batches
of 1 to 32. It was measured on the CPU, for both embedded worlds (the built-in demo data sets; docs/log.md)."""
_MOST = {"fp32": 1e-2, "bf16": 0.2}
"""For each precision, the largest value that the allowed difference can have.

If the two passes of a save differ by more than this, the loss of a sample depends on the other samples in its batch."""
_MEAN = 0.02
"""Allowed difference of the mean loss, as a share of one nat plus the loss, on any device and in any precision.

The fault `loss-not-reproduced` uses the same limit for two scores that are not both computed in float32. Between fp32
and bf16 on the CPU, a difference of 7.5e-4 was measured."""
_FIX = (
    "compare the versions of this package, of its libraries and of the files with those of the training; score in the "
    "training environment if they differ"
)


@dataclass(frozen=True)
class Allowed:
    """Allowed differences of visual tokens and losses from those in the checkpoint; None if they cannot be compared."""

    visual: float | None
    losses: float | None

    @classmethod
    def of(cls, canary: Mapping[str, Any], device: str, precision: str) -> Allowed:
        """Return the limits for a device and a precision.

        The limits are None if the checkpoint was saved on another device or in another precision.
        """
        if (canary["device"], canary["precision"]) != (device, precision):
            return cls(None, None)
        spread = canary["spread"]
        least, most = _LEAST[precision], _MOST[precision]
        return cls(*(min(most, max(least, _TIMES * spread[part])) for part in ("visual", "losses")))


def canary_findings(canary: Mapping[str, Any], prepared: Prepared, vlm: VLM) -> list[Finding]:
    """Return the finding for the first stage at which the canary's rows give other results than at the save.

    If no stage differs, the list is empty.

    Args:
        canary: the result of `Canary.score` from the time when the checkpoint was saved.
        prepared: the data in use.
        vlm: the model in use, with the checkpoint's connector.
    """
    samples, missing = _samples(canary, prepared)
    if missing:
        return [missing]
    try:
        now = read(vlm, batches_of(samples, prepared.inputs.pad_id)).sorted()
    except NamedInputError as error:
        if error.code not in FAULTS:
            raise
        return [finding(error.code, error.message, error.fix)]
    return _first_difference(canary, now, Allowed.of(canary, device_name(vlm), prepared.config.model.precision))


def _samples(canary: Mapping[str, Any], prepared: Prepared) -> tuple[list[Sample], Finding | None]:
    """Return the canary's samples, or a finding if one of them can no longer be read."""
    places = {row: place for place, row in enumerate(prepared.eval.rows)}
    rejected = {reject.row: reject for reject in prepared.rejects["eval"]}
    samples = []
    for row in canary["rows"]:
        item = prepared.eval[places[row]] if row in places else rejected.get(row)
        if isinstance(item, Sample):
            samples.append(item)
            continue
        code, why = "pixels-changed" if row in places else "prompt-changed", item.detail if item else "it is not there"
        return [], finding(
            code,
            f"held-out row {row} was scored when the checkpoint was saved and cannot be used now: {why}",
            "restore the data and the config of the training",
            row=row,
        )
    return samples, None


def _first_difference(canary: Mapping[str, Any], now: Reading, allowed: Allowed) -> list[Finding]:
    total = len(now.rows)
    ids = [row for row, then, found in zip(now.rows, canary["ids"], now.ids, strict=True) if then != found]
    if ids:
        return [
            finding(
                "prompt-changed",
                f"{len(ids)} of {total} held-out rows have other token ids or labels than when the checkpoint was "
                f"saved (first row {ids[0]})",
                "use the prompt settings, data.max_seq_len and tokenizer of the training",
                rows=len(ids),
                of=total,
            )
        ]
    pixels = [row for row, then, found in zip(now.rows, canary["pixels"], now.pixels, strict=True) if then != found]
    visual = visual_difference(canary["visual"], now.visual_SK)
    if pixels:
        # Another version of an image library may round single pixels differently, which has no visible effect on the
        # visual tokens.
        same = allowed.visual is not None and visual <= allowed.visual
        return [
            finding(
                "pixels-changed",
                f"{len(pixels)} of {total} held-out rows have other pixels than when the checkpoint was saved (first "
                f"row {pixels[0]})" + (", but their visual tokens agree within rounding" if same else ""),
                "restore the image files, and the image preprocessing of the training",
                "warning" if same else "error",
                rows=len(pixels),
                of=total,
                visual_difference=_finite(visual),
            )
        ]
    if allowed.visual is not None and visual > allowed.visual:
        return [_visual(canary, now, visual, allowed.visual)]
    return _losses(canary, torch.cat(now.losses), allowed)


def _visual(canary: Mapping[str, Any], now: Reading, visual: float, allowed: float) -> Finding:
    scale = float((now.visual_SK[:, 0].mean() / canary["visual"][:, 0].mean()).nan_to_num(0.0))
    return finding(
        "visual-tokens-changed",
        f"the same pixels give other visual tokens than when the checkpoint was saved: they differ by "
        f"{visual:.2g} of their RMS, at most {allowed:.2g} is rounding (their RMS is {scale:.3g} times what it was)",
        _FIX,
        difference=_finite(visual),
        allowed=allowed,
        scale=scale,
    )


def _losses(canary: Mapping[str, Any], now_N: Tensor, allowed: Allowed) -> list[Finding]:
    then_N: Tensor = canary["losses"]
    then, now = float(then_N.double().mean()), float(now_N.double().mean())
    difference = loss_difference(then_N, now_N)
    # On another device or in another precision, the losses of single tokens are not compared, because they may differ
    # by more than `Allowed` permits. The mean losses are always compared.
    exceeded = not abs(then - now) <= _MEAN * (1 + then) or (allowed.losses is not None and difference > allowed.losses)
    if not exceeded:
        return []
    rows, limit = len(canary["rows"]), allowed.losses if allowed.losses is not None else _MEAN
    return [
        finding(
            "loss-not-reproduced",
            f"{rows} held-out {agree(rows, 'row', 'rows')} had a mean loss of {then:.4f} when the checkpoint was saved "
            f"and {agree(rows, 'has', 'have')} {now:.4f} now (nats/token), with the same ids, pixels and visual tokens",
            _FIX,
            saved=then,
            scored=_finite(now),
            largest_difference=_finite(difference),
            allowed=limit,
        )
    ]


def _finite(value: float) -> float | str:
    return value if abs(value) != float("inf") and value == value else "not finite"
