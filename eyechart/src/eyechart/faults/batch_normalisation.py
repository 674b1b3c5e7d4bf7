"""Checks, from the pixel values alone, whether a batch was normalised with the settings of the model's processor.

The pixels of an image file are bytes, and image processors also store resized images as bytes. Each colour channel
therefore has only 256 possible normalised values, (byte / 255 - mean) / std, which depend on the mean and the standard
deviation. If the values of a batch are possible with the processor's own settings, these settings were used. If they
are possible with another well-known mean and standard deviation, those were used. The content of the images does not
matter: dark or colourful images cause no finding. In a 16-bit format, only values near 0 are precise enough for this
check. If the values match no known settings, as with augmented images, only their range is checked.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eyechart.faults.batch_evidence import BatchEvidence, Check, Why
from eyechart.faults.table import finding
from eyechart.processors.arrays import AnyArray
from eyechart.processors.geometry import Unassigned
from eyechart.processors.pixel_entries import PixelLayout
from eyechart.processors.pixel_images import Normalisation, normalisation_of, numbers_of
from eyechart.results import Finding

# exact: one grey level
_BYTE = 1 / 255
KNOWN = {
    "values of 0 to 255, neither rescaled nor normalised": Normalisation(1.0, (0.0,) * 3, (1.0,) * 3),
    "values of 0 to 1, rescaled but not normalised": Normalisation(_BYTE, (0.0,) * 3, (1.0,) * 3),
    "normalised with mean and deviation 0.5": Normalisation(_BYTE, (0.5,) * 3, (0.5,) * 3),
    "normalised with the values of ImageNet": Normalisation(_BYTE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "normalised with the values of CLIP": Normalisation(
        _BYTE, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ),
}
"""Normalisation settings of published image processors, by their descriptions in messages."""
# size: values compared
_MOST = 20_000
"""Maximum number of pixel values that are compared; they are evenly spaced over all images."""
# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_NEAR = 0.02
"""Maximum distance between a denormalised value and the nearest byte value, in addition to the rounding error of its
dtype. For float32, the rounding error is about 1e-4."""
# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_SHARE = 0.99
"""Minimum share of denormalised values that must be near byte values. With a wrong mean and standard deviation, the
share is about 0.04, by chance."""
# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_COARSEST = 0.1
"""Maximum rounding error of a denormalised value, in grey levels. In a 16-bit format, only values near 0 are below this
limit."""
# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_FEWEST = 30
"""Minimum number of values with a rounding error below `_COARSEST`. With wrong settings, up to one such value in five
is near a byte value by chance."""
# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_OVERSHOOT = 0.15
"""Tolerance for the range of the values, as a fraction of this range. Bicubic resizing overshoots at edges if it works
on floats instead of bytes."""


def diagnose_normalisation(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield a finding if the pixels are not normalised with the processor's settings."""
    if not evidence.geometry.entries or evidence.geometry.unassigned is Unassigned.PATCHES_DIFFER:
        return
    own = normalisation_of(evidence.processor)
    if own is None:
        why = Why.NO_PROCESSOR if evidence.processor is None else Why.UNKNOWN_FORM
        evidence.skip(Check.NORMALISATION, why)
        return
    try:
        values_CN = _colours(evidence)
    except TypeError:
        values_CN = None
    if values_CN is None or not np.isfinite(values_CN).all() or (values_CN == values_CN[:, :1]).all():
        evidence.skip(Check.NORMALISATION, Why.UNKNOWN_FORM)
        return
    low, high = float(values_CN.min()), float(values_CN.max())
    rounding = _rounding(evidence)
    if _on_bytes(values_CN, own, rounding):
        return
    found = next(
        (name for name, other in KNOWN.items() if other != own and _on_bytes(values_CN, other, rounding)), None
    )
    if found is None and _on_bytes(values_CN[::-1], own, rounding):
        found = "normalised with the processor's values in the opposite order of colours"
    if found is None:
        evidence.skip(Check.NORMALISATION, Why.COARSE)
        slack = _OVERSHOOT * (own.highest - own.lowest)
        if own.lowest - slack <= low and high <= own.highest + slack:
            return
    yield finding(
        "wrong-preprocessing",
        f"pixel values are from {low:.3g} to {high:.3g} and "
        + (f"are {found}" if found else "exceed the range that the processor gives")
        + f"; the processor's own settings (mean {_list(own.mean)}, deviation {_list(own.std)}) give "
        f"{own.lowest:.3g} to {own.highest:.3g}",
        "let the checkpoint's own processor make the pixels, without a transform before or after that rescales or "
        "normalises as well",
        low=low,
        high=high,
        found=found or "",
        mean=list(own.mean),
        std=list(own.std),
    )


def _colours(evidence: BatchEvidence) -> AnyArray | None:
    """Return a sample of the pixel values per colour, [C, N], without zero padding; None if the layout is not known."""
    entries = evidence.geometry.entries
    parts = []
    for entry in entries:
        values = numbers_of(evidence.batch, evidence.geometry, entry)
        if evidence.geometry.pixels.layout is PixelLayout.PATCHES:
            if values.shape[1] % 3:
                return None
            colours = np.moveaxis(values.reshape(len(values), 3, -1), 1, 0).reshape(3, -1)
        else:
            while values.ndim > 3:
                values = values[0]
            if values.ndim != 3 or 3 not in (values.shape[0], values.shape[2]):
                return None
            colours = (values if values.shape[0] == 3 else np.moveaxis(values, 2, 0)).reshape(3, -1)
        step = max(1, colours.shape[1] * len(entries) // _MOST)
        kept = colours[:, ::step]
        parts.append(kept[:, (kept != 0).any(axis=0)])
    joined = np.concatenate(parts, axis=1).astype(np.float64)
    return joined if joined.shape[1] else None


def _rounding(evidence: BatchEvidence) -> float:
    """Return the relative rounding error of the pixels: 2^-8 for bfloat16, 2^-11 for float16, 0 for wider dtypes."""
    kind = str(getattr(evidence.batch[str(evidence.geometry.pixels.key)], "dtype", ""))
    return 2.0**-8 if "bfloat16" in kind else 2.0**-11 if "float16" in kind else 0.0


def _on_bytes(values_CN: AnyArray, normalisation: Normalisation, rounding: float) -> bool:
    """Return whether nearly all denormalised values are byte values; values with a large rounding error are ignored."""
    bytes_CN = normalisation.bytes_of(values_CN)
    step_C1 = normalisation.rescale / np.reshape(normalisation.std, (-1, 1))
    tolerance_CN = np.broadcast_to(_NEAR + rounding * np.abs(values_CN) / step_C1, values_CN.shape)
    exact_CN = tolerance_CN <= _COARSEST
    fits_CN = (np.abs(bytes_CN - bytes_CN.round()) <= tolerance_CN) & (bytes_CN > -1) & (bytes_CN < 256)
    return bool(exact_CN.sum() >= _FEWEST and fits_CN[exact_CN].mean() >= _SHARE)


def _list(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in (values if len(set(values)) > 1 else values[:1]))
