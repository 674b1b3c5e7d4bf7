"""Checks that the output of a scorer (the adapter of a model) satisfies the contract documented in `eyechart.Scorer`.

Every error message begins with the part of the contract that is violated, such as `Scorer.encode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from eyechart.data.images import ImageError
from eyechart.scoring.batching import collate
from eyechart.seam import (
    IGNORE_INDEX,
    Batch,
    PairScorer,
    Reject,
    RejectKind,
    Row,
    Sample,
    Scorer,
    ScorerOfBatches,
    TokenNLL,
    VisualTokens,
)

_TOLERANCE, _COARSE = 0.01, 0.05
"""The largest difference between two batches that is attributed to rounding, as a fraction of the largest value.
_COARSE is used for 16-bit visual tokens."""


def read_batch(scorer: Scorer, rows: Sequence[Row]) -> Batch:
    """Call `scorer.batch` with the rows that have a readable image, and add a reject for each of the other rows.

    Raises:
        ValueError: the scorer breaks its contract.
    """
    none = RejectKind.IMAGE_COUNT
    rejects = [Reject(row.row, "no image", "the row names no image", none) for row in rows if not row.image]
    usable = [row for row in rows if row.image]
    try:
        batch = scorer.batch(usable) if usable else collate([])
    except (OSError, ImageError):
        kept = []
        for row in usable:
            try:
                scorer.batch([row])
            except (OSError, ImageError) as error:
                reason, kind = "image unreadable", RejectKind.UNUSABLE_FILE
                if isinstance(error, ImageError):
                    reason, kind = error.reason, error.kind
                rejects.append(Reject(row.row, reason, f"{row.path}: {error}", kind))
            else:
                kept.append(row)
        batch = scorer.batch(kept) if kept else collate([])
        usable = kept
    if not isinstance(batch, Batch):
        raise ValueError(f"Scorer.batch: expected a Batch, got {type(batch).__name__}; `eyechart.collate` makes one")
    left_out = {reject.row for reject in batch.rejects}
    expected, got = [r.row for r in usable if r.row not in left_out], [s.row for s in batch.samples]
    if got != expected:
        raise ValueError(
            f"Scorer.batch: expected samples of the rows {_few(expected)} in this order, or rejects, got {_few(got)}"
        )
    require_batch(batch)
    return replace(batch, rejects=(*rejects, *batch.rejects))


def require_batch(batch: Batch) -> None:
    """Raise an error if the parts of a batch do not match each other.

    Raises:
        ValueError: the scorer breaks its contract.
    """
    shape = (len(batch.samples), *batch.ids_BT.shape[1:])
    for name in ("ids_BT", "labels_BT", "block_BT"):
        if tuple(getattr(batch, name).shape) != shape or len(shape) != 2:
            raise ValueError(
                f"Batch.{name}: expected the shape [B,T], B = {len(batch.samples)} samples and T as in ids_BT, got "
                f"{tuple(getattr(batch, name).shape)}"
            )
    if tuple(batch.lengths_B.shape) != shape[:1]:
        raise ValueError(f"Batch.lengths_B: expected {shape[0]} lengths, got the shape {tuple(batch.lengths_B.shape)}")
    pixels_BCHW = batch.pixels_BCHW
    if pixels_BCHW is not None and (
        pixels_BCHW.dtype != torch.uint8 or pixels_BCHW.dim() != 4 or len(pixels_BCHW) != shape[0]
    ):
        raise ValueError(
            f"Batch.pixels_BCHW: expected uint8 [B,3,H,W], not normalised, got {pixels_BCHW.dtype} "
            f"{tuple(pixels_BCHW.shape)}"
        )
    for b, sample in enumerate(batch.samples):
        _require_sample(batch, b, sample)


def _require_sample(batch: Batch, b: int, sample: Sample) -> None:
    where, length = f"Batch, row {sample.row}", int(batch.lengths_B[b])
    for name, own_T, row_T in (("ids", sample.ids_T, batch.ids_BT[b]), ("labels", sample.labels_T, batch.labels_BT[b])):
        if length != len(own_T) or not np.array_equal(own_T, row_T[:length].cpu().numpy()):
            raise ValueError(f"{where}: expected {name}_BT to begin with the sample's own {name}_T, and its length")
    if bool((batch.labels_BT[b, length:] != IGNORE_INDEX).any()):
        raise ValueError(f"{where}: expected no label after its {length} tokens, in the padding")
    if length and int(batch.labels_BT[b, 0]) != IGNORE_INDEX:
        raise ValueError(f"{where}: expected a token before the first label to predict it from, got a label first")
    if bool((batch.labels_BT[b][batch.block_BT[b]] != IGNORE_INDEX).any()):
        raise ValueError(f"{where}: expected no label on the image block, whose positions contain no text")
    if not sample.grid and int(batch.block_BT[b].sum()) != max(0, sample.block[1] - sample.block[0]):
        raise ValueError(f"{where}: expected block_BT to mark the sample's image block {sample.block}")


def encode(scorer: ScorerOfBatches, batch: Batch) -> VisualTokens:
    """Call `scorer.encode` and return its output on the CPU.

    Raises:
        ValueError: the scorer breaks its contract.
    """
    visual = scorer.encode(batch)
    if not isinstance(visual, VisualTokens) or not isinstance(visual.layers, tuple) or not visual.layers:
        raise ValueError(
            "Scorer.encode: expected VisualTokens of a tuple of layers, got "
            f"{type(getattr(visual, 'layers', visual)).__name__}; wrap a tensor [B,Q,E] as VisualTokens((tensor,))"
        )
    for layer in visual.layers:
        if layer.dim() != 3 or not layer.is_floating_point() or len(layer) != len(batch):
            raise ValueError(
                f"Scorer.encode: expected floating-point visual tokens [B,Q,E] of {len(batch)} images, one for each "
                f"sample, got {layer.dtype} {tuple(layer.shape)}"
            )
    counts, most = visual.counts(), int(visual.layers[0].shape[1])
    if len(counts) != len(batch) or not all(0 < count <= most for count in counts):
        raise ValueError(
            f"Scorer.encode: expected 1 to {most} visual tokens for each of {len(batch)} images, got {counts}"
        )
    return visual.map(lambda layer: layer.detach().cpu())


def nll(scorer: ScorerOfBatches, batch: Batch, visual: VisualTokens | None) -> list[torch.Tensor]:
    """Call `scorer.nll` and return the per-token losses [T_i] of each sample on the CPU.

    Raises:
        ValueError: the scorer breaks its contract.
    """
    return _losses("Scorer.nll", batch, scorer.nll(batch, visual))


def pair_nll(
    scorer: ScorerOfBatches, batch: Batch, visual: VisualTokens, images_B: Sequence[int]
) -> list[torch.Tensor]:
    """Call `scorer.pair_nll`, or `scorer.nll` if the scorer has no such method.

    Raises:
        ValueError: the scorer breaks its contract.
    """
    if isinstance(scorer, PairScorer):
        return _losses("Scorer.pair_nll", batch, scorer.pair_nll(batch, visual, images_B))
    return nll(scorer, batch, visual.rows(images_B))


def _losses(what: str, batch: Batch, result: TokenNLL) -> list[torch.Tensor]:
    if not (isinstance(result, TokenNLL) and all(isinstance(t, torch.Tensor) for t in (result.nll_N, result.counts_B))):
        raise ValueError(
            f"{what}: expected TokenNLL of two tensors, got {type(result).__name__}; `TokenNLL.of` makes it from logits"
        )
    expected = (batch.labels_BT != IGNORE_INDEX).sum(dim=1).tolist()
    counts = result.counts_B.tolist()
    if result.nll_N.dim() != 1 or len(result.nll_N) != sum(expected) or counts != expected:
        raise ValueError(
            f"{what}: expected one loss for each of the {_few(expected)} label tokens of its samples, {sum(expected)} "
            f"in total, got counts {_few(counts)} and losses of shape {tuple(result.nll_N.shape)}"
        )
    return [nll_T.detach().cpu() for nll_T in result.per_sample()]


@torch.no_grad()
def require_contract(scorer: ScorerOfBatches, batch: Batch) -> None:
    """Score a few samples together and one by one, to test that rows keep their order and do not affect each other.

    Raises:
        ValueError: the scorer breaks its contract.
    """
    if getattr(scorer, "training", False):
        raise ValueError("Scorer: the model is in training mode; call `model.eval()` before it is scored")
    visual = encode(scorer, batch)
    together = nll(scorer, batch.text(), visual)
    share = _TOLERANCE if visual.layers[0].dtype in (torch.float32, torch.float64) else _COARSE
    for b, sample in enumerate(batch.samples):
        single = _unpadded(batch.rows([b]))
        alone = encode(scorer, single)
        slots = alone.counts()[0]
        if slots != visual.counts()[b] or len(alone.layers) != len(visual.layers):
            raise ValueError(f"Scorer.encode: row {sample.row} has other visual tokens in a batch than alone")
        for layer_BQE, layer_1QE in zip(visual.layers, alone.layers, strict=True):
            one_QE, other_QE = layer_BQE[b, :slots], layer_1QE[0, :slots]
            if one_QE.shape != other_QE.shape or not _alike(one_QE, other_QE, share):
                raise ValueError(
                    f"Scorer.encode: row {sample.row} has other visual tokens in a batch than alone{_CAUSES}"
                )
        (nll_T,) = nll(scorer, single.text(), alone)
        if not _alike(together[b], nll_T, share):
            raise ValueError(f"Scorer.nll: row {sample.row} has other losses in a batch than alone{_CAUSES}")
        if bool((nll_T < -share).any()):
            raise ValueError(
                f"Scorer.nll: expected negative log-likelihoods, at least 0, got {float(nll_T.min()):.4g} in row "
                f"{sample.row}; are they log-likelihoods?"
            )


def _unpadded(batch: Batch) -> Batch:
    """Remove the padding from a batch of one sample."""
    width = int(batch.lengths_B.max())
    return replace(
        batch,
        ids_BT=batch.ids_BT[:, :width],
        labels_BT=batch.labels_BT[:, :width],
        block_BT=batch.block_BT[:, :width],
    )


_CAUSES = (
    "; samples must be returned in the order in which they are passed, padding must have no effect, and the model must "
    "be in eval mode"
)


def _alike(one: torch.Tensor, other: torch.Tensor, share: float) -> bool:
    finite = other[torch.isfinite(other)].abs()
    size = float(finite.max()) if len(finite) else 0.0
    return bool(torch.allclose(one.double(), other.double(), rtol=share, atol=share * size, equal_nan=True))


def _few(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"[{shown}{', ...' if len(values) > 8 else ''}]"
