"""Judges the preprocessing settings: those in use by the tower's own file, and an unusual file by the tower itself.

No weight of a tower states the mean and std that it was trained with. But with its own, similar captions have similar
features, and the features of images differ most; with others, both decrease. If a file differs from what published
SigLIP towers have, the tower encodes the same images with both, and the file is right if it is better in both respects.

Dimension suffixes: N images, V width of the tower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eyechart.data.images import ImageSpec, image_spec
from eyechart.faults.pairing import association
from eyechart.faults.prepared_pixels import FIX
from eyechart.faults.table import finding
from eyechart.results import Finding
from eyechart.seam import Sample
from eyechart.verdict.statistics import FloatArray
from qwen3_vlm.build import Prepared
from qwen3_vlm.models.vision import VisionTower
from qwen3_vlm.models.vlm import VLM

# exact: the values in the files of the published towers
_MEAN, _STD, _RESCALE = 0.5, 0.5, 1 / 255
"""The preprocessing settings that every published SigLIP tower was trained with."""
# exact: the rounding of 8-bit constants
_GREY_LEVELS = 1.01
"""Largest difference, in grey levels of 8-bit pixels, between settings that count as equal. Rounding mean and std to
whole grey levels (127/255 instead of 0.5) moves black or white by half a grey level each, 1.004 together."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_LONG = 10.0
"""An input beyond plus or minus this is an error: 5 to 10 times what any published normalisation gives."""
# size: images at a time
_BATCH = 32


@dataclass(frozen=True)
class Fit:
    """How well a tower works with some preprocessing settings."""

    z: float
    """Association of captions with the tower's pooled features (`faults.pairing`)."""
    spread: float
    """Norm of the pooled features after their mean is subtracted, divided by the norm before."""


def settings_findings(
    prepared: Prepared, settings: dict[str, Any], vlm: VLM, samples: Sequence[Sample]
) -> list[Finding]:
    """Compare the settings in use with those in the tower's file, and an unusual file with what the tower shows.

    Args:
        prepared: the data of the run, with the settings in use.
        settings: the decoded preprocessor_config.json.
        vlm: the model with the tower.
        samples: training samples with their pixels, for the tower to encode.
    """
    spec = prepared.inputs.spec
    own = image_spec(settings, spec.height)
    differ = [*_differences(spec, own)]
    if differ:
        return [
            finding(
                "wrong-preprocessing",
                "images are not prepared by the tower's own preprocessor_config.json: "
                + "; ".join(f"{name} {used} instead of {wanted}" for name, used, wanted in differ),
                FIX,
                settings={name: {"used": used, "file": wanted} for name, used, wanted in differ},
            )
        ]
    usual = ImageSpec(spec.height, spec.width, (_MEAN,) * 3, (_STD,) * 3, spec.resample, _RESCALE)
    odd = [*_differences(spec, usual)]
    if not odd:
        return []
    fits = [fit_of(vlm, given, samples, prepared.config.seed) for given in (spec, usual)]
    own_fit, usual_fit = fits
    if own_fit and usual_fit and own_fit.z > usual_fit.z and own_fit.spread > usual_fit.spread:
        return []
    return [_unusual(prepared, spec, odd, fits)]


def _unusual(
    prepared: Prepared, spec: ImageSpec, odd: Sequence[tuple[str, Any, Any]], fits: Sequence[Fit | None]
) -> Finding:
    lowest, highest = min(_ends(spec)), max(_ends(spec))
    own, usual = fits
    shown = (
        ""
        if own is None or usual is None
        else f"; with the usual values captions match the tower's features with z {usual.z:.1f}, with these {own.z:.1f}"
    )
    return finding(
        "wrong-preprocessing",
        f"{prepared.config.model.vision}/preprocessor_config.json is unusual for a SigLIP tower: "
        + "; ".join(f"{name} {used}, published towers have {wanted}" for name, used, wanted in odd)
        + f"; pixels then run from {lowest:.3g} to {highest:.3g} instead of -1 to 1{shown}",
        "restore the preprocessor_config.json that came with the tower, unless it was trained with these values",
        "error" if max(abs(lowest), abs(highest)) > _LONG else "warning",
        range=[lowest, highest],
        z=None if own is None else own.z,
        z_with_usual_values=None if usual is None else usual.z,
    )


@torch.no_grad()
def fit_of(vlm: VLM, spec: ImageSpec, samples: Sequence[Sample], seed: int) -> Fit | None:
    """Encode the samples' pixels with these settings; None if nothing can be compared (equal images or captions)."""
    tower = VisionTower(vlm.tower.model, spec)
    with_pixels = [sample for sample in samples if sample.pixels_CHW is not None]
    pooled = []
    for start in range(0, len(with_pixels), _BATCH):
        part = [sample.pixels_CHW for sample in with_pixels[start : start + _BATCH]]
        pixels_BCHW = torch.stack([pixels_CHW for pixels_CHW in part if pixels_CHW is not None]).to(vlm.device)
        pooled.append(tower(pixels_BCHW).double().mean(dim=1).cpu().numpy())
    if not pooled:
        return None
    pooled_NV: FloatArray = np.concatenate(pooled)
    z = association(pooled_NV, [sample.caption for sample in with_pixels], seed).z
    if z is None:
        return None
    return Fit(z, float(np.linalg.norm(pooled_NV - pooled_NV.mean(axis=0)) / np.linalg.norm(pooled_NV)))


def _differences(used: ImageSpec, wanted: ImageSpec) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value in use and expected value of every setting that changes pixels by more than 8-bit rounding."""
    if used.resample != wanted.resample:
        yield "resample", used.resample, wanted.resample
    apart = max(abs(got - end) for got, end in zip(_ends(used), _ends(wanted), strict=True))
    if apart * min(wanted.std) / wanted.rescale <= _GREY_LEVELS:
        return
    pairs = (
        ("image_mean", list(used.mean), list(wanted.mean)),
        ("image_std", list(used.std), list(wanted.std)),
        ("rescale_factor", used.rescale, wanted.rescale),
    )
    for name, got, expected in pairs:
        if not np.allclose(got, expected, rtol=1e-3, atol=1e-3 if name == "image_mean" else 0):
            yield name, got, expected


def _ends(spec: ImageSpec) -> list[float]:
    """Return what black and white become in each channel."""
    return [
        (value * spec.rescale - mean) / std for value in (0, 255) for mean, std in zip(spec.mean, spec.std, strict=True)
    ]
