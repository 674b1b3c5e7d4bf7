"""Samples and scorers small enough to compute by hand: the checks know no model, so neither do their tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from eyechart.seam import IGNORE_INDEX, Batch, CollateStats, Sample, TokenNLL, VisualTokens

EOS = 1
START, PATCH, END = 2, 3, 4
FIRST_WORD = 10
LATENTS, WIDTH = 2, 4


def make_sample(
    row: int, picture: int | None = None, words: int | None = None, image_hash: str | None = None
) -> Sample:
    """A sample whose caption names its picture: labels are `words` ids, the first of them FIRST_WORD + picture."""
    picture = row if picture is None else picture
    words = 3 + row % 5 if words is None else words
    caption = [FIRST_WORD + picture + 7 * t for t in range(words)]
    ids = [START, *[PATCH] * LATENTS, END, 5, *caption, *([EOS] if words else [])]
    labels = [IGNORE_INDEX] * (LATENTS + 3) + ids[LATENTS + 3 :]
    return Sample(
        row=row,
        id=f"id{row}",
        image=f"{picture}.png",
        caption=f"picture {picture} in {words} words",
        ids_T=np.array(ids, dtype=np.int64),
        labels_T=np.array(labels, dtype=np.int64),
        block=(0, LATENTS + 2),
        full_length=len(ids),
        image_hash=f"hash{picture}" if image_hash is None else image_hash,
        pixels_CHW=pixels_of(picture),
    )


def pixels_of(picture: int) -> torch.Tensor:
    """uint8 [3,8,8] with the picture's number in the first pixel, and another in every other one."""
    channel, row, column = torch.meshgrid(torch.arange(3), torch.arange(8), torch.arange(8), indexing="ij")
    return ((picture + 5 * channel + 17 * row + 31 * column) % 256).to(torch.uint8)


def make_batches(samples: Sequence[Sample], batch_size: int) -> list[Batch]:
    """Right-padded batches in the order given."""
    groups = [tuple(samples[i : i + batch_size]) for i in range(0, len(samples), batch_size)]
    return [_collate(group) for group in groups]


def _collate(samples: tuple[Sample, ...]) -> Batch:
    longest = max(len(s.ids_T) for s in samples)
    ids_BT = torch.full((len(samples), longest), EOS)
    labels_BT = torch.full((len(samples), longest), IGNORE_INDEX)
    block_BT = torch.zeros((len(samples), longest), dtype=torch.bool)
    for i, sample in enumerate(samples):
        ids_BT[i, : len(sample.ids_T)] = torch.from_numpy(sample.ids_T)
        labels_BT[i, : len(sample.ids_T)] = torch.from_numpy(sample.labels_T)
        block_BT[i, slice(*sample.block)] = True
    return Batch(
        samples=samples,
        ids_BT=ids_BT,
        labels_BT=labels_BT,
        lengths_B=torch.tensor([len(s.ids_T) for s in samples]),
        block_BT=block_BT,
        pixels_BCHW=torch.stack([s.pixels_CHW for s in samples]),
        features_BPV=None,
        stats=CollateStats.of(samples),
    )


def code_of(picture: int) -> torch.Tensor:
    """What the fake connector makes of a picture: [LATENTS, WIDTH], different for every picture."""
    positions = torch.arange(LATENTS * WIDTH, dtype=torch.float32)
    return torch.sin(positions * 1.7 + 2.1 * picture).view(LATENTS, WIDTH)


class Healthy:
    """Losses rise with the distance between the visual tokens and those of the picture that the caption names."""

    strength = 2.0

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.batch_sizes: list[int] = []

    def encode(self, batch: Batch) -> VisualTokens:
        assert batch.pixels_BCHW is not None
        self.encoded.extend(s.row for s in batch.samples)
        pictures = batch.pixels_BCHW[:, 0, 0, 0].tolist()
        return VisualTokens((torch.stack([self.code(picture) for picture in pictures]),))

    def code(self, picture: int) -> torch.Tensor:
        return code_of(picture)

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        assert batch.pixels_BCHW is None and all(s.pixels_CHW is None for s in batch.samples), "pixels must be dropped"
        self.batch_sizes.append(len(batch))
        parts = []
        for i, sample in enumerate(batch.samples):
            labels_T = torch.from_numpy(sample.labels_T[sample.labels_T != IGNORE_INDEX])
            seen_QE = None if visual is None else visual.layers[0][i]
            parts.append(0.3 + 0.1 * (labels_T % 3) + self.surprise(labels_T, seen_QE))
        return TokenNLL(torch.cat(parts).float(), torch.tensor([len(part) for part in parts]))

    def surprise(self, labels_T: torch.Tensor, seen_QE: torch.Tensor | None) -> torch.Tensor:
        if seen_QE is None:
            return torch.tensor(0.9 * self.strength)
        wanted_QE = code_of(int(labels_T[0]) - FIRST_WORD)
        distance = (seen_QE - wanted_QE).square().mean().sqrt()
        # EOS does not depend on the picture.
        return self.strength * distance * (labels_T != EOS)


class Constant(Healthy):
    """The connector says the same whatever the picture: a soft prompt. Zero and noise still hurt."""

    def code(self, picture: int) -> torch.Tensor:
        return code_of(0)

    def surprise(self, labels_T: torch.Tensor, seen_QE: torch.Tensor | None) -> torch.Tensor:
        distance = 1.0 if seen_QE is None else (seen_QE - code_of(0)).square().mean().sqrt()
        return distance * torch.ones(len(labels_T))


class NotInjected(Healthy):
    """Visual tokens are computed and never placed."""

    def surprise(self, labels_T: torch.Tensor, seen_QE: torch.Tensor | None) -> torch.Tensor:
        return torch.ones(len(labels_T))


class NaNWhenZero(Healthy):
    """Not a number as soon as the visual tokens are zero."""

    def surprise(self, labels_T: torch.Tensor, seen_QE: torch.Tensor | None) -> torch.Tensor:
        if seen_QE is not None and not seen_QE.any():
            return torch.full((len(labels_T),), torch.nan)
        return super().surprise(labels_T, seen_QE)
