"""Defines doors: the ways in which the image features or pixels of a live model can be replaced.

A live model is a model in memory, for example during training. There are three doors:

    encoder-outputs   the forward pass gets the image features as the argument `mm_encoder_outputs`, which exists in new
                      versions of transformers
    image-features    `get_image_features` is patched to return other features (`gate`)
    pixels            the forward pass gets other pixels; this works for every model, but the vision tower and the
                      connector have to run in every forward pass

The first door with which a model passes the self-tests is used (`opening`). With the first two doors, "visual
tokens" are the vectors that the language model receives from the connector. With the third door, they are pixel values,
one token per value. The conditions `zero` and `noise` then replace the picture itself and not its visual tokens.

The suffixes of tensor names give their dimensions: see the legend in `eyechart.seam`.
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
"""A function that runs a forward pass of the model on a dict of the model's inputs."""
OFFICIAL = "mm_encoder_outputs"


class Door(ABC):
    """One way to replace the image features or pixels of a model."""

    name: DoorName
    """The name of the door in the results."""
    code: RemarkCode
    """The code of the remark that explains this door in the results."""
    slots: bool
    """True if the visual tokens are vectors that the language model receives; False if they are pixel values."""

    @abstractmethod
    def grid(self, source: Collated, place: int) -> Grid:
        """Return the arrangement of a row's visual tokens."""

    @abstractmethod
    def take(self, part: RowInput) -> VisualTokens:
        """Return the visual tokens of one row; each layer has the shape [1,Q,E]."""

    def take_together(self, parts: Sequence[RowInput]) -> list[VisualTokens]:
        """Return the visual tokens of several rows of one batch; subclasses may compute them in one forward pass."""
        return [self.take(part) for part in parts]

    @abstractmethod
    def giving(self, parts: Sequence[RowInput], visual: VisualTokens) -> Any:
        """Return a context manager that yields the model's inputs for these rows, which come from one batch.

        A forward pass on these inputs inside the context uses the visual tokens `visual` instead of the rows' own.
        """


class PixelDoor(Door):
    """The door that passes other pixels to the model."""

    name, code = "pixels", "door-pixels"
    slots = False

    def grid(self, source: Collated, place: int) -> Grid:
        """Return the dimensions of each image or tile; for images in patches, those of the merged grid and a patch."""
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
        """Return the pixel values of the row, [1,Q,1]."""
        values = [pixels.flatten() for pixels in part.pixels()]
        return VisualTokens((torch.cat([v if v.is_floating_point() else v.float() for v in values])[None, :, None],))

    @contextmanager
    def giving(self, parts: Sequence[RowInput], visual: VisualTokens) -> Iterator[dict[str, Any]]:
        """Yield the model's inputs with these pixel values, in the format of the batch."""
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
    """A door that passes other image features to the language model."""

    slots = True

    def __init__(self, forward: Forward, gate: FeatureGate, example: RowInput) -> None:
        """Determine the structure of the model's image features by running it on one row with images.

        Raises:
            LayoutError: the structure is not supported, or the row has more or fewer features than image positions.
        """
        self._forward, self._gate = forward, gate
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._device = torch.device("cpu")
        source, place = example.source, example.place
        one, two = (self._caught(source.cut([place] * count)) for count in (1, 2))
        self._layout = Layout.learn(one, two)
        self.take(example)

    def grid(self, source: Collated, place: int) -> Grid:
        """Return the arrangement of the visual tokens of each image in the row."""
        return source.grid(place)

    def take(self, part: RowInput) -> VisualTokens:
        """Compute the visual tokens of one row with the model's vision tower and connector.

        Raises:
            LayoutError: the features have an unexpected structure, or the row has more or fewer of them than image
                positions.
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
        """Compute the visual tokens of several rows of one batch in one forward pass.

        Raises:
            LayoutError: the features of the batch have a different structure from those of single rows.
        """
        layouts = [self._layout_of(part) for part in parts]
        outputs = self._layout.split(self._caught(inputs_of(parts)), layouts)
        return [layout.take(output, 1) for layout, output in zip(layouts, outputs, strict=True)]

    def features(self, parts: Sequence[RowInput], visual: VisualTokens) -> Any:
        """Return the output of `get_image_features` for these rows, with `visual` in place of their own tokens."""
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
    """The door that passes image features as an argument of the forward pass."""

    name, code = "encoder-outputs", "door-encoder-outputs"

    @contextmanager
    def giving(self, parts: Sequence[RowInput], visual: VisualTokens) -> Iterator[dict[str, Any]]:
        """Yield inputs with the features instead of the pixels, because a forward pass accepts only one of the two."""
        source = parts[0].source
        inputs = source.cut([part.place for part in parts])
        inputs.pop(str(source.pixel_key))
        yield {**inputs, OFFICIAL: {"image": self.features(parts, visual)}}


class GateDoor(_FeatureDoor):
    """The door that makes `get_image_features` return other image features."""

    name, code = "image-features", "door-image-features"

    @contextmanager
    def giving(self, parts: Sequence[RowInput], visual: VisualTokens) -> Iterator[dict[str, Any]]:
        """Make `get_image_features` return these features, regardless of the pixels."""
        with self._gate.answering(self.features(parts, visual)):
            yield inputs_of(parts)


def inputs_of(parts: Sequence[RowInput]) -> dict[str, Any]:
    """Return the model's inputs for some rows of one batch, with the pixels that replace a row's own, if any."""
    source, places = parts[0].source, [part.place for part in parts]
    inputs = source.cut(places)
    if all(part.changed is None for part in parts):
        return inputs
    assert source.pixel_key is not None
    return {**inputs, source.pixel_key: source.with_pixels(places, [part.pixels() for part in parts])}


def feature_doors(model: nn.Module) -> list[type[_FeatureDoor]]:
    """Return the doors for image features that a model may support, in the order in which they are tried."""
    if not FeatureGate.fits(model):
        return []
    return [OfficialDoor, GateDoor] if OFFICIAL in parameters_of(model) else [GateDoor]


def parameters_of(model: nn.Module) -> set[str]:
    """Return the names of the arguments of a model's `forward`, even if a wrapper hides its signature."""
    given = set(inspect.signature(model.forward).parameters)
    return given if "input_ids" in given else given | set(inspect.signature(type(model).forward).parameters)


def as_tensor(found: Any) -> Tensor:
    """Return the logits [B,T,K] from the output of a model's forward pass."""
    logits = getattr(found, "logits", None)
    return logits if isinstance(logits, Tensor) else found[0]
