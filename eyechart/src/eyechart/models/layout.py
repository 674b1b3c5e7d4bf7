"""Conversion of the output of `get_image_features` to visual tokens per image, and back to the same structure.

Architectures return a tensor, a list with one tensor per image, or an output object whose `pooler_output` is one of
these, possibly with `deepstack_features` per layer. Some flatten images and tokens into one axis. The axis or list of
the images is not found by name: the model is called once with one image and once with two, and the size that doubles is
that of the images.

Dimension suffixes: see `eyechart.seam`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from eyechart.seam import VisualTokens

_NOT_HANDED_ON = ("last_hidden_state", "hidden_states", "attentions")
"""Outputs of the vision tower. If there is also a `pooler_output`, the language model receives only that output, and
these are replaced by None; a model that uses one of them nevertheless fails, and is refused."""


class LayoutError(Exception):
    """The output has a structure that this module does not support."""


class _Node(ABC):
    """One level of the output."""

    @abstractmethod
    def layers(self, tree: Any, images: int) -> Iterator[Tensor]:
        """Yield the visual tokens of this level, each [B,Q,E] with B = images."""

    @abstractmethod
    def tree(self, layers: Iterator[Tensor]) -> Any:
        """Rebuild the output from as many layers as the method `layers` yields."""


@dataclass(frozen=True)
class _Rows(_Node):
    """A tensor whose first axis is that of images, or of the tiles or tokens of all images, one image after another."""

    shape: tuple[int, ...]
    """Shape of the part of the tensor that belongs to one image."""

    def layers(self, tree: Any, images: int) -> Iterator[Tensor]:
        if tuple(tree.shape) != (images * self.shape[0], *self.shape[1:]):
            raise LayoutError(f"expected features of shape {images} x {self.shape}, got {tuple(tree.shape)}")
        yield tree.reshape(images, -1, self.shape[-1])

    def tree(self, layers: Iterator[Tensor]) -> Any:
        return next(layers).reshape(-1, *self.shape[1:])


@dataclass(frozen=True)
class _PerImage(_Node):
    """A list with one or more tensors per image, one image after another."""

    kind: type
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of one image's tensors."""

    def layers(self, tree: Any, images: int) -> Iterator[Tensor]:
        if [tuple(item.shape) for item in tree] != list(self.shapes) * images:
            raise LayoutError(f"expected features of shapes {images} x {self.shapes}, got {[*map(_shape, tree)]}")
        width, each = self.shapes[0][-1], len(self.shapes)
        flat = [item.reshape(-1, width) for item in tree]
        yield torch.stack([torch.cat(flat[i * each : (i + 1) * each]) for i in range(images)])

    def tree(self, layers: Iterator[Tensor]) -> Any:
        sizes = [torch.Size(shape[:-1]).numel() for shape in self.shapes]
        parts = [
            part.reshape(shape)
            for image_QE in next(layers)
            for part, shape in zip(image_QE.split(sizes), self.shapes, strict=True)
        ]
        return self.kind(parts)


@dataclass(frozen=True)
class _Series(_Node):
    """A list or tuple whose length does not depend on the number of images, such as one item per layer of the tower."""

    kind: type
    items: tuple[_Node, ...]

    def layers(self, tree: Any, images: int) -> Iterator[Tensor]:
        for item, part in zip(self.items, tree, strict=True):
            yield from item.layers(part, images)

    def tree(self, layers: Iterator[Tensor]) -> Any:
        return self.kind([item.tree(layers) for item in self.items])


@dataclass(frozen=True)
class _Fields(_Node):
    """An output object. When it is rebuilt, its fields without visual tokens are None."""

    kind: type
    fields: tuple[tuple[str, _Node], ...]

    def layers(self, tree: Any, images: int) -> Iterator[Tensor]:
        for name, node in self.fields:
            yield from node.layers(tree[name], images)

    def tree(self, layers: Iterator[Tensor]) -> Any:
        return self.kind(**{name: node.tree(layers) for name, node in self.fields})


@dataclass(frozen=True)
class Layout:
    """The structure of one model's image features."""

    root: _Node

    @classmethod
    def learn(cls, one: Any, two: Any) -> Layout:
        """Determine the structure from the output for one image and the output for two images.

        Raises:
            LayoutError: the structure is not supported.
        """
        return cls(_learn(one, two))

    def take(self, output: Any, images: int) -> VisualTokens:
        """Return the visual tokens of `images` images, each layer [B,Q,E].

        Raises:
            LayoutError: the number of tokens differs from that of the images from which the structure was determined.
        """
        return VisualTokens(tuple(self.root.layers(output, images)))

    def put(self, visual: VisualTokens) -> Any:
        """Return an output in the model's own structure that contains these visual tokens."""
        return self.root.tree(iter(visual.layers))


def _learn(one: Any, two: Any) -> _Node:
    if isinstance(one, Tensor):
        shape = tuple(one.shape)
        if one.dim() < 2 or tuple(two.shape) != (2 * shape[0], *shape[1:]):
            raise LayoutError(f"features of shape {shape} for one image and {tuple(two.shape)} for two")
        return _Rows(shape)
    if isinstance(one, ModelOutput):
        names = [name for name in one if one[name] is not None]
        if "pooler_output" in names:
            names = [name for name in names if name not in _NOT_HANDED_ON]
        return _Fields(type(one), tuple((name, _learn(one[name], two[name])) for name in names))
    if isinstance(one, list | tuple) and one:
        if len(two) == 2 * len(one):
            return _per_image(one, two)
        if len(two) == len(one):
            return _Series(type(one), tuple(_learn(a, b) for a, b in zip(one, two, strict=True)))
    raise LayoutError(f"image features of type {type(one).__name__}")


def _per_image(one: Sequence[Any], two: Sequence[Any]) -> _PerImage:
    if not all(isinstance(item, Tensor) and item.dim() >= 2 for item in one):
        raise LayoutError("a list per image that contains something other than tensors")
    shapes = tuple(_shape(item) for item in one)
    if tuple(_shape(item) for item in two) != shapes * 2 or len({shape[-1] for shape in shapes}) > 1:
        raise LayoutError(f"features of shapes {shapes} for one image and {[*map(_shape, two)]} for two")
    return _PerImage(type(one), shapes)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
