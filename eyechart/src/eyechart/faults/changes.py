"""Functions that copy a batch or its visual tokens with one input changed, for the experiments in `faults.experiments`.

Suffixes of array names give their dimensions, as in `seam`, the scoring interface. In addition, S is the number of
slots of an image (Q in `seam`). A slot is the place of one visual token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from eyechart.seam import Batch, CollateStats, VisualTokens


def select(batch: Batch, places: Sequence[int]) -> Batch:
    """Return the rows at `places` with their images, padded only to the longest of these rows."""
    lengths_B = batch.lengths_B[list(places)]
    longest = int(lengths_B.max())
    rows = list(places)
    samples = tuple(batch.samples[i] for i in rows) if batch.samples else ()
    return replace(
        batch,
        samples=samples,
        ids_BT=batch.ids_BT[rows, :longest],
        labels_BT=batch.labels_BT[rows, :longest],
        lengths_B=lengths_B,
        block_BT=batch.block_BT[rows, :longest],
        pixels_BCHW=None if batch.pixels_BCHW is None else batch.pixels_BCHW[rows],
        features_BPV=None if batch.features_BPV is None else batch.features_BPV[rows],
        stats=CollateStats.of(samples),
        inputs=None if batch.inputs is None else batch.inputs.rows(rows),
    )


def without_images(batch: Batch) -> Batch:
    """Return the batch without its images, in the form that the method `nll` of a scorer expects."""
    return batch.text()


def with_text(text: Batch, ids_BT: Tensor, labels_BT: Tensor) -> Batch:
    """Replace the token ids and labels of a batch in both its tensors and its samples; a scorer may read either."""
    samples = tuple(
        replace(s, ids_T=ids_T[: len(s.ids_T)].numpy(), labels_T=labels_T[: len(s.labels_T)].numpy())
        for s, ids_T, labels_T in zip(text.samples, ids_BT.cpu(), labels_BT.cpu(), strict=False)
    )
    return replace(text, samples=samples, ids_BT=ids_BT, labels_BT=labels_BT)


def with_noise_image(few: Batch, row: int, generator: torch.Generator) -> Batch:
    """Replace one image of a batch with noise in both its tensors and its samples; a scorer may read either."""
    pixels_BCHW, features_BPV, samples = few.pixels_BCHW, few.features_BPV, list(few.samples)
    if pixels_BCHW is not None:
        pixels_BCHW = pixels_BCHW.clone()
        noise_CHW = torch.randint(0, 256, pixels_BCHW.shape[1:], generator=generator).to(pixels_BCHW)
        pixels_BCHW[row] = noise_CHW
        if samples:
            samples[row] = replace(samples[row], pixels_CHW=noise_CHW)
    if features_BPV is not None:
        features_BPV = features_BPV.clone()
        noise_PV = torch.randn(features_BPV.shape[1:], generator=generator).to(features_BPV)
        features_BPV[row] = noise_PV * features_BPV[row].std()
        if samples:
            samples[row] = replace(samples[row], features_PV=features_BPV[row])
    inputs = None if few.inputs is None else few.inputs.with_noise(row, generator)
    return replace(few, samples=tuple(samples), pixels_BCHW=pixels_BCHW, features_BPV=features_BPV, inputs=inputs)


def with_negated_images(batch: Batch) -> Batch:
    """Return the batch with all pixels inverted."""
    if batch.inputs is not None:
        return replace(batch, inputs=batch.inputs.negated())
    assert batch.pixels_BCHW is not None, "a text-only batch has no images to invert"
    return replace(batch, pixels_BCHW=255 - batch.pixels_BCHW)


def random_like(visual: VisualTokens, generator: torch.Generator) -> VisualTokens:
    """Return Gaussian random tokens with the same root mean square as the given tokens.

    The random tokens differ between images even if a poorly trained connector gives almost the same tokens for all
    images. Their effect on the losses can therefore be measured.
    """
    layers = []
    for layer in visual.layers:
        spread = float(layer[torch.isfinite(layer)].float().square().mean().sqrt())
        drawn = torch.randn(layer.shape, generator=generator) * (spread if 0 < spread < float("inf") else 1.0)
        layers.append(drawn.to(layer.dtype))
    return VisualTokens(tuple(layers), visual.counts_B)


def with_rows(kept: VisualTokens, taken: VisualTokens, rows: Sequence[int]) -> VisualTokens:
    """Return `kept` with the tokens of some images replaced by those in `taken`."""
    return _mixed(kept, taken, (list(rows),))


def with_slots(kept: VisualTokens, taken: VisualTokens, slots: Sequence[int]) -> VisualTokens:
    """Return `kept` with the tokens in some slots of every image replaced by those in `taken`."""
    return _mixed(kept, taken, (slice(None), list(slots)))


def _mixed(kept: VisualTokens, taken: VisualTokens, where: tuple[slice | list[int], ...]) -> VisualTokens:
    layers = []
    for kept_BSE, taken_BSE in zip(kept.layers, taken.layers, strict=True):
        mixed_BSE = kept_BSE.clone()
        mixed_BSE[where] = taken_BSE[where]
        layers.append(mixed_BSE)
    return VisualTokens(tuple(layers), kept.counts_B)
