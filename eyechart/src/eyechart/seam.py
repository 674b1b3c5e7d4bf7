"""The seam, which is the interface through which eyechart scores a model: its data types and the contract of a scorer.

A scorer is a model, or an adapter for a model, with the methods of `Scorer`.

Dimension letters, used as suffixes of names everywhere in this package:

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
    """The processed images of a batch in the model's own format, with one part per sample."""

    def rows(self, places: Sequence[int]) -> ModelInputs:
        """Return the inputs of the samples at these positions."""
        ...

    def with_noise(self, place: int, generator: torch.Generator) -> ModelInputs:
        """Return the inputs with the images of one sample replaced by noise of the same mean and standard deviation."""
        ...

    def negated(self) -> ModelInputs:
        """Return the inputs with the sign of every pixel value changed."""
        ...


@dataclass(frozen=True)
class Batch:
    """A batch of samples, padded on the right to the same length, as `eyechart.collate` returns it.

    Attention masks are computed from `lengths_B`, never from the pad id, because this id may be that of EOS.
    """

    samples: tuple[Sample, ...]
    ids_BT: Tensor
    """int64 token ids."""
    labels_BT: Tensor
    """int64: ids of the scored tokens, IGNORE_INDEX elsewhere. Labels are not shifted: the logits at position t-1
    predict the label at t."""
    lengths_B: Tensor
    """int64: number of tokens of each sample; positions after them are padding."""
    block_BT: Tensor
    """bool: positions of the image block (start token, Q patch tokens, end token). A sample without an image block is
    counted, but not scored."""
    pixels_BCHW: Tensor | None
    """uint8, not normalised; None if the features are cached or the batch contains only text."""
    features_BPV: Tensor | None
    stats: CollateStats
    rejects: tuple[Reject, ...] = ()
    """Rows of this batch that could not be read."""
    inputs: ModelInputs | None = None
    """For a live model (a transformers model in memory, with its own collator): the image inputs made by the collator,
    which are used instead of `pixels_BCHW`."""

    def __len__(self) -> int:
        """Return the number of usable samples."""
        return len(self.samples)

    def rows(self, places: Sequence[int]) -> Batch:
        """Return a batch of the samples at these positions, with the same padded length and without rejects."""
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
        """The attention mask, bool [B,T]: True at tokens, False at padding."""
        import torch

        positions_T = torch.arange(self.ids_BT.shape[1], device=self.ids_BT.device)
        return positions_T[None, :] < self.lengths_B[:, None].to(self.ids_BT.device)


@dataclass(frozen=True)
class VisualTokens:
    """The output of an image encoder for a batch of images, which is passed to the language model.

    The checks do not interpret the values. `layers[0]` is placed at the image positions. Further entries are extra
    features that some models add in deeper layers of the language model (Qwen3-VL's deepstack). Each entry is
    [B, Q, E_layer], and a condition changes all entries in the same way.
    """

    layers: tuple[Tensor, ...]
    counts_B: Tensor | None = None
    """int64: number of visual tokens of each image if the numbers differ; the positions after them are padding."""

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> VisualTokens:
        """Create visual tokens with one layer from one tensor [Q_i,E] per image; Q_i may differ between images."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        counts = [len(tokens_QE) for tokens_QE in images]
        differ = len(set(counts)) > 1
        return cls((pad_sequence(list(images), batch_first=True),), torch.tensor(counts) if differ else None)

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self.layers[0].shape[0])

    def counts(self) -> list[int]:
        """Return the number of visual tokens of each image."""
        return [int(self.layers[0].shape[1])] * len(self) if self.counts_B is None else self.counts_B.tolist()

    def rows(self, index: Tensor | Sequence[int]) -> VisualTokens:
        """Return the visual tokens of the images at these positions."""
        import torch

        chosen = torch.as_tensor(index, dtype=torch.long)
        counts_B = None if self.counts_B is None else self.counts_B[chosen.to(self.counts_B.device)]
        return VisualTokens(tuple(layer[chosen.to(layer.device)] for layer in self.layers), counts_B)

    def map(self, change: Callable[[Tensor], Tensor]) -> VisualTokens:
        """Return the visual tokens with `change` applied to every layer."""
        return VisualTokens(tuple(change(layer) for layer in self.layers), self.counts_B)

    @staticmethod
    def cat(parts: Sequence[VisualTokens]) -> VisualTokens:
        """Concatenate along the batch dimension, with padding if the numbers of visual tokens differ."""
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
    """The negative log-likelihood of every label token of a batch, in nats: sample by sample, in reading order."""

    nll_N: Tensor
    """float32 [N]: losses in nats."""
    counts_B: Tensor
    """int64 [B]: number of label tokens of each sample; the sum is N."""

    @classmethod
    def of(cls, logits_BTK: Tensor, labels_BT: Tensor) -> TokenNLL:
        """Compute the NLL from logits over a vocabulary of K; the logits at position t-1 predict the label at t."""
        import torch.nn.functional as F

        targets_BT = labels_BT[:, 1:].to(logits_BTK.device)
        keep_BT = targets_BT != IGNORE_INDEX
        nll_N = F.cross_entropy(logits_BTK[:, :-1][keep_BT].float(), targets_BT[keep_BT], reduction="none")
        return cls(nll_N, keep_BT.sum(dim=1))

    def per_sample(self) -> list[Tensor]:
        """Return the losses as one tensor [T_i] per sample, which is empty if the sample has no label token."""
        import torch

        return list(torch.split(self.nll_N, self.counts_B.tolist()))


@dataclass(frozen=True)
class Vocabulary:
    """Information about the token ids.

    Every field is optional. Measurements that need a missing field are left out, with a remark in the results.
    """

    decode: Callable[[list[int]], str] | None = None
    """A function that converts token ids to text and keeps special tokens and all spaces. It is used for the tables of
    words and for the report page."""
    end_id: int | None = None
    """Id of the token that ends a caption; used to compute gaps without this token."""
    begin_id: int | None = None
    """Id of the token that is placed before a caption under `no-image` (the condition without an image block) if the
    prompt contains only the image."""
    size: int | None = None
    """Size of the vocabulary; used to compute the loss of random guessing."""


@dataclass(frozen=True)
class Description:
    """A scorer's description of its model."""

    name: str
    """Name of the model, shown on the report page and in messages."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """Names of the parts of the model, by keyword, such as `vision` and `llm`."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Sentences about how the model is scored, by keyword, shown on the report page."""
    vocabulary: Vocabulary = Vocabulary()
    remarks: Sequence[Remark] = ()
    """Notes in the form of codes, set only by eyechart's own scorers; `reporting.remarks` has the sentence for each."""
    door: DoorName | None = None
    """How the images of a transformers model are replaced (the door); set only by eyechart's own scorers."""


class ScorerOfBatches(Protocol):
    """The two methods that a scorer needs if the caller passes batches instead of rows."""

    def encode(self, batch: Batch) -> VisualTokens:
        """Return the visual tokens of every sample, as described in `Scorer`."""
        ...

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Return the loss of every label token, as described in `Scorer`."""
        ...


class Scorer(ScorerOfBatches, Protocol):
    """The interface of a vision-language model: three methods that read rows, encode images, and score captions.

    Each image is encoded once. Captions are then scored with its visual tokens, or with others in their place. In this
    complete example, the encoder uses only the mean colour of an image, and the decoder is a GRU over characters:

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

    - The model must be in eval mode. All methods are called without gradients, possibly more than once, and must return
      equal output for equal input. The output for a sample must not depend on the other samples of the batch.
    - `batch` returns a sample for every usable row, in the order of the rows. Every other row becomes a `Reject` in
      `Batch.rejects`. Rows without an image are not passed to `batch`. If `batch` raises OSError, it is called again
      for each row separately, and the rows for which it raises are counted and named.
    - `encode` returns visual tokens [Q,E] for every sample, in the order of the samples, all with the same width E. Its
      input pixels are uint8. Q may differ between images (`VisualTokens.of`), but an image can replace another one only
      if both have the same Q. Images whose Q is not the most common one are therefore left out and counted. To keep all
      images, resize them to the same size.
    - `nll` returns one loss in nats, at least 0, for every label that is not IGNORE_INDEX, in reading order, sample by
      sample. Labels are not shifted: the logits at position t-1 predict the label at t. The batch contains no pixels,
      and `visual` is on the CPU; `nll` must move both to the model's device. `visual` may be zeros, noise, or the
      tokens of another image. If `visual` is None, only the text is scored: the image block has already been removed
      from ids and labels, and a token precedes the first label of every sample.
    - A loss that is not finite makes the verdict FAIL. Every other violation of this contract raises a ValueError that
      names the violation.

    Optional methods: `pair_nll` (`PairScorer`), `write` (`Writer`), `describe() -> Description`. If the caller passes
    batches instead of rows, `batch` is not needed.
    """

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Read the rows: convert their text to ids and labels, with an image block, and their image files to pixels."""
        ...


@runtime_checkable
class PairScorer(Protocol):
    """A scorer with an optional method that scores many captions with few images and processes each image only once."""

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """Return the same as `nll(batch, visual.rows(images_B))`, for batches with few images and many captions.

        A sample may occur in `batch` more than once. For every sample of `batch`, `images_B` contains the position of
        its image in `visual`.
        """
        ...


@runtime_checkable
class Writer(Protocol):
    """A scorer with an optional method that generates captions for the report page."""

    def write(self, batch: Batch) -> Sequence[str]:
        """Return a caption for each image of `batch`, generated greedily from the sample's own prompt."""
        ...


def description_of(scorer: object) -> Description:
    """Return a scorer's description of its model; without a `describe` method, only the name of the scorer's class.

    Raises:
        ValueError: `describe` does not return a Description, or its texts are not strings.
    """
    describe = getattr(scorer, "describe", None)
    found = describe() if callable(describe) else Description(type(scorer).__name__)
    if not isinstance(found, Description):
        raise ValueError(f"Scorer.describe: expected a Description, got {type(found).__name__}")
    texts = [found.name, *found.parts, *found.parts.values(), *found.notes, *found.notes.values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("Scorer.describe: expected a string as name, and strings by string as parts and notes")
    return found
