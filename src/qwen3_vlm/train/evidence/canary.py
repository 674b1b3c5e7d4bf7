"""The canary: a few held-out rows that are scored when a checkpoint is saved, and again whenever it is opened.

It holds no text and no picture: per row the hash of the token ids, the hash of the pixels, nine numbers computed from
the visual tokens, and the losses of the label tokens. Ids and pixels must be equal. For visual tokens and losses, the
largest difference that other batches cause is measured at each save by a second pass over the same rows.

Dimension suffixes: those of `eyechart.seam`, and S rows of the canary, K numbers of a digest.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eyechart.data.images import content_hash
from eyechart.scoring.batching import collate
from eyechart.seam import Batch, Sample
from qwen3_vlm.build import Prepared
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.update import SampleSource

ROWS = 32
BATCH, OTHER_BATCHES = 16, (1, 3, 7, 21)
"""Samples per forward pass in the first and in the second pass of a save. A single sample rounds most differently."""
assert sum(OTHER_BATCHES) == ROWS, "the second pass reads all rows"
_SEARCHED = 4 * ROWS
"""Number of held-out rows that are searched for 32 with a readable image."""
_PROJECTIONS = 8


@dataclass(frozen=True)
class Reading:
    """What the model made of the canary's rows, in the order in which they were read."""

    rows: list[int]
    """Rows of the held-out file."""
    ids: list[str]
    """A hash of the ids, the labels and the position of the image block of each row."""
    pixels: list[str]
    """A hash of the pixels of each row."""
    visual_SK: Tensor
    """float32: digests of the visual tokens (`digests`)."""
    losses: list[Tensor]
    """float32 [T_i]: the loss of each label token in nats."""

    def sorted(self) -> Reading:
        """Return the same with rows in increasing order."""
        order = sorted(range(len(self.rows)), key=self.rows.__getitem__)
        return Reading(
            [self.rows[i] for i in order],
            [self.ids[i] for i in order],
            [self.pixels[i] for i in order],
            self.visual_SK[order],
            [self.losses[i] for i in order],
        )


@dataclass(frozen=True)
class Canary:
    """The rows of a run's canary, prepared once: the frozen tower's features do not change during training."""

    first: list[Batch]
    second: list[Batch]
    """The same rows in reverse order and in batches of other sizes, through the tower again."""
    pixels: dict[int, str]
    """Hash of the pixels of each row."""

    def score(self, vlm: VLM, precision: str) -> dict[str, Any]:
        """Score the rows twice, and return plain values and tensors to save in a checkpoint.

        `precision` is the value of `model.precision`.
        """
        first = read(vlm, self.first, self.pixels).sorted()
        second = read(vlm, self.second, self.pixels).sorted()
        return {
            "rows": first.rows,
            "ids": first.ids,
            "pixels": first.pixels,
            "visual": first.visual_SK,
            "losses": torch.cat(first.losses),
            "counts": [len(losses_T) for losses_T in first.losses],
            "spread": {
                "visual": visual_difference(first.visual_SK, second.visual_SK),
                "losses": loss_difference(torch.cat(first.losses), torch.cat(second.losses)),
            },
            "device": device_name(vlm),
            "precision": precision,
        }


@torch.no_grad()
def prepare_canary(prepared: Prepared, source: SampleSource, vlm: VLM) -> Canary | None:
    """Choose the rows of a run's canary and compute the tower's features; None if no held-out row can be scored.

    Args:
        prepared: the data of the run.
        source: the held-out set that training uses, with cached features or with pixels.
        vlm: the model.
    """
    chosen: list[tuple[Sample, Sample]] = []
    for position in range(min(_SEARCHED, len(source))):
        sample, read_again = source[position], prepared.eval[position]
        if isinstance(sample, Sample) and isinstance(read_again, Sample) and sample.label_tokens:
            chosen.append((sample, read_again))
        if len(chosen) == ROWS:
            break
    if not chosen:
        return None
    pad_id = prepared.inputs.pad_id
    first = [_with_features(vlm, part, pad_id) for part in _groups([sample for sample, _ in chosen], BATCH)]
    opened = [opened for _, opened in chosen]
    second = [_with_features(vlm, part, pad_id) for part in _other_groups(opened[::-1])]
    return Canary(first, second, {sample.row: sample.image_hash for sample in opened})


@torch.no_grad()
def read(vlm: VLM, batches: Sequence[Batch], hashes: dict[int, str] | None = None) -> Reading:
    """Send batches through the model as scoring does.

    Args:
        vlm: the model, in eval mode.
        batches: the rows, with pixels or with the tower's features.
        hashes: hashes of the pixels by row; None computes them from the batches.
    """
    rows, ids, pixels, visual, losses = [], [], [], [], []
    for batch in batches:
        tokens = vlm.encode(batch)
        visual.append(digests(tokens.layers[0]))
        losses += [loss_T.float().cpu() for loss_T in vlm.nll(batch, tokens).per_sample()]
        for place, sample in enumerate(batch.samples):
            rows.append(sample.row)
            ids.append(_ids_hash(batch, place))
            pixels.append(hashes[sample.row] if hashes is not None else _pixel_hash(batch, place))
    return Reading(rows, ids, pixels, torch.cat(visual), losses)


def digests(visual_BQE: Tensor) -> Tensor:
    """Return nine numbers per image [B,K]: the RMS of its visual tokens, and eight fixed projections of them.

    The weights of a projection are cosines of fixed frequencies, which are the same on every machine. The visual tokens
    of an image, tens of thousands of numbers or more, cannot be computed back from nine.
    """
    flat_BN = visual_BQE.detach().reshape(len(visual_BQE), -1).double().cpu()
    rms_B1 = flat_BN.square().mean(dim=1, keepdim=True).sqrt()
    return torch.cat([rms_B1, flat_BN @ _weights(flat_BN.shape[1])], dim=1).float()


def visual_difference(one_SK: Tensor, other_SK: Tensor) -> float:
    """Return the largest difference between digests of the same rows, as a share of the row's RMS; inf for NaN."""
    scale_S1 = one_SK[:, :1].abs().clamp_min(1e-12)
    return _largest((one_SK - other_SK).abs() / scale_S1)


def loss_difference(one_N: Tensor, other_N: Tensor) -> float:
    """Return the largest difference of token losses as a share of one nat plus the loss; inf for NaN."""
    return _largest((one_N - other_N).abs() / (1 + one_N.abs()))


def device_name(vlm: VLM) -> str:
    """Return the kind of device that computes: `cpu`, or the name of the GPU, because GPUs round differently."""
    return torch.cuda.get_device_name(vlm.device) if vlm.device.type == "cuda" else vlm.device.type


def batches_of(samples: Sequence[Sample], pad_id: int) -> list[Batch]:
    """Return the batches in which an opened checkpoint reads the canary's rows."""
    return [collate(part, pad_id) for part in _groups(list(samples), BATCH)]


def _groups(samples: list[Sample], size: int) -> list[list[Sample]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _other_groups(samples: list[Sample]) -> list[list[Sample]]:
    ends = list(itertools.accumulate(OTHER_BATCHES))
    groups = [samples[end - size : end] for size, end in zip(OTHER_BATCHES, ends, strict=True)]
    return [group for group in groups if group]


def _with_features(vlm: VLM, samples: list[Sample], pad_id: int) -> Batch:
    batch = collate(samples, pad_id)
    plain = tuple(replace(sample, pixels_CHW=None) for sample in batch.samples)
    return replace(batch, samples=plain, pixels_BCHW=None, features_BPV=vlm.features(batch).cpu())


def _ids_hash(batch: Batch, place: int) -> str:
    length = int(batch.lengths_B[place])
    parts = (batch.ids_BT[place, :length], batch.labels_BT[place, :length], batch.block_BT[place, :length].long())
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pixel_hash(batch: Batch, place: int) -> str:
    assert batch.pixels_BCHW is not None, "an opened checkpoint reads pixels"
    return content_hash(batch.pixels_BCHW[place].cpu())


@functools.lru_cache(maxsize=2)
def _weights(size: int) -> Tensor:
    """Return the weights [N,8] of the projections, of about unit length."""
    steps_N1 = torch.arange(1, size + 1, dtype=torch.float64)[:, None]
    frequencies_1K = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19], dtype=torch.float64).sqrt()[None, :_PROJECTIONS]
    weights_NK: Tensor = torch.cos(steps_N1 * frequencies_1K) * (2 / size) ** 0.5
    return weights_NK


def _largest(differences: Tensor) -> float:
    return float(torch.nan_to_num(differences, nan=float("inf")).max()) if differences.numel() else 0.0
