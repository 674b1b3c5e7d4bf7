"""Converts the batches of a user's collator to batches of the scoring interface (`eyechart.seam`).

A converted batch contains the token ids, answer labels and image inputs of each row, and the grid (the arrangement) of
its visual tokens. Every row is one sample. Padding is removed, whether it is on the left or on the right. Only answer
tokens have labels (`processors.answers`), even if the trainer labels other tokens too. Rows without an image are
counted but not scored. Batches whose rows contain several samples each (packing) are rejected.

The suffixes of tensor names give their dimensions: see the legend in `eyechart.seam`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyechart.exits import InputError
from eyechart.processors.answers import Answers, Way, find_answers
from eyechart.processors.arrays import is_array
from eyechart.processors.cutting import cut_rows
from eyechart.processors.geometry import Geometry, Packing, read_geometry
from eyechart.processors.pixel_entries import PixelLayout
from eyechart.seam import IGNORE_INDEX, Batch, CollateStats, Grid, IntArray, Sample

_NOT_INPUTS = ("labels", "num_items_in_batch")
"""Keys of the batch that are not passed to the model, because the forward pass only has to return logits."""


@dataclass(frozen=True)
class Collated:
    """One batch as the user's collator returned it, with the rows, images and answers that were found in it."""

    number: int
    """The index of this batch among all batches, starting at 0."""
    first_row: int
    """The index of the first row of this batch, counted over the rows of all batches."""
    inputs: Mapping[str, Any]
    """The entries of the batch that are passed to the model, without the labels; arrays are PyTorch tensors."""
    labels_BT: IntArray | None
    """The labels in the batch, with which the trainer computes its loss; None if the batch has no labels."""
    geometry: Geometry
    answers: Answers
    processor: Any = None

    @classmethod
    def read(
        cls, batch: Mapping[str, Any], processor: Any, config: Any, number: int = 0, first_row: int = 0
    ) -> Collated:
        """Read a batch: find its rows, its images and its answer tokens.

        Raises:
            InputError: the batch is malformed, its rows are packed, or no answer token can be found in it.
        """
        geometry = read_geometry(batch, processor, config)
        if geometry.packing is not Packing.NONE:
            raise InputError(
                f"batch {number}: packed rows are not supported: {geometry.packing.value}",
                "make batches without packing (packing=False, padding_free=False)",
            )
        answers = find_answers(batch, geometry, processor)
        if answers.way is Way.NONE:
            raise InputError(
                f"batch {number}: no answer token can be found: it has no labels, and no chat template marks answers",
                "pass processor=, or batches with labels",
            )
        inputs = {key: _tensor(value) for key, value in batch.items() if key not in _NOT_INPUTS and value is not None}
        return cls(number, first_row, inputs, answers.labels_BT, geometry, answers, processor)

    @property
    def pixel_key(self) -> str | None:
        """The key of the pixel tensor in the batch; None if the batch has no pixels."""
        return self.geometry.pixels.key

    @property
    def other_labels(self) -> int:
        """The number of positions that the trainer labels although they are not answer tokens."""
        if self.labels_BT is None:
            return 0
        return int(((self.labels_BT != IGNORE_INDEX) & ~self.answers.answer_BT).sum())

    @cached_property
    def positions(self) -> list[IntArray]:
        """The positions of each row that are not padding."""
        return [np.flatnonzero(attended_T).astype(np.int64) for attended_T in self.geometry.attended_BT]

    def cut(self, places: Sequence[int]) -> dict[str, Any]:
        """Return the model's inputs for some rows, padded to the length of the whole batch.

        Raises:
            InputError: the batch contains videos, or its entries cannot be assigned to rows.
        """
        chosen = cut_rows(self.inputs, self.geometry, places)
        return {key: value for key, value in chosen.items() if value is not None}

    def shows_image(self, place: int) -> bool:
        """Return whether a row has both image positions and pixels."""
        return bool(self.geometry.runs[place]) and bool(self.geometry.entries_of(place))

    def pixels(self, place: int) -> list[Tensor]:
        """Return the pixels of one row as a list of images, of tiles, or of the patches of each image."""
        assert self.pixel_key is not None
        pixels: Any = self.cut([place])[self.pixel_key]
        entries = self.geometry.entries_of(place)
        if self.geometry.pixels.layout is PixelLayout.ROWS:
            return [pixels[0, entry.start] for entry in entries]
        starts = np.cumsum([0, *(entry.stop - entry.start for entry in entries)])[:-1].tolist()
        spans = zip(starts, entries, strict=True)
        whole = [pixels[start : start + entry.stop - entry.start] for start, entry in spans]
        return [_only(part) if isinstance(part, list | tuple) else part for part in whole]

    def with_pixels(self, places: Sequence[int], given: Sequence[Sequence[Tensor]]) -> Any:
        """Return the pixel tensor of some rows with other pixels in it, in the format of the batch.

        Args:
            places: the rows.
            given: the new pixels of each row, in the form that `pixels` returns.
        """
        assert self.pixel_key is not None
        own: Any = self.cut(places)[self.pixel_key]
        if self.geometry.pixels.layout is PixelLayout.ROWS:
            changed = own.clone()
            for row, (place, entries) in enumerate(zip(places, given, strict=True)):
                for entry, pixels in zip(self.geometry.entries_of(place), entries, strict=True):
                    changed[row, entry.start] = pixels.to(changed)
            return changed
        flat = [pixels for entries in given for pixels in entries]
        if isinstance(own, list | tuple):
            return type(own)(pixels.to(like) for pixels, like in zip(flat, own, strict=True))
        return torch.cat([pixels.to(own) for pixels in flat])

    def grid(self, place: int) -> Grid:
        """Return the grid of a row's visual tokens; if the batch does not contain it, they are treated as one line."""
        tokens = int(self.geometry.placeholders_B[place])
        merge, entries = self.geometry.pixels.merge, self.geometry.entries_of(place)
        if merge is not None and all(entry.grid is not None for entry in entries):
            grids = tuple((t, h // merge, w // merge) for t, h, w in (entry.grid or (0, 0, 0) for entry in entries))
            if sum(map(math.prod, grids)) == tokens:
                return grids
        return ((tokens,),)

    def batch(self, grids: Sequence[Grid] | None = None) -> Batch:
        """Convert the rows to a batch of the scoring interface; `grids`, if given, replaces the grids of the rows."""
        places = range(self.geometry.rows)
        samples = tuple(self._sample(place, grids[place] if grids else self.grid(place)) for place in places)
        width = max(len(sample.ids_T) for sample in samples)
        ids_BT = torch.zeros((len(samples), width), dtype=torch.long)
        labels_BT = torch.full((len(samples), width), IGNORE_INDEX, dtype=torch.long)
        block_BT = torch.zeros((len(samples), width), dtype=torch.bool)
        for place, sample in enumerate(samples):
            length = len(sample.ids_T)
            ids_BT[place, :length] = torch.from_numpy(sample.ids_T)
            labels_BT[place, :length] = torch.from_numpy(sample.labels_T)
            block_BT[place, :length] = torch.from_numpy(self._image_positions(place))
        return Batch(
            samples=samples,
            ids_BT=ids_BT,
            labels_BT=labels_BT,
            lengths_B=torch.tensor([len(sample.ids_T) for sample in samples]),
            block_BT=block_BT,
            pixels_BCHW=None,
            features_BPV=None,
            stats=CollateStats.of(samples),
            inputs=RowInputs(tuple(RowInput(self, place) for place in places)),
        )

    def _sample(self, place: int, grid: Grid) -> Sample:
        positions_T = self.positions[place]
        ids_T = self.geometry.ids_BT[place][positions_T].astype(np.int64)
        answer_T = self.answers.answer_BT[place][positions_T].copy()
        answer_T[:1] = False  # the first token cannot be predicted, because no token precedes it
        marked = np.flatnonzero(self._image_positions(place))
        row = self.first_row + place
        return Sample(
            row=row,
            id=str(row),
            image="",
            caption=self._text(ids_T[answer_T]),
            ids_T=ids_T,
            labels_T=np.where(answer_T, ids_T, IGNORE_INDEX),
            block=(int(marked[0]), int(marked[-1]) + 1) if len(marked) else (0, 0),
            full_length=len(ids_T),
            image_hash=self._hash(place) if len(marked) else "",
            grid=grid or ((1,),),
        )

    def _image_positions(self, place: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        image_T = self.geometry.image_BT[place][self.positions[place]]
        return np.asarray(image_T & self.shows_image(place))

    def _text(self, ids_T: IntArray) -> str:
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if hasattr(tokenizer, "decode"):
            return str(tokenizer.decode(ids_T.tolist(), skip_special_tokens=True)).strip()
        return " ".join(map(str, ids_T.tolist()))

    def _hash(self, place: int) -> str:
        digest = hashlib.sha256()
        for pixels in self.pixels(place):
            digest.update(str(tuple(pixels.shape)).encode())
            digest.update(pixels.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class RowInput:
    """One row of a batch, either with its own pixels or with other pixels that replace them."""

    source: Collated
    place: int
    changed: tuple[Tensor, ...] | None = None
    """The pixels that replace the row's own, in the form that `Collated.pixels` returns; None for the row's own."""

    def pixels(self) -> list[Tensor]:
        """Return the pixels of this row: those that replace its own, if there are any."""
        return self.source.pixels(self.place) if self.changed is None else list(self.changed)

    def with_pixels(self, change: Any) -> RowInput:
        """Return the row with `change` applied to each of its images or tiles."""
        if not self.source.shows_image(self.place):
            return self
        return replace(self, changed=tuple(change(pixels) for pixels in self.pixels()))


@dataclass(frozen=True)
class RowInputs:
    """The image inputs of all samples of a batch; implements `seam.ModelInputs` for batches of a collator."""

    parts: tuple[RowInput, ...]

    def rows(self, places: Sequence[int]) -> RowInputs:
        """Return the image inputs of some samples, which are given by their index in the batch."""
        return RowInputs(tuple(self.parts[place] for place in places))

    def with_noise(self, place: int, generator: torch.Generator) -> RowInputs:
        """Return the inputs with the pixels of one sample replaced by noise of the same mean and standard deviation."""

        def noisy(pixels: Tensor) -> Tensor:
            values = pixels.detach().float()
            drawn = torch.randn(values.shape, generator=generator) * max(float(values.std()), 1e-3)
            noise = drawn.to(values.device) + values.mean()
            return noise.to(pixels) if pixels.is_floating_point() else noise.clamp(0, 255).to(pixels)

        return self._changed({place: self.parts[place].with_pixels(noisy)})

    def negated(self) -> RowInputs:
        """Return the inputs with the sign of every pixel value changed."""
        return self._changed({p: part.with_pixels(torch.neg) for p, part in enumerate(self.parts)})

    def _changed(self, changed: Mapping[int, RowInput]) -> RowInputs:
        return RowInputs(tuple(changed.get(place, part) for place, part in enumerate(self.parts)))


def _tensor(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list | tuple) and value and all(is_array(item) for item in value):
        return type(value)(
            torch.as_tensor(np.asarray(item)) if not isinstance(item, Tensor) else item for item in value
        )
    return torch.as_tensor(np.asarray(value)) if is_array(value) else value


def _only(part: Sequence[Tensor]) -> Tensor:
    (pixels,) = part
    return pixels
