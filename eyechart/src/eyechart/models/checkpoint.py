"""The files of a checkpoint, and which weights of a model do not come from them.

Weights of a live model are matched by their values and not by their names, because versions of transformers rename
them: a tensor comes from the checkpoint if a tensor of the same shape has the same first and last row, compared as
bfloat16. Trained weights differ from the file, but are still similar to the tensor whose name ends in the same way;
newly initialised ones are not. A model that must be the one in the files, such as a frozen part, is compared by name.
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
from eyechart.models.hashing import name_in_files
from eyechart.outside.json_text import read_json

_RELATED = 0.3
"""Trained weights have at least this correlation with the weights before training."""
_LARGE = 64
"""Smallest number of values for which a correlation is computed; of fewer values, it can be high by chance."""
_NOT_THERE = ("lora_", "modules_to_save", "adapter", "prompt_encoder", "vera_", "experts")
"""Substrings in the names of weights that a checkpoint does not store under one name: adapters and stacked experts."""


def safetensors_of(name: str, local_only: bool = False) -> list[Path]:
    """Return a checkpoint's safetensors files in its folder or the hub cache; an empty list if none are found.

    Args:
        name: folder or hub id.
        local_only: True to use only local files and not the hub.
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
    """Yield the name of every tensor in the files, with a safetensors slice that reads only the requested values."""
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a dictionary
                yield key, opened.get_slice(key)


@dataclass(frozen=True)
class Origin:
    """How the weights of a model relate to the files of its checkpoint."""

    matched: int
    """Number of weights that are in the files with the same values."""
    unrelated: tuple[str, ...]
    """Names of tensors that the files do not hold, or hold with entirely different values."""
    differ: tuple[str, ...]
    """Names of tensors that the files hold under the same name with other values or another shape."""
    absent: tuple[str, ...]
    """Names of tensors that the files do not hold under the same name, up to prefixes."""


@torch.no_grad()
def origin_of(model: nn.Module, files: Sequence[Path]) -> Origin:
    """Compare every weight tensor of a model with the files; only two rows of each are read."""
    by_end: dict[tuple[tuple[int, ...], str], list[Tensor]] = {}
    by_name, ends = dict[str, bytes](), set[str]()
    for key, stored in tensors_in(files):
        shape = tuple(int(size) for size in stored.get_shape())
        if not shape or 0 in shape:
            continue
        rows = torch.stack([torch.as_tensor(stored[place]).flatten() for place in (0, shape[0] - 1)])
        by_name[key] = _signature(shape, rows)
        by_end.setdefault((shape, _end(key)), []).append(rows.float())
        ends.add(_end(key))
    values, matched = set(by_name.values()), 0
    unrelated, differ, absent = list[str](), list[str](), list[str]()
    not_there = (*_NOT_THERE, *_converted(model))
    for name, weight in model.named_parameters():
        if not weight.dim() or not weight.numel() or any(part in name for part in not_there):
            continue
        local = _local(weight)
        if local is None:
            continue
        rows = torch.stack([local[0].flatten(), local[-1].flatten()]).cpu()
        shape, end = tuple(weight.shape), _end(name.replace(".base_layer", ""))
        signature, own = _signature(shape, rows), name_in_files(name, by_name)
        if own is None:
            absent.append(name)
        elif by_name[own] != signature:
            differ.append(name)
        if signature in values:
            matched += 1
        elif rows.shape[1] >= _LARGE or weight.dim() > 1:
            candidates = by_end.get((shape, end), [])
            nowhere = not candidates and end not in ends
            if nowhere or (candidates and max(_correlation(rows.float(), c) for c in candidates) < _RELATED):
                unrelated.append(name)
    return Origin(matched, tuple(unrelated), tuple(differ), tuple(absent))


def _converted(model: nn.Module) -> list[str]:
    """Return substrings of names of weights that transformers merges from several stored ones, such as q, k, v."""
    converters = [c for c in getattr(model, "_weight_conversions", None) or [] if getattr(c, "operations", None)]
    targets = [str(target) for c in converters for target in getattr(c, "target_patterns", [])]
    return [found for target in targets if (found := target.rpartition("*")[2].strip("^$\\."))]


def _end(name: str) -> str:
    """Return the ending of a name that stays the same when a module is moved within the model."""
    parts = name.split(".")
    number = max((place for place, part in enumerate(parts) if part.isdigit()), default=None)
    return ".".join(parts[-2:] if number is None else parts[number:])


def _local(weight: Tensor) -> Tensor | None:
    """Return the values of a weight; None if they cannot be read because it is quantised or distributed."""
    plain = weight.is_floating_point() and weight.device.type != "meta" and not hasattr(weight, "full_tensor")
    return weight.detach() if plain else None


def _signature(shape: tuple[int, ...], rows: Tensor) -> bytes:
    return str(shape).encode() + rows.to(torch.bfloat16).view(torch.int16).numpy().tobytes()


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one.double().flatten(), other.double().flatten()
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-12))
