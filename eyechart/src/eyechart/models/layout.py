"""Converts the output of `get_image_features` to visual tokens per image, and back to the same structure.

Architectures return a tensor, a list with one tensor per image, or an output object whose `pooler_output` is one of
these, possibly with `deepstack_features` per layer. Some flatten images and tokens into one axis. Which axis or list
belongs to the images is found by calling the model once with one image and once with two: its size doubles.

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

_NOT_HANDED_ON = ("last_hidden_state", "hidden_states", "attentions", "vision_outputs", "qformer_outputs")
"""Outputs of the vision tower. If there is also a `pooler_output`, the language model uses only that one, and these are
replaced by None. If a model does use one of them, it fails with an error and is refused."""


class LayoutError(Exception):
    """The output has a structure that this module does not support."""


class _Node(ABC):
    """One level of the nested output."""

    @abstractmethod
    def layers(self, tree: Any, images: int) -> Iterator[Tensor]:
        """Yield the visual tokens of this level, each [B,Q,E] with B = images."""

    @abstractmethod
    def tree(self, layers: Iterator[Tensor]) -> Any:
        """Rebuild the output from as many layers as the method `layers` yields."""

    @abstractmethod
    def like(self, tree: Any) -> _Node:
        """Return a node of the same kind with the shapes of another sample's output."""

    @abstractmethod
    def join(self, trees: Sequence[Any]) -> Any:
        """Return the output for several samples from the outputs for each of them."""

    @abstractmethod
    def split(self, tree: Any, nodes: Sequence[Any]) -> list[Any]:
        """Split an output for several samples into one per sample; `nodes` contains the shapes of each."""


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

    def like(self, tree: Any) -> _Node:
        if not isinstance(tree, Tensor) or tree.dim() != len(self.shape):
            raise LayoutError(f"expected features with {len(self.shape)} axes, got {_form(tree)}")
        return _Rows(_shape(tree))

    def join(self, trees: Sequence[Any]) -> Any:
        return torch.cat(list(trees))

    def split(self, tree: Any, nodes: Sequence[Any]) -> list[Any]:
        sizes = [node.shape[0] for node in nodes]
        if not isinstance(tree, Tensor) or len(tree) != sum(sizes):
            raise LayoutError(f"expected features of {sum(sizes)} rows for the samples together, got {_form(tree)}")
        return list(torch.split(tree, sizes))


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

    def like(self, tree: Any) -> _Node:
        if not isinstance(tree, list | tuple) or not tree or not all(isinstance(item, Tensor) for item in tree):
            raise LayoutError(f"expected a tensor per image, got {_form(tree)}")
        return _PerImage(self.kind, tuple(_shape(item) for item in tree))

    def join(self, trees: Sequence[Any]) -> Any:
        return self.kind([item for tree in trees for item in tree])

    def split(self, tree: Any, nodes: Sequence[Any]) -> list[Any]:
        if len(tree) != sum(len(node.shapes) for node in nodes):
            raise LayoutError(f"expected a tensor per image of the samples together, got {len(tree)}")
        items = iter(tree)
        return [self.kind([next(items) for _ in node.shapes]) for node in nodes]


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

    def like(self, tree: Any) -> _Node:
        if not isinstance(tree, list | tuple) or len(tree) != len(self.items):
            raise LayoutError(f"expected {len(self.items)} outputs, got {_form(tree)}")
        return _Series(self.kind, tuple(item.like(part) for item, part in zip(self.items, tree, strict=True)))

    def join(self, trees: Sequence[Any]) -> Any:
        columns = zip(*trees, strict=True)
        return self.kind([item.join(parts) for item, parts in zip(self.items, columns, strict=True)])

    def split(self, tree: Any, nodes: Sequence[Any]) -> list[Any]:
        items = enumerate(zip(self.items, tree, strict=True))
        columns = [item.split(part, [node.items[place] for node in nodes]) for place, (item, part) in items]
        return [self.kind(parts) for parts in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _Fields(_Node):
    """An output object. When it is rebuilt, its fields without visual tokens are None."""

    kind: type
    fields: tuple[tuple[str, _Node], ...]

    def layers(self, tree: Any, images: int) -> Iterator[Tensor]:
        values = _values(tree)
        for name, node in self.fields:
            yield from node.layers(values[name], images)

    def tree(self, layers: Iterator[Tensor]) -> Any:
        return _output(self.kind, {name: node.tree(layers) for name, node in self.fields})

    def like(self, tree: Any) -> _Node:
        values = _values(tree) if isinstance(tree, ModelOutput) else {}
        if any(name not in values for name, _ in self.fields):
            raise LayoutError(f"expected the fields {', '.join(name for name, _ in self.fields)}, got {_form(tree)}")
        return _Fields(self.kind, tuple((name, node.like(values[name])) for name, node in self.fields))

    def join(self, trees: Sequence[Any]) -> Any:
        several = [_values(tree) for tree in trees]
        return _output(self.kind, {name: node.join([v[name] for v in several]) for name, node in self.fields})

    def split(self, tree: Any, nodes: Sequence[Any]) -> list[Any]:
        values = _values(tree)
        fields = [(name, own.split(values[name], [dict(n.fields)[name] for n in nodes])) for name, own in self.fields]
        return [_output(self.kind, {name: parts[place] for name, parts in fields}) for place in range(len(nodes))]


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

    def like(self, output: Any) -> Layout:
        """Return a layout of the same structure for a sample with other sizes, from that sample's output.

        Raises:
            LayoutError: the output has another structure.
        """
        return Layout(self.root.like(output))

    def join(self, outputs: Sequence[Any]) -> Any:
        """Return the output for several samples from the outputs for each of them."""
        return self.root.join(outputs)

    def split(self, output: Any, layouts: Sequence[Layout]) -> list[Any]:
        """Split an output for several samples into one per sample; `layouts` contains the sizes of each."""
        return self.root.split(output, [layout.root for layout in layouts])


def _learn(one: Any, two: Any) -> _Node:
    if isinstance(one, Tensor):
        shape = tuple(one.shape)
        if one.dim() < 2 or tuple(two.shape) != (2 * shape[0], *shape[1:]):
            raise LayoutError(f"features of shape {shape} for one image and {tuple(two.shape)} for two")
        return _Rows(shape)
    if isinstance(one, ModelOutput):
        first, second = _values(one), _values(two)
        names = [name for name in first if "pooler_output" not in first or name not in _NOT_HANDED_ON]
        return _Fields(type(one), tuple((name, _learn(first[name], second[name])) for name in names))
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


def _values(output: ModelOutput) -> dict[str, Any]:
    """Return what an output object holds, also values that are attributes and not fields of its class.

    In transformers 5.6, Gemma 4 and SmolVLM add their `pooler_output` to an object whose class has no such field.
    """
    held = {**output, **{name: value for name, value in vars(output).items() if not name.startswith("_")}}
    return {name: value for name, value in held.items() if value is not None}


def _output(kind: type, values: dict[str, Any]) -> Any:
    """Return an output object of this class that holds these values."""
    fields = getattr(kind, "__dataclass_fields__", values)
    output = kind(**{name: value for name, value in values.items() if name in fields})
    for name, value in values.items():
        if name not in fields:
            setattr(output, name, value)
    return output


def _form(tree: Any) -> str:
    return f"a tensor of shape {_shape(tree)}" if isinstance(tree, Tensor) else type(tree).__name__


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
