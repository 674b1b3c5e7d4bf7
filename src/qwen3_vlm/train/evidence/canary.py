"""The canary: a few held-out rows that are scored when a checkpoint is saved, and again whenever it is opened.

The canary shows whether the opened checkpoint still gives the same results. It contains no text and no picture. For
each row, it contains the hash of the token ids, the hash of the pixels, nine numbers computed from the visual tokens,
and the losses of the label tokens. When the checkpoint is opened, the hashes of ids and pixels must be the same as
before. Visual tokens and losses may differ by rounding, because rounding depends on how rows are batched. At each save,
a second pass over the same rows in other batches measures how large this difference is.

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
"""Batch sizes of the first pass over the canary's rows and of the second pass.

The second pass includes a batch of one sample, because its rounding differs most from that of large batches."""
assert sum(OTHER_BATCHES) == ROWS, "the second pass reads all rows"
_SEARCHED = 4 * ROWS
"""Number of held-out rows, counted from the first one, from which 32 rows with a readable image are chosen."""
_PROJECTIONS = 8


@dataclass(frozen=True)
class Reading:
    """The results of one pass of the model over the canary's rows, in the order in which the rows were read."""

    rows: list[int]
    """The row numbers in the held-out file."""
    ids: list[str]
    """For each row, a hash of its token ids, its labels and the position of its image tokens."""
    pixels: list[str]
    """For each row, a hash of its pixels."""
    visual_SK: Tensor
    """float32: for each row, nine numbers computed from its visual tokens by the function `digests`."""
    losses: list[Tensor]
    """float32 [T_i]: for each row, the losses of its label tokens in nats."""

    def sorted(self) -> Reading:
        """Return the same results, with the rows in increasing order."""
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
    """The rows of a run's canary, with the features of the vision tower.

    The rows are prepared only once per run: the tower is frozen, so its features do not change during training.
    """

    first: list[Batch]
    second: list[Batch]
    """The same rows in reverse order and in other batch sizes; the tower has computed their features a second time."""
    pixels: dict[int, str]
    """For each row, the hash of its pixels."""

    def score(self, vlm: VLM, precision: str) -> dict[str, Any]:
        """Score the rows twice, and return the plain values and tensors that are saved in a checkpoint.

        `precision` is the numerical precision of the model, as set in `model.precision`.
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
    """Choose the rows of a run's canary and compute their tower features.

    Args:
        prepared: the data of the run.
        source: the held-out set that training uses, with cached features or with pixels.
        vlm: the model.

    Returns:
        The canary; None if no held-out row can be scored.
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
    """Run the model on batches in the same way as scoring does.

    Args:
        vlm: the model, in eval mode.
        batches: the rows, with pixels or with the tower's features.
        hashes: the hash of the pixels of each row. If this is None, the hashes are computed from the batches.
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

    The weights of each projection are a cosine of a fixed frequency, so they are the same on every machine. The visual
    tokens of an image are tens of thousands of numbers or more, so they cannot be reconstructed from nine.
    """
    flat_BN = visual_BQE.detach().reshape(len(visual_BQE), -1).double().cpu()
    rms_B1 = flat_BN.square().mean(dim=1, keepdim=True).sqrt()
    return torch.cat([rms_B1, flat_BN @ _weights(flat_BN.shape[1])], dim=1).float()


def visual_difference(one_SK: Tensor, other_SK: Tensor) -> float:
    """Return the largest difference between two digests of the same rows; inf if a value is NaN.

    Each difference is divided by the RMS of the row's visual tokens in the first digest.
    """
    scale_S1 = one_SK[:, :1].abs().clamp_min(1e-12)
    return _largest((one_SK - other_SK).abs() / scale_S1)


def loss_difference(one_N: Tensor, other_N: Tensor) -> float:
    """Return the largest difference between two losses of the same token; inf if a loss is NaN.

    Each difference is divided by one nat plus the first loss.
    """
    return _largest((one_N - other_N).abs() / (1 + one_N.abs()))


def device_name(vlm: VLM) -> str:
    """Return the kind of device on which the model runs: `cpu`, or the name of the GPU model.

    The name is needed because different GPU models round differently.
    """
    return torch.cuda.get_device_name(vlm.device) if vlm.device.type == "cuda" else vlm.device.type


def batches_of(samples: Sequence[Sample], pad_id: int) -> list[Batch]:
    """Return the batches in which the canary's rows are scored when a checkpoint is opened."""
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
    """Return the weights [N,8] of the eight projections; each projection has a norm of about 1."""
    steps_N1 = torch.arange(1, size + 1, dtype=torch.float64)[:, None]
    frequencies_1K = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19], dtype=torch.float64).sqrt()[None, :_PROJECTIONS]
    weights_NK: Tensor = torch.cos(steps_N1 * frequencies_1K) * (2 / size) ** 0.5
    return weights_NK


def _largest(differences: Tensor) -> float:
    return float(torch.nan_to_num(differences, nan=float("inf")).max()) if differences.numel() else 0.0
