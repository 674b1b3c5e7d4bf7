"""Hashes of a model's weights, computed in other threads while the model is loaded from the same files.

A tensor's hash covers its shape and its values rounded to bfloat16, so that copies of a model that were saved in
float32, float16 or bfloat16 have the same hashes if rounding gives the same values.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor, nn

from eyechart.outside.json_text import read_json

_AT_ONCE = 1 << 22
"""Number of values converted at once: 8 MB of bfloat16, so that no full copy of a large tensor is made."""
_MOST_THREADS = 8
_OTHER_HALF = "text_model."
"""Beginning of the names of the text tower in a file that also has a vision tower, with layers of the same names."""
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def tensor_hash(tensor: Tensor) -> str:
    """Return 32 hexadecimal digits of SHA-256 over a tensor's shape and its values as bfloat16."""
    digest = hashlib.sha256(str(tuple(tensor.shape)).encode())
    for part in torch.split(tensor.detach().reshape(-1), _AT_ONCE):
        # hashlib releases the interpreter lock, and so does the conversion: threads run at the same time.
        digest.update(part.to(torch.bfloat16).cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def combined(hashes: dict[str, str]) -> str:
    """Return one hash of 32 hexadecimal digits over the hashes of all tensors of a model."""
    lines = "\n".join(f"{name} {value}" for name, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


def model_hashes(model: nn.Module) -> dict[str, str]:
    """Return the hash of every parameter in memory, by name. Tied parameters occur once."""
    parameters = dict(model.named_parameters())
    with ThreadPoolExecutor(_threads()) as pool:
        return dict(zip(parameters, pool.map(tensor_hash, parameters.values()), strict=True))


class HashedFiles:
    """Hashes the tensors of a model's safetensors files in other threads, as soon as the object is created.

    The model is loaded at the same time from the same files, and the operating system reads each part of them from the
    disk only once. Hashing continues while the model is moved to its device and used.
    """

    def __init__(self, name: str) -> None:
        """Start hashing.

        Args:
            name: a folder or a hub id. The files of a hub id are hashed only if they are in the local cache.
        """
        pool = ThreadPoolExecutor(_threads())
        tensors = [(file, tensor) for file in weight_files(name) for tensor in _names(file)]
        self._found = {tensor: pool.submit(_hash_in_file, file, tensor) for file, tensor in tensors}
        pool.shutdown(wait=False)  # nothing more is submitted

    def __deepcopy__(self, memo: dict[int, object]) -> HashedFiles:
        """Return the same object, because a copied model has the same files."""
        return self

    def cancel(self) -> None:
        """Stop hashing; called if the model cannot be loaded."""
        for future in self._found.values():
            future.cancel()

    def of(self, model: nn.Module) -> dict[str, str]:
        """Wait for the hashes, and return the hash of every parameter of the loaded model by name.

        A parameter that has another name in the files, or another shape, is hashed in memory.
        """
        hashes, missing = {}, {}
        for name, parameter in model.named_parameters():
            future = self._found.get(name_in_files(name, self._found) or "")
            found = None if future is None else future.result()
            if found is not None and found[0] == tuple(parameter.shape):
                hashes[name] = found[1]
            else:
                missing[name] = parameter
        with ThreadPoolExecutor(_threads()) as pool:
            return hashes | dict(zip(missing, pool.map(tensor_hash, missing.values()), strict=True))


def weight_files(name: str) -> list[Path]:
    """Return the safetensors files of a model in a folder or in the hub's local cache; an empty list if unknown."""
    index = _file(name, _INDEX)
    if (single := _file(name, _WEIGHTS)) is not None or index is None:
        return [] if single is None else [single]
    try:
        shards = set(read_json(index)["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return []  # loading the model reports what is wrong with it
    found = [_file(name, shard) for shard in sorted(shards)]
    return [file for file in found if file is not None]


def _file(name: str, file: str) -> Path | None:
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    try:
        cached = try_to_load_from_cache(name, file)
    except ValueError:  # not a possible name of a model on the hub
        return None
    return Path(cached) if isinstance(cached, str) else None


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    except Exception:  # noqa: BLE001 - a damaged file; loading the model reports it
        return []


def _hash_in_file(file: Path, name: str) -> tuple[tuple[int, ...], str] | None:
    """Return shape and hash of a tensor in a file; None if it cannot be read or is not a floating-point tensor."""
    try:
        with safe_open(file, framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
    except Exception:  # noqa: BLE001 - loading the model reports it
        return None
    return (tuple(tensor.shape), tensor_hash(tensor)) if tensor.is_floating_point() else None


def name_in_files(name: str, known: Collection[str]) -> str | None:
    """Return a parameter's name in the files, which may have more or fewer prefixes; None unless there is only one."""
    if name in known:
        return name
    near = [other for other in known if other.endswith(f".{name}") or name.endswith(f".{other}")]
    near = [other for other in near if not other.startswith(_OTHER_HALF)] or near
    return near[0] if len(near) == 1 else None


def _threads() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1)
