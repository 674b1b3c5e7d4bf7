"""The files of a checkpoint, and which weights of a live model do not come from them.

Weights are matched by their values and not by their names, because versions of transformers rename them: a tensor comes
from the checkpoint if a tensor of the same shape has the same first and last row, compared as bfloat16. Trained weights
differ from the file, but are still similar to the tensor whose name ends in the same way; newly initialised ones are
not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import cached_file

from eyechart.hub import hub_bounded
from eyechart.outside.json_text import read_json

_RELATED = 0.3
"""Trained weights have at least this correlation with those that training began with."""
_LARGE = 64
"""Fewest values of a row whose correlation means anything."""
_NOT_THERE = ("lora_", "modules_to_save", "adapter", "prompt_encoder", "vera_", "experts")
"""Parts of names of weights that a checkpoint does not hold under one name: adapters, and experts that are stacked."""


def safetensors_of(name: str, local_only: bool = False) -> list[Path]:
    """Return a checkpoint's safetensors files in its folder or the hub cache; an empty list if none are found.

    Args:
        name: folder or hub id.
        local_only: whether the hub must not be asked.
    """
    if Path(name).is_dir():
        return sorted(Path(name).glob("*.safetensors"))
    with hub_bounded(name if not local_only else "."):
        found = (
            cached_file(name, file, local_files_only=local_only, _raise_exceptions_for_missing_entries=False)
            for file in ("model.safetensors.index.json", "model.safetensors")
        )
        path = next((Path(file) for file in found if file is not None), None)
    if path is None or path.suffix == ".safetensors":
        return [] if path is None else [path]
    shards = set(read_json(path)["weight_map"].values())
    return sorted(path.parent / shard for shard in shards)


def tensors_in(files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """Yield the name of every tensor in the files, with a slice that reads only what is requested."""
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a dictionary
                yield key, opened.get_slice(key)


@dataclass(frozen=True)
class Origin:
    """How the weights of a model relate to the files of its checkpoint."""

    matched: int
    """Number of tensors that the files hold with the same values."""
    unrelated: tuple[str, ...]
    """Names of tensors that the files do not hold, or hold with entirely different values."""


@torch.no_grad()
def origin_of(model: nn.Module, files: Sequence[Path]) -> Origin:
    """Compare every weight tensor of a model with the files; only two rows of each are read."""
    by_end: dict[tuple[tuple[int, ...], str], list[Tensor]] = {}
    values, ends = set[bytes](), set[str]()
    for key, stored in tensors_in(files):
        shape = tuple(int(size) for size in stored.get_shape())
        if not shape or 0 in shape:
            continue
        rows = torch.stack([torch.as_tensor(stored[place]).flatten() for place in (0, shape[0] - 1)])
        values.add(_signature(shape, rows))
        by_end.setdefault((shape, _end(key)), []).append(rows.float())
        ends.add(_end(key))
    matched, unrelated = 0, list[str]()
    not_there = (*_NOT_THERE, *_converted(model))
    for name, weight in model.named_parameters():
        if not weight.dim() or not weight.numel() or any(part in name for part in not_there):
            continue
        local = _local(weight)
        if local is None:
            continue
        rows = torch.stack([local[0].flatten(), local[-1].flatten()]).cpu()
        shape, end = tuple(weight.shape), _end(name.replace(".base_layer", ""))
        if _signature(shape, rows) in values:
            matched += 1
        elif rows.shape[1] >= _LARGE or weight.dim() > 1:
            candidates = by_end.get((shape, end), [])
            absent = not candidates and end not in ends
            if absent or (candidates and max(_correlation(rows.float(), c) for c in candidates) < _RELATED):
                unrelated.append(name)
    return Origin(matched, tuple(unrelated))


def _converted(model: nn.Module) -> list[str]:
    """Return parts of names of weights that transformers makes of several stored ones, such as q, k and v in one."""
    converters = [c for c in getattr(model, "_weight_conversions", None) or [] if getattr(c, "operations", None)]
    targets = [str(target) for c in converters for target in getattr(c, "target_patterns", [])]
    return [found for target in targets if (found := target.rpartition("*")[2].strip("^$\\."))]


def _end(name: str) -> str:
    """Return the last part of a name that does not depend on where the model places a module."""
    parts = name.split(".")
    number = max((place for place, part in enumerate(parts) if part.isdigit()), default=None)
    return ".".join(parts[-2:] if number is None else parts[number:])


def _local(weight: Tensor) -> Tensor | None:
    """Return a weight whose values can be read here; None if it is quantised or distributed."""
    plain = weight.is_floating_point() and weight.device.type != "meta" and not hasattr(weight, "full_tensor")
    return weight.detach() if plain else None


def _signature(shape: tuple[int, ...], rows: Tensor) -> bytes:
    return str(shape).encode() + rows.to(torch.bfloat16).view(torch.int16).numpy().tobytes()


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one.double().flatten(), other.double().flatten()
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-12))
