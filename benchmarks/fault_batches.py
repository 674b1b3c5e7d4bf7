"""Faults of the code that makes batches, and information that leaks from one sample of a batch to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eyechart.seam import IGNORE_INDEX, Batch, TokenNLL
from fault_site import Case, Change, swap, take_base

_VISUAL = "qwen3_vlm.models.vlm.VLM.visual"
_RESAMPLER = "qwen3_vlm.models.connector.Resampler.forward"
_PIECES = 260, 498
"""Range of ids that are pieces of words in the tokenizer that comes with the repository."""


def _collated(change: Callable[[Batch, int], Batch]) -> Change:
    """Change every batch; `change` also receives the pad id."""
    return swap(
        "eyechart.scoring.batching.collate",
        lambda original: lambda items, pad_id: change(original(items, pad_id), pad_id),
    )


def _images(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the pixels or the features of every batch, whichever it contains."""

    def of(images: Tensor | None) -> Tensor | None:
        return None if images is None else change(images)

    return _collated(
        lambda batch, pad_id: replace(batch, pixels_BCHW=of(batch.pixels_BCHW), features_BPV=of(batch.features_BPV))
    )


def _last_two_swapped(images: Tensor) -> Tensor:
    return images if len(images) < 2 else torch.cat([images[:-2], images[-2:].flip(0)])


def _labels_of_the_next(batch: Batch, pad_id: int) -> Batch:
    return replace(batch, labels_BT=batch.labels_BT.roll(1, 0)) if len(batch) > 1 else batch


def _padding_labelled(batch: Batch, pad_id: int) -> Batch:
    places_T = torch.arange(batch.ids_BT.shape[1])
    return replace(batch, labels_BT=batch.labels_BT.masked_fill(places_T >= batch.lengths_B[:, None], pad_id))


def _last_column_masked(batch: Batch, pad_id: int) -> Batch:
    labels_BT = batch.labels_BT.clone()
    labels_BT[:, -1:] = IGNORE_INDEX
    return replace(batch, labels_BT=labels_BT)


def _padded_on_the_left(batch: Batch, pad_id: int) -> Batch:
    padding_B = batch.ids_BT.shape[1] - batch.lengths_B

    def moved(rows_BT: Tensor) -> Tensor:
        rows = [row_T.roll(int(padding)) for row_T, padding in zip(rows_BT, padding_B, strict=True)]
        return torch.stack(rows) if rows else rows_BT

    ids_BT, labels_BT, block_BT = map(moved, (batch.ids_BT, batch.labels_BT, batch.block_BT))
    return replace(batch, ids_BT=ids_BT, labels_BT=labels_BT, block_BT=block_BT)


def _cut_to_the_shortest(batch: Batch, pad_id: int) -> Batch:
    if not len(batch):
        return batch
    shortest = int(batch.lengths_B.min())
    return replace(
        batch,
        ids_BT=batch.ids_BT[:, :shortest],
        labels_BT=batch.labels_BT[:, :shortest],
        block_BT=batch.block_BT[:, :shortest],
        lengths_B=batch.lengths_B.clamp(max=shortest),
    )


def _struck_out() -> Callable[[Batch, int], Batch]:
    """Replace 15% of the caption's input tokens by random pieces of words, as for a masked language model."""
    generator = torch.Generator().manual_seed(11)

    def change(batch: Batch, pad_id: int) -> Batch:
        drawn_BT = torch.rand(batch.ids_BT.shape, generator=generator) < 0.15
        others_BT = torch.randint(*_PIECES, batch.ids_BT.shape, generator=generator)
        struck_BT = drawn_BT & (batch.labels_BT != IGNORE_INDEX)
        return replace(batch, ids_BT=torch.where(struck_BT, others_BT, batch.ids_BT))

    return change


def _packed(original: Any) -> Any:
    """Join the samples of a batch into one sequence, in which each sample sees all samples before it."""

    def nll(self: Any, embeds_BTE: Tensor, labels_BT: Tensor, past: Any = None) -> TokenNLL:
        if past is not None:
            result: TokenNLL = original(self, embeds_BTE, labels_BT, past)
            return result
        joined = original(self, embeds_BTE.flatten(0, 1)[None], labels_BT.flatten()[None])
        return TokenNLL(joined.nll_N, (labels_BT != IGNORE_INDEX).sum(dim=1))

    return nll


def _average_of_batch(original: Any) -> Any:
    def forward(self: Any, features_BPV: Tensor) -> Tensor:
        latents_BQD: Tensor = original(self, features_BPV)
        return latents_BQD.mean(0, keepdim=True).expand_as(latents_BQD)

    return forward


def _over_batch(original: Any) -> Any:
    def forward(self: Any, features_BPV: Tensor) -> Tensor:
        latents_BQD: Tensor = original(self, features_BPV)
        spread_1QD = latents_BQD.std(0, keepdim=True, correction=0)
        return (latents_BQD - latents_BQD.mean(0, keepdim=True)) / (spread_1QD + 0.1)

    return forward


BATCHES = (
    Case(
        "images-rolled-in-batch",
        "image-order",
        "each sample of a batch gets the image of the one before",
        change=_images(lambda images: images.roll(1, dims=0)),
    ),
    Case(
        "last-two-swapped",
        "image-order",
        "the last two samples of a batch have each other's image",
        "evaluation",
        take_base,
        _images(_last_two_swapped),
    ),
    Case(
        "batch-reversed-when-evaluated",
        "image-order",
        "visual tokens of a batch come back in reverse",
        "evaluation",
        take_base,
        swap(_VISUAL, lambda original: lambda self, features: original(self, features).flip(0)),
    ),
    Case(
        "labels-of-the-neighbour",
        "pairs-mismatched",
        "samples of a batch have each other's labels",
        "evaluation",
        take_base,
        _collated(_labels_of_the_next),
        also=("prompt-labelled",),
    ),
    Case(
        "padding-labelled",
        "prompt-labelled",
        "the collator pads labels with the pad id",
        change=_collated(_padding_labelled),
    ),
    Case(
        "last-column-masked",
        "eos-unlabelled",
        "the collator masks the last column: the longest caption of a batch loses EOS",
        change=_collated(_last_column_masked),
    ),
    Case(
        "left-padded",
        "batch-dependent",
        "the collator pads on the left and nothing masks it",
        change=_collated(_padded_on_the_left),
    ),
    Case(
        "cut-to-shortest",
        "answer-truncated",
        "the collator cuts a batch to its shortest sample",
        change=_collated(_cut_to_the_shortest),
    ),
    Case(
        "masked-language-collator",
        "loss-altered",
        "a collator for masked language models replaces 15% of the caption's input tokens at random, labels stay",
        change=_collated(_struck_out()),
    ),
    Case(
        "packed-without-borders",
        "batch-dependent",
        "the samples of a batch are packed into one sequence, and attention is not reset between them",
        change=swap("qwen3_vlm.models.llm.LanguageModel.nll", _packed),
        also=("leak",),
    ),
    Case(
        "statistics-of-the-batch",
        "batch-dependent",
        "the resampler's output is normalised over the batch, as by a BatchNorm left in training mode",
        change=swap(_RESAMPLER, _over_batch),
    ),
    Case(
        "latents-averaged-over-batch",
        "collapsed",
        "the resampler returns the batch's average for every image",
        change=swap(_RESAMPLER, _average_of_batch),
        also=("batch-dependent",),
    ),
)
