"""What travels between the rooms: one sample, one batch, what was counted on the way, and what a scorer returns.

Dimension legend, used as name suffixes everywhere in this package:

    B  samples of a batch            Q  visual tokens (latents) per image    V  width of the vision tower
    T  positions of a sequence       P  patch features per image             E  width of the LLM's embeddings
    N  label tokens of a batch       D  width of the resampler               C,H,W  channels, height, width

This module knows nothing of models, files or configs; every other room may import it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

IGNORE_INDEX = -100
"""The label of a position that carries no loss (PyTorch's own default in `F.cross_entropy`)."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reject:
    """A row of the data file that cannot be used, and why. It is counted and named, never replaced by another row."""

    row: int
    """Row index in the data file, from 0."""
    reason: str
    """Short and countable, such as `image missing` or `caption blank`."""
    detail: str
    """One line for people: file, expected, got."""


@dataclass(frozen=True)
class Sample:
    """One image-caption pair, ready to be batched.

    Exactly one of `pixels_CHW` and `features_PV` is set, or neither where only the text matters (the audit).
    """

    row: int
    """Row index in the data file, from 0: the sample's identity in splits, logs and results."""
    id: str
    image: str
    """Path as the data file gives it, relative to the image root."""
    caption: str
    """The answer as text, before any cut by max_seq_len."""
    ids_T: IntArray
    """Token ids: prompt with the image block spliced in, then the answer and EOS; cut to max_seq_len."""
    labels_T: IntArray
    """`ids_T` at answer positions, IGNORE_INDEX elsewhere. Not shifted: position t is predicted from t-1."""
    block: tuple[int, int]
    """The image block is ids_T[block[0]:block[1]], start and end token included."""
    full_length: int
    """Tokens before the cut by max_seq_len."""
    image_hash: str = ""
    """Hash of the decoded, resized pixels: equal hash means the tower cannot tell the images apart."""
    pixels_CHW: Tensor | None = None
    """uint8 [3,H,W], not normalised: that happens on the device."""
    features_PV: Tensor | None = None
    """Cached output of the frozen tower for this image."""

    @property
    def label_tokens(self) -> int:
        """Number of positions that carry loss."""
        return int((self.labels_T != IGNORE_INDEX).sum())

    @property
    def truncated(self) -> bool:
        """Whether max_seq_len cut anything off."""
        return self.full_length > len(self.ids_T)


@dataclass(frozen=True)
class CollateStats:
    """Check 2, counted by the collator itself. Two of them add up with `+`."""

    samples: int = 0
    truncated: int = 0
    """Samples that lost at least one token to max_seq_len."""
    zero_label: int = 0
    """Samples without a single label token: they teach nothing."""
    label_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Histogram of sequence lengths before the cut, in tokens."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> CollateStats:
        """Count `samples`."""
        return cls(
            samples=len(samples),
            truncated=sum(s.truncated for s in samples),
            zero_label=sum(s.label_tokens == 0 for s in samples),
            label_tokens=sum(s.label_tokens for s in samples),
            lengths=Counter(s.full_length for s in samples),
        )

    def __add__(self, other: CollateStats) -> CollateStats:
        """Merge two counts."""
        return CollateStats(
            self.samples + other.samples,
            self.truncated + other.truncated,
            self.zero_label + other.zero_label,
            self.label_tokens + other.label_tokens,
            self.lengths + other.lengths,
        )

    @property
    def truncated_pct(self) -> float:
        """Share of truncated samples in percent; 0 of nothing is 0."""
        return 100.0 * self.truncated / self.samples if self.samples else 0.0

    @property
    def zero_label_pct(self) -> float:
        """Share of samples without label tokens in percent."""
        return 100.0 * self.zero_label / self.samples if self.samples else 0.0

    @property
    def avg_label_tokens(self) -> float:
        """Label tokens per sample, EOS included."""
        return self.label_tokens / self.samples if self.samples else 0.0


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right to one length. Masks come from `lengths_B`, never from the pad id (it may be EOS)."""

    samples: tuple[Sample, ...]
    ids_BT: Tensor
    labels_BT: Tensor
    lengths_B: Tensor
    block_BT: Tensor
    """bool: positions of the image block (start token, Q patch tokens, end token)."""
    pixels_BCHW: Tensor | None
    """uint8; None where features were cached or the batch is text only."""
    features_BPV: Tensor | None
    stats: CollateStats
    rejects: tuple[Reject, ...] = ()
    """Planned rows of this batch that could not be read."""

    def __len__(self) -> int:
        """Number of usable samples."""
        return len(self.samples)

    @property
    def attention_BT(self) -> Tensor:
        """Bool [B,T]: True at real tokens."""
        import torch

        positions_T = torch.arange(self.ids_BT.shape[1], device=self.ids_BT.device)
        return positions_T[None, :] < self.lengths_B[:, None].to(self.ids_BT.device)


@dataclass(frozen=True)
class VisualTokens:
    """What an encoder hands to the language model for a batch of images; opaque to the checks.

    `layers[0]` stands in the image positions; further layers are extra features a model feeds in deeper
    (Qwen3-VL's deepstack). Each is [B, Q, E_layer]; a condition treats every layer alike.
    """

    layers: tuple[Tensor, ...]

    def __len__(self) -> int:
        """Number of images."""
        return int(self.layers[0].shape[0])

    def rows(self, index: Tensor | Sequence[int]) -> VisualTokens:
        """Select images by position."""
        import torch

        chosen = torch.as_tensor(index, dtype=torch.long)
        return VisualTokens(tuple(layer[chosen.to(layer.device)] for layer in self.layers))

    def map(self, change: Callable[[Tensor], Tensor]) -> VisualTokens:
        """Apply `change` to every layer."""
        return VisualTokens(tuple(change(layer) for layer in self.layers))

    @staticmethod
    def cat(parts: Sequence[VisualTokens]) -> VisualTokens:
        """Concatenate along the batch."""
        import torch

        return VisualTokens(tuple(torch.cat(layers) for layers in zip(*(p.layers for p in parts), strict=True)))


@dataclass(frozen=True)
class TokenNLL:
    """Per-token negative log-likelihood of a batch's label tokens, in nats, in reading order sample by sample."""

    nll_N: Tensor
    """float32 [N]."""
    counts_B: Tensor
    """int64 [B]: label tokens per sample; they sum to N."""

    def per_sample(self) -> list[Tensor]:
        """Split into one [T_i] tensor per sample (empty where a sample has no label token)."""
        import torch

        return list(torch.split(self.nll_N, self.counts_B.tolist()))


class Scorer(Protocol):
    """Encodes images once, then scores the same captions with whatever visual tokens it is given."""

    def encode(self, batch: Batch) -> VisualTokens:
        """Run tower and connector on the images of `batch`: one row of visual tokens per sample, in its order."""
        ...

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Score the label tokens of `batch`, teacher-forced, in nats.

        `batch` comes without pixels and `visual` lies on the CPU: moving it to the model's device is the scorer's
        part. `visual` None leaves the image block out of the sequence. The result must not depend on which other
        samples are in the batch.
        """
        ...


@runtime_checkable
class PairScorer(Protocol):
    """An optional further method: scores many captions behind few images without reading the image for each."""

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """What `nll(batch, visual.rows(images_B))` returns, for batches in which few images stand before many captions.

        A sample may occur in `batch` more than once. `images_B` holds its place in `visual` for every row of `batch`.
        """
        ...
