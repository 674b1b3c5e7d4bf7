"""Reads the arrays of a batch, which can be plain lists or belong to any library (PyTorch, NumPy, MLX, JAX).

PyTorch is not imported: its tensors are recognised by their methods. When rows are selected, PyTorch tensors, NumPy
arrays and lists keep their type, and other arrays are converted to NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eyechart.exits import InputError

AnyArray = npt.NDArray[Any]


def is_array(value: object) -> bool:
    """Return whether a value has a shape and can be converted to a NumPy array."""
    return hasattr(value, "shape") and (hasattr(value, "__array__") or hasattr(value, "__buffer__"))


def to_numpy(value: Any) -> AnyArray:
    """Convert a value to a NumPy array; data types that NumPy does not have, such as bfloat16, become float32.

    Args:
        value: an array on any device, with or without gradients; a number; or nested lists of numbers.

    Raises:
        TypeError: the value is something else, such as a ragged list or a list of strings.
    """
    if hasattr(value, "detach"):  # a PyTorch tensor
        tensor = value.detach().cpu()
        return np.asarray((tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy())
    try:
        array: AnyArray = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise TypeError("expected numbers of one shape") from error
    if array.dtype.kind not in "biuf":
        try:
            array = array.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise TypeError("expected numbers") from error
    return array


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of an array, `(length,)` for a list or tuple, and None for any other value."""
    if hasattr(value, "shape"):
        return tuple(int(size) for size in value.shape)
    return (len(value),) if isinstance(value, list | tuple) else None


def take(value: Any, indices: Sequence[int], axis: int = 0) -> Any:
    """Return the items of an array or list at `indices` along `axis`, in the order of `indices`."""
    if isinstance(value, list | tuple):
        assert axis == 0
        return type(value)([value[i] for i in indices]) if type(value) in (list, tuple) else [value[i] for i in indices]
    if hasattr(value, "index_select"):  # a PyTorch tensor; the list of indices works on any device
        return value[(slice(None),) * axis + (list(indices),)]
    return np.take(to_numpy(value), list(indices), axis=axis)


def matrix_of(batch: Mapping[str, Any], key: str) -> AnyArray | None:
    """Return the entry `key` of a batch as a NumPy array; None if the entry is absent or None.

    Raises:
        InputError: the entry is not numeric.
    """
    value = batch.get(key)
    if value is None:
        return None
    try:
        return to_numpy(value)
    except TypeError as error:
        raise InputError(
            f"batch[{key!r}]: expected an array of numbers, got {_kind(value)}",
            "pass the batch as the collator returns it to the model",
        ) from error


def _kind(value: object) -> str:
    shape = shape_of(value)
    return f"{type(value).__name__}{'' if shape is None else f' of shape {shape}'}"
