"""Checks that a checkpoint has the bytes that were saved, with checksums of the file and digests of its tensors.

The zip format in which PyTorch saves has a checksum for every part of the file, which shows bytes that have changed on
a disk or in a copy. The digests of the connector's tensors also show tensors that were edited or converted and then
saved again.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyechart.exits import InputError, NamedInputError
from eyechart.outside import bounds

_FIX = "take another copy of the file, or an older checkpoint"


def tensor_digests(parts: dict[str, dict[str, Tensor]]) -> dict[str, list[Any]]:
    """Return dtype, shape and a digest of the bytes of each of the connector's tensors, by `part.name`."""
    return {
        name: [_dtype(tensor), list(tensor.shape), _digest(tensor)]
        for name, tensor in _by_name(parts)
        if tensor.numel()
    }


def refuse_broken_file(path: Path) -> None:
    """Reject a file of which a part does not match its checksum. Files in another format than zip are not checked.

    Raises:
        NamedInputError: `file-damaged`.
        InputError: it unpacks to far more than its size.
    """
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(part.file_size for part in file.infolist())
            if unpacked > bounds.CHECKPOINT_EXPANSION * path.stat().st_size:
                size = f"unpacks to {unpacked:,} bytes, more than {bounds.CHECKPOINT_EXPANSION} times its size"
                raise InputError(f"{path}: {size}: PyTorch did not write this file", "use another checkpoint")
            broken = file.testzip()
    except InputError:
        raise
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError, zlib.error):
        return  # torch.load reads it next, and reports what is wrong with it
    if broken is not None:
        raise NamedInputError(
            "file-damaged",
            f"{path}: the file is damaged: its part {broken} does not match its checksum, so its bytes have changed "
            "since it was saved",
            _FIX,
        )


def refuse_expanded(payload: object, path: Path) -> None:
    """Reject a checkpoint with a tensor that has more values than it stores, because copies would fill the memory.

    Raises:
        InputError: there is one.
    """
    if isinstance(payload, Tensor):
        if payload.numel() * payload.element_size() > payload.untyped_storage().nbytes():
            raise InputError(
                f"{path}: a tensor of shape {tuple(payload.shape)} has {payload.numel():,} values, but the file does "
                "not store them",
                "use another checkpoint",
            )
    elif isinstance(payload, dict):
        for value in payload.values():
            refuse_expanded(value, path)
    elif isinstance(payload, (list, tuple)):
        for value in payload:
            refuse_expanded(value, path)


def refuse_damaged(recorded: dict[str, list[Any]], parts: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Reject a checkpoint whose tensors are not those that were saved.

    Args:
        recorded: the result of `tensor_digests` when it was saved.
        parts: the connector's tensors in the file, by part.
        path: the checkpoint, for messages.

    Raises:
        NamedInputError: `file-damaged`: a tensor is missing, was added, or has another dtype, shape or other values.
    """
    now = {name: tensor for name, tensor in _by_name(parts) if tensor.numel()}
    for name in sorted(recorded.keys() ^ now.keys()):
        state = "is missing" if name in recorded else "was added"
        _refuse(path, f"`{name}` {state}")
    for name, (dtype, shape, digest) in recorded.items():
        tensor = now[name]
        if (_dtype(tensor), list(tensor.shape)) != (dtype, shape):
            found = f"{_dtype(tensor)} {tuple(tensor.shape)}"
            _refuse(path, f"`{name}` is {found}, it was saved as {dtype} {tuple(shape)}")
        if _digest(tensor) != digest:
            _refuse(path, f"`{name}` does not have the values that were saved")


def _refuse(path: Path, what: str) -> None:
    raise NamedInputError("file-damaged", f"{path}: the file is damaged: {what}", _FIX)


def _by_name(parts: dict[str, dict[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for part, state in parts.items():
        for name, tensor in state.items():
            if isinstance(tensor, Tensor):
                yield f"{part}.{name}", tensor


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()[:32]
