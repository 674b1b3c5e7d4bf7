"""Doors: the ways in which the image features or pixels of a live model are replaced.

    encoder-outputs   the forward pass accepts the output of the vision half as an argument (`mm_encoder_outputs`, in
                      new versions of transformers)
    image-features    `get_image_features` is patched to return other features (`gate`)
    pixels            the forward pass gets other pixels; this works for every model, but runs the vision half each time

The first one that a model supports is used (`open_door`). With the first two doors, "visual tokens" are the vectors
that the language model gets from the vision half. With the third, they are pixel values, one token per value, so the
conditions `zero` and `noise` replace the picture and not its visual tokens.

Dimension suffixes: see `eyechart.seam`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eyechart.models.collated import Collated, RowInput
from eyechart.models.gate import FeatureGate
from eyechart.models.layout import Layout, LayoutError
from eyechart.processors.pixel_entries import PixelLayout
from eyechart.results import DoorName, RemarkCode
from eyechart.seam import Grid, VisualTokens

Forward = Callable[[Mapping[str, Any]], Any]
"""A forward pass of the model on its own inputs."""
OFFICIAL = "mm_encoder_outputs"


class Door(ABC):
    """One way in."""

    name: DoorName
    """Its name in the results."""
    code: RemarkCode
    """The remark that explains this door in the results."""
    slots: bool
    """Whether visual tokens are the language model's inputs; otherwise they are pixel values."""

    @abstractmethod
    def grid(self, source: Collated, place: int) -> Grid:
        """Return the arrangement of a row's visual tokens."""

    @abstractmethod
    def take(self, part: RowInput) -> VisualTokens:
        """Return the visual tokens of one row, each layer [1,Q,E]."""

    def take_together(self, parts: Sequence[RowInput]) -> list[VisualTokens]:
        """Return the visual tokens of rows of one batch, computed in one forward pass for all of them."""
        return [self.take(part) for part in parts]

    @abstractmethod
    def giving(self, parts: Sequence[RowInput], visual: VisualTokens) -> Any:
        """Return a context manager: it yields the inputs of these rows of one batch, and passes inside use `visual`."""


class PixelDoor(Door):
    """Other pixels."""

    name, code = "pixels", "door-pixels"
    slots = False

    def grid(self, source: Collated, place: int) -> Grid:
        """Return the dimensions of each entry; for patches, the merged grid."""
        merge = source.geometry.pixels.merge
        grids: list[tuple[int, ...]] = []
        for entry, pixels in zip(source.geometry.entries_of(place), source.pixels(place), strict=True):
            if source.geometry.pixels.layout is PixelLayout.PATCHES and entry.grid is not None and merge is not None:
                time, height, width = entry.grid
                grids.append((time, height // merge, width // merge, merge * merge, pixels.shape[-1]))
            else:
                grids.append(tuple(pixels.shape))
        return tuple(grids)

    def take(self, part: RowInput) -> VisualTokens:
        """Return the pixel values [1,Q,1]."""
        values = [pixels.flatten() for pixels in part.pixels()]
        return VisualTokens((torch.cat([v if v.is_floating_point() else v.float() for v in values])[None, :, None],))

    @contextmanager
    def giving(self, parts: Sequence[RowInput], visual: VisualTokens) -> Iterator[dict[str, Any]]:
        """Yield the inputs with these pixel values, in the batch's own format."""
        source, places = parts[0].source, [part.place for part in parts]
        entries = []
        for part, values_QE, count in zip(parts, visual.layers[0], visual.counts(), strict=True):
            own = source.pixels(part.place)
            values = values_QE[:count, 0].split([pixels.numel() for pixels in own])
            entries.append([given.view(pixels.shape) for given, pixels in zip(values, own, strict=True)])
        inputs = source.cut(places)
        assert source.pixel_key is not None
        yield {**inputs, source.pixel_key: source.with_pixels(places, entries)}


class _FeatureDoor(Door):
    """Other image features."""

    slots = True

    def __init__(self, forward: Forward, gate: FeatureGate, example: RowInput) -> None:
        """Determine the form of the features from one row with images.

        Raises:
            LayoutError: the form is not supported, or the numbers of features and image positions differ.
        """
        self._forward, self._gate = forward, gate
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._device = torch.device("cpu")
        source, place = example.source, example.place
        one, two = (self._caught(source.cut([place] * count)) for count in (1, 2))
        self._layout = Layout.learn(one, two)
        self.take(example)

    def grid(self, source: Collated, place: int) -> Grid:
        """Return the grids of the row's images."""
        return source.grid(place)

    def take(self, part: RowInput) -> VisualTokens:
        """Run the vision half on one row.

        Raises:
            LayoutError: the features have an unexpected form, or their number is not that of the image positions.
        """
        source, place = part.source, part.place
        features = self._caught(inputs_of([part]))
        layout = self._layout.like(features)
        visual = layout.take(features, 1)
        wanted = int(source.geometry.placeholders_B[place])
        if any(layer.shape[1] != wanted for layer in visual.layers):
            got = sorted({int(layer.shape[1]) for layer in visual.layers})
            raise LayoutError(f"{got} image features for {wanted} image positions")
        self._layouts[source.number, place] = layout
        self._device = visual.layers[0].device
        return visual

    def take_together(self, parts: Sequence[RowInput]) -> list[VisualTokens]:
        """Run the vision half on rows of one batch.

        Raises:
            LayoutError: the features have another form than those of single rows.
        """
        layouts = [self._layout_of(part) for part in parts]
        outputs = self._layout.split(self._caught(inputs_of(parts)), layouts)
        return [layout.take(output, 1) for layout, output in zip(layouts, outputs, strict=True)]

    def features(self, parts: Sequence[RowInput], visual: VisualTokens) -> Any:
        """Return the output of the model's vision half for these rows, with other visual tokens in it."""
        outputs = []
        for row, (part, count) in enumerate(zip(parts, visual.counts(), strict=True)):
            own = VisualTokens(tuple(layer[row : row + 1, :count].to(self._device) for layer in visual.layers))
            outputs.append(self._layout_of(part).put(own))
        return self._layout.join(outputs)

    def _layout_of(self, part: RowInput) -> Layout:
        key = part.source.number, part.place
        if key not in self._layouts:
            self.take(RowInput(part.source, part.place))
        return self._layouts[key]

    def _caught(self, inputs: Mapping[str, Any]) -> Any:
        found = self._gate.catch(lambda: self._forward(inputs))
        if found is None:
            raise LayoutError("a forward pass does not compute them (get_image_features is not called)")
        return found


class OfficialDoor(_FeatureDoor):
    """Features as an argument of the forward pass."""

    name, code = "encoder-outputs", "door-encoder-outputs"

    @contextmanager
    def giving(self, parts: Sequence[RowInput], visual: VisualTokens) -> Iterator[dict[str, Any]]:
        """Pass the features instead of the pixels; a forward pass accepts only one of the two."""
        source = parts[0].source
        inputs = source.cut([part.place for part in parts])
        inputs.pop(str(source.pixel_key))
        yield {**inputs, OFFICIAL: {"image": self.features(parts, visual)}}


class GateDoor(_FeatureDoor):
    """Features as the return value of `get_image_features`."""

    name, code = "image-features", "door-image-features"

    @contextmanager
    def giving(self, parts: Sequence[RowInput], visual: VisualTokens) -> Iterator[dict[str, Any]]:
        """Let `get_image_features` return these features, whatever the pixels are."""
        with self._gate.answering(self.features(parts, visual)):
            yield inputs_of(parts)


def inputs_of(parts: Sequence[RowInput]) -> dict[str, Any]:
    """Return the model's inputs for rows of one batch, with their own pixels or those that replace them."""
    source, places = parts[0].source, [part.place for part in parts]
    inputs = source.cut(places)
    if all(part.changed is None for part in parts):
        return inputs
    assert source.pixel_key is not None
    return {**inputs, source.pixel_key: source.with_pixels(places, [part.pixels() for part in parts])}


def feature_doors(model: nn.Module) -> list[type[_FeatureDoor]]:
    """Return the doors for image features that a model may support, the best one first."""
    if not FeatureGate.fits(model):
        return []
    return [OfficialDoor, GateDoor] if OFFICIAL in parameters_of(model) else [GateDoor]


def parameters_of(model: nn.Module) -> set[str]:
    """Return the names of the arguments of a model's forward pass, even if the method was wrapped."""
    given = set(inspect.signature(model.forward).parameters)
    return given if "input_ids" in given else given | set(inspect.signature(type(model).forward).parameters)


def as_tensor(found: Any) -> Tensor:
    """Return the logits [B,T,K] of a model's output."""
    logits = getattr(found, "logits", None)
    return logits if isinstance(logits, Tensor) else found[0]
