"""The scoring interface between eyechart and a model: the types that are passed through it, and a scorer's contract.

Dimension legend, used as name suffixes everywhere in this package:

    B  samples of a batch            Q  visual tokens (latents) per image    V  width of the vision tower
    T  positions of a sequence       P  patch features per image             E  width of the LLM's embeddings
    N  label tokens of a batch       D  width of the resampler               C,H,W  channels, height, width

This file has over 300 lines because it contains the whole contract and its example. This module does not depend on
models, files or configs, and every other part of the package may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from eyechart.rows import IGNORE_INDEX, CollateStats, Grid, IntArray, Reject, RejectKind, Row, Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from eyechart.results import DoorName, Remark

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "CollateStats",
    "Description",
    "Grid",
    "IntArray",
    "ModelInputs",
    "PairScorer",
    "Reject",
    "RejectKind",
    "Row",
    "Sample",
    "Scorer",
    "ScorerOfBatches",
    "TokenNLL",
    "VisualTokens",
    "Vocabulary",
    "Writer",
]


class ModelInputs(Protocol):
    """Processed images in the model's own format, one part for each sample of a batch."""

    def rows(self, places: Sequence[int]) -> ModelInputs:
        """Select samples by place."""
        ...

    def with_noise(self, place: int, generator: torch.Generator) -> ModelInputs:
        """Return the inputs with the images of one sample replaced by noise of the same mean and spread."""
        ...

    def negated(self) -> ModelInputs:
        """Return the inputs with the sign of every pixel value changed."""
        ...


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right to one length, as made by `eyechart.collate`.

    Masks come from `lengths_B`, never from the pad id (it may be EOS).
    """

    samples: tuple[Sample, ...]
    ids_BT: Tensor
    """int64 token ids."""
    labels_BT: Tensor
    """int64: the ids that are scored, IGNORE_INDEX elsewhere. Not shifted: position t is predicted from t-1."""
    lengths_B: Tensor
    """int64: number of tokens of each sample; positions after them are padding."""
    block_BT: Tensor
    """bool: positions of the image block (start token, Q patch tokens, end token). A sample without an image block is
    counted, but not scored."""
    pixels_BCHW: Tensor | None
    """uint8, not normalised; None if features were cached or the batch is text only."""
    features_BPV: Tensor | None
    stats: CollateStats
    rejects: tuple[Reject, ...] = ()
    """Rows that belong to this batch but could not be read."""
    inputs: ModelInputs | None = None
    """For a live model: the image inputs that its own collator made, used instead of `pixels_BCHW`."""

    def __len__(self) -> int:
        """Number of usable samples."""
        return len(self.samples)

    def rows(self, places: Sequence[int]) -> Batch:
        """Return some samples of the batch, with the same width and without rejects."""
        index = list(places)
        samples = tuple(self.samples[place] for place in index)
        return Batch(
            samples=samples,
            ids_BT=self.ids_BT[index],
            labels_BT=self.labels_BT[index],
            lengths_B=self.lengths_B[index],
            block_BT=self.block_BT[index],
            pixels_BCHW=None if self.pixels_BCHW is None else self.pixels_BCHW[index],
            features_BPV=None if self.features_BPV is None else self.features_BPV[index],
            stats=CollateStats.of(samples),
            inputs=None if self.inputs is None else self.inputs.rows(index),
        )

    def text(self) -> Batch:
        """Return the batch without its images, as `Scorer.nll` receives it."""
        samples = tuple(replace(sample, pixels_CHW=None, features_PV=None) for sample in self.samples)
        return replace(self, samples=samples, pixels_BCHW=None, features_BPV=None, inputs=None)

    @property
    def attention_BT(self) -> Tensor:
        """Bool [B,T]: True at real tokens."""
        import torch

        positions_T = torch.arange(self.ids_BT.shape[1], device=self.ids_BT.device)
        return positions_T[None, :] < self.lengths_B[:, None].to(self.ids_BT.device)


@dataclass(frozen=True)
class VisualTokens:
    """An encoder's output for a batch of images, passed to the language model. The checks do not interpret the values.

    `layers[0]` is placed at the image positions; further layers are extra features that a model adds in deeper layers
    (Qwen3-VL's deepstack). Each is [B, Q, E_layer]; a condition treats every layer in the same way.
    """

    layers: tuple[Tensor, ...]
    counts_B: Tensor | None = None
    """int64: number of visual tokens of each image if the numbers differ; the slots after them are padding."""

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> VisualTokens:
        """Make visual tokens with one layer from a tensor [Q_i,E] per image; Q_i may differ."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        counts = [len(tokens_QE) for tokens_QE in images]
        differ = len(set(counts)) > 1
        return cls((pad_sequence(list(images), batch_first=True),), torch.tensor(counts) if differ else None)

    def __len__(self) -> int:
        """Number of images."""
        return int(self.layers[0].shape[0])

    def counts(self) -> list[int]:
        """Number of visual tokens of each image."""
        return [int(self.layers[0].shape[1])] * len(self) if self.counts_B is None else self.counts_B.tolist()

    def rows(self, index: Tensor | Sequence[int]) -> VisualTokens:
        """Select images by position."""
        import torch

        chosen = torch.as_tensor(index, dtype=torch.long)
        counts_B = None if self.counts_B is None else self.counts_B[chosen.to(self.counts_B.device)]
        return VisualTokens(tuple(layer[chosen.to(layer.device)] for layer in self.layers), counts_B)

    def map(self, change: Callable[[Tensor], Tensor]) -> VisualTokens:
        """Apply `change` to every layer."""
        return VisualTokens(tuple(change(layer) for layer in self.layers), self.counts_B)

    @staticmethod
    def cat(parts: Sequence[VisualTokens]) -> VisualTokens:
        """Concatenate images along the batch dimension; if their numbers of tokens differ, they are padded."""
        import torch
        import torch.nn.functional as F

        if all(part.counts_B is None for part in parts) and len({part.layers[0].shape[1] for part in parts}) == 1:
            return VisualTokens(tuple(torch.cat(layers) for layers in zip(*(p.layers for p in parts), strict=True)))
        most = max(part.layers[0].shape[1] for part in parts)
        padded = [part.map(lambda layer: F.pad(layer, (0, 0, 0, most - layer.shape[1]))) for part in parts]
        layers = tuple(torch.cat(layers) for layers in zip(*(p.layers for p in padded), strict=True))
        return VisualTokens(layers, torch.tensor([count for part in parts for count in part.counts()]))


@dataclass(frozen=True)
class TokenNLL:
    """Per-token negative log-likelihood of a batch's label tokens, in nats, in reading order sample by sample."""

    nll_N: Tensor
    """float32 [N]: losses in nats."""
    counts_B: Tensor
    """int64 [B]: number of label tokens of each sample; the sum is N."""

    @classmethod
    def of(cls, logits_BTK: Tensor, labels_BT: Tensor) -> TokenNLL:
        """Compute the NLL from logits over K tokens; the logits at position t-1 predict the label at t."""
        import torch.nn.functional as F

        targets_BT = labels_BT[:, 1:].to(logits_BTK.device)
        keep_BT = targets_BT != IGNORE_INDEX
        nll_N = F.cross_entropy(logits_BTK[:, :-1][keep_BT].float(), targets_BT[keep_BT], reduction="none")
        return cls(nll_N, keep_BT.sum(dim=1))

    def per_sample(self) -> list[Tensor]:
        """Split into one [T_i] tensor per sample, which is empty if the sample has no label token."""
        import torch

        return list(torch.split(self.nll_N, self.counts_B.tolist()))


@dataclass(frozen=True)
class Vocabulary:
    """Information about the token ids. Any field may be missing; measures that need it are left out with a remark."""

    decode: Callable[[list[int]], str] | None = None
    """Converts token ids to text, keeping special tokens and all spaces; used for words and for the page."""
    end_id: int | None = None
    """The token that ends a caption, for gaps without it."""
    begin_id: int | None = None
    """A token that may precede a caption if the prompt is only the image, for `no-image`."""
    size: int | None = None
    """Size of the vocabulary, for the loss of random guessing."""


@dataclass(frozen=True)
class Description:
    """A scorer's description of its model."""

    name: str
    """Name of the model, for the page and for messages."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Parts of the model, such as `vision` and `llm`, with their names."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Sentences about how the model is scored, by keyword, for the page."""
    vocabulary: Vocabulary = Vocabulary()
    remarks: Sequence[Remark] = ()
    """Notes as codes, from eyechart's own scorers; `reporting.remarks` writes their sentences."""
    door: DoorName | None = None
    """How images of a transformers model are replaced; only set by eyechart's own scorers."""


class ScorerOfBatches(Protocol):
    """The two methods of a scorer that are needed if batches are given."""

    def encode(self, batch: Batch) -> VisualTokens:
        """See `Scorer`."""
        ...

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """See `Scorer`."""
        ...


class Scorer(ScorerOfBatches, Protocol):
    """Any vision-language model with three methods. It encodes images once, then scores captions with visual tokens.

    A complete example, whose encoder is the mean colour and whose decoder is a GRU over characters:

        import eyechart, numpy, torch
        from PIL import Image
        from torch import nn

        class Toy(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.embed = nn.Linear(3, 16), nn.Embedding(128, 16)
                self.decoder, self.head = nn.GRU(16, 16, batch_first=True), nn.Linear(16, 128)

            def batch(self, rows):
                samples = []
                for row in rows:
                    pixels_HWC = numpy.array(Image.open(row.file).convert("RGB").resize((32, 32)))
                    pixels_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)
                    answer = [*row.caption.encode("ascii"), 0]  # characters, and an end
                    samples.append(eyechart.Sample.of(row, [1, 2], answer, block=(0, 1), pixels_CHW=pixels_CHW))
                return eyechart.collate(samples)

            def encode(self, batch):
                mean_BC = batch.pixels_BCHW.float().mean((2, 3)) / 255
                return eyechart.VisualTokens((self.encoder(mean_BC)[:, None],))

            def nll(self, batch, visual):
                embeds_BTE = self.embed(batch.ids_BT)
                if visual is not None:
                    embeds_BTE[batch.block_BT] = visual.layers[0].flatten(0, 1)
                return eyechart.TokenNLL.of(self.head(self.decoder(embeds_BTE)[0]), batch.labels_BT)

    The contract:

    - The model is in eval mode. All methods are called without gradients, possibly more than once, and must return
      equal output for equal input. The output for a sample must not depend on the other samples of the batch.
    - `batch` returns a sample for every row, in the order of the rows; a row that cannot be used is a `Reject` in
      `Batch.rejects`. Rows without an image are not passed to it. If reading raises OSError, the rows are passed one by
      one, and those that raise are counted and named.
    - `encode` returns one row of visual tokens per sample, in the same order, each [Q,E] with the same width E. Pixels
      are uint8. Q may differ between images (`VisualTokens.of`), but images can only replace each other if they have
      the same Q, so images whose Q is not the most common one are left out and counted. Resize images to one size to
      keep all of them.
    - `nll` returns one loss in nats, at least 0, for every label that is not IGNORE_INDEX, in reading order, sample by
      sample. Labels are not shifted: the label at position t is predicted from t-1. The batch comes without pixels,
      and `visual` is on the CPU: the scorer moves both to the model's device. `visual` may be zeros, noise, or the
      tokens of another image. If it is None, the image block is already removed from ids and labels, and every first
      label has a predecessor: score only the text.
    - A loss that is not finite makes the verdict FAIL. Every other violation raises a ValueError that names it.

    Optional methods: `pair_nll` (`PairScorer`), `write` (`Writer`), `describe() -> Description`. If batches are given
    instead of rows, `batch` is not needed.
    """

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Read rows: convert text to ids and labels with the image block, and image files to pixels."""
        ...


@runtime_checkable
class PairScorer(Protocol):
    """An optional additional method that scores many captions with few images, reading each image only once."""

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """Return the same as `nll(batch, visual.rows(images_B))`, for batches with few images and many captions.

        A sample may occur in `batch` more than once. For every row of `batch`, `images_B` contains the position of its
        image in `visual`.
        """
        ...


@runtime_checkable
class Writer(Protocol):
    """An optional additional method that writes captions for the page."""

    def write(self, batch: Batch) -> Sequence[str]:
        """Return a greedily written caption for each image of `batch`, after the sample's own prompt."""
        ...


def description_of(scorer: object) -> Description:
    """Return a scorer's description of its model; by default, only the name of the scorer's class.

    Raises:
        ValueError: `describe` returns something other than a Description with texts.
    """
    describe = getattr(scorer, "describe", None)
    found = describe() if callable(describe) else Description(type(scorer).__name__)
    if not isinstance(found, Description):
        raise ValueError(f"Scorer.describe: expected a Description, got {type(found).__name__}")
    texts = [found.name, *found.parts, *found.parts.values(), *found.notes, *found.notes.values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("Scorer.describe: expected a string as name, and strings by string as parts and notes")
    return found
