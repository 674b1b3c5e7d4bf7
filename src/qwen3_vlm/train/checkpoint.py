"""Writing and reading checkpoint_<step>.pt, which is sufficient for resuming a run and for scoring.

Files are written atomically and read without running code. Top-level keys: `resampler`, `projector` and optionally
`vision_ln` (the connector's state dicts, with the names of the older format), `step` (number of batches done, over all
ranks), `progress` (epoch, and the batches and counts of this epoch so far), `optimizer`, `rng`, `config` (YAML),
`config_hash`, `backbones` (name, width and digest of each), `versions`, `run` (the id of the run), `evidence`
(`train.evidence.record`: the rows of both sides of the split, identities, digests, the canary). A checkpoint contains
only plain tensors, numbers, strings, lists and dicts, so that `torch.load(weights_only=True)` can read all of it. A
file of the older format contains only the connector: it can be scored but not resumed.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyechart.exits import InputError
from eyechart.files import atomic, remove
from eyechart.hub import first_line
from eyechart.outside.regular import UnreadableError, require_regular
from eyechart.outside.yaml_text import YamlError, parse_yaml
from qwen3_vlm.config import Config, apply_overrides
from qwen3_vlm.models.connector import Connector
from qwen3_vlm.train.damage import refuse_broken_file, refuse_expanded

_NAME = re.compile(r"checkpoint_(\d+)\.pt")
PARTS = ("vision_ln", "resampler", "projector")
"""Names of the parts of a connector, in the order of the forward pass."""
JUDGING = ("ablation", "coverage")
"""Sections of the config that determine how a checkpoint is judged. They are never taken from a checkpoint."""
_TYPES = {
    **{"step": int, "updates": int, "run": str, "config": str, "backbones": dict, "progress": dict, "optimizer": dict},
    "evidence": dict,
}

Payload = dict[str, Any]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of `step`."""
    return folder / f"checkpoint_{step}.pt"


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the paths of all checkpoints in a folder, lowest step first."""
    return sorted((path for path in folder.glob("checkpoint_*.pt") if _NAME.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's file name."""
    match = _NAME.fullmatch(path.name)
    assert match, f"{path} is not a checkpoint's name"
    return int(match[1])


def connector_state(connector: Connector) -> Payload:
    """Return the connector's tensors by part, on the CPU."""
    return {
        part: {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        for part in PARTS
        if (module := getattr(connector, part)) is not None
    }


def save_checkpoint(path: Path, payload: Payload) -> None:
    """Write `payload` atomically: if the process is killed, either the old file or the complete new file remains.

    Raises:
        ValueError: the disk is full or not writable. Older checkpoints are not changed.
    """
    try:
        with atomic(path) as file:
            torch.save(payload, file)
    # A full disk surfaces as OSError from the file, or as RuntimeError from PyTorch's zip writer.
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path}: cannot write the checkpoint ({first_line(error)}); {_free_gb(path.parent):.2f} GB free in "
            f"{path.parent}. Older checkpoints are intact: free some space, then continue with --resume"
        ) from error


def kept_steps(steps: list[int], keep_last: int | None, keep_every: int | None) -> list[int]:
    """Return the steps whose checkpoints are kept.

    Args:
        steps: the steps of all checkpoints, in increasing order.
        keep_last: number of newest checkpoints to keep; None keeps all.
        keep_every: also keep the first checkpoint at or after each multiple of this number of steps.
    """
    if keep_last is None:
        return steps
    milestones: dict[int, int] = {}
    for step in steps if keep_every else []:
        milestones.setdefault(step // (keep_every or 1), step)
    return sorted({*steps[-keep_last:], *(step for multiple, step in milestones.items() if multiple)})


def prune_checkpoints(folder: Path, keep_last: int | None, keep_every: int | None) -> None:
    """Delete checkpoints of this run that need not be kept (see `kept_steps`); the newest always stays."""
    found = {step_of(path): path for path in find_checkpoints(folder)}
    for step in found.keys() - set(kept_steps(list(found), keep_last, keep_every)):
        remove(found[step])


def load_checkpoint(path: Path) -> Payload:
    """Read a checkpoint without running code in it.

    Raises:
        NamedInputError: `file-damaged`: bytes of the file have changed since it was saved.
        ValueError: the file is missing, is not a regular file, is truncated, is not a checkpoint, unpacks to far more
            than its size, or is a pickle that would run code.
    """
    try:
        require_regular(path)
    except UnreadableError:
        raise
    except OSError as error:
        near = ", ".join(p.name for p in find_checkpoints(path.parent)) if path.parent.is_dir() else ""
        what = "is a folder" if path.is_dir() else "no such checkpoint"
        raise ValueError(f"{path}: {what}; in {path.parent}: {near or 'no checkpoint'}") from error
    refuse_broken_file(path)
    try:
        with warnings.catch_warnings():
            # PyTorch warns about pickle protocols of files that the next lines reject.
            warnings.simplefilter("ignore")
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: rejected because it contains more than tensors and plain values (loading it could run code), or "
            "it is damaged; use another checkpoint"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise many kinds of exception in torch.load, with the same cause
        raise ValueError(
            f"{path}: not a readable checkpoint ({first_line(error)[:120]}); {path.stat().st_size} bytes, perhaps "
            "truncated; use an older checkpoint"
        ) from error
    if not isinstance(payload, dict) or not all(isinstance(payload.get(p), dict) for p in ("resampler", "projector")):
        keys = ", ".join(map(str, list(payload)[:8])) if isinstance(payload, dict) else type(payload).__name__
        raise ValueError(f"{path}: expected `resampler` and `projector` in the checkpoint, got {keys or 'nothing'}")
    for key, kind in _TYPES.items():
        if key in payload and not isinstance(payload[key], kind):
            raise ValueError(f"{path}: expected `{key}` to be {kind.__name__}, got {type(payload[key]).__name__}")
    refuse_expanded(payload, path)
    return payload


def load_kept(path: Path, key: str) -> Payload | None:
    """Read what was saved with this key beside a checkpoint; None if it has another key or cannot be read."""
    try:
        require_regular(path)
        kept: Payload = torch.load(path, map_location="cpu", weights_only=True)
        return kept if kept["key"] == key else None
    except Exception:  # damaged bytes raise many kinds of exception in torch.load; the content can be made again
        return None


def config_tree(payload: Payload, path: Path) -> dict[str, Any]:
    """Return the stored config as a plain dictionary, without validating it.

    Raises:
        ValueError: the stored config is not a YAML mapping.
    """
    try:
        tree = parse_yaml(payload["config"])
    except YamlError as error:
        raise ValueError(f"{path}: its stored config is not YAML ({first_line(error)})") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: its stored config is {type(tree).__name__}, expected a mapping")
    return tree


def stored_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config that a checkpoint was trained with, changed by command-line overrides.

    The sections `ablation` and `coverage` have their defaults: a checkpoint does not decide how it is judged.

    Raises:
        ValueError: the checkpoint cannot be read, or it has the older format, which contains no config.
    """
    return config_of(load_checkpoint(path), path, overrides)


def config_of(payload: Payload, path: Path, overrides: Sequence[str] = ()) -> Config:
    """Do the same as `stored_config` for a checkpoint that has already been read."""
    if "config" not in payload:
        raise ValueError(f"{path}: a checkpoint of the older format, which contains no config; set --config")
    tree = {key: value for key, value in config_tree(payload, path).items() if key not in JUDGING}
    return apply_overrides(tree, overrides, f"{path} (its stored config)")


def restore_connector(connector: Connector, payload: Payload, path: Path) -> None:
    """Copy a checkpoint's tensors into a connector. If one of them does not fit, nothing is copied.

    Raises:
        InputError: a part or tensor is missing, is not expected, has another shape, or is not finite.
    """
    for part in PARTS:
        module, state = getattr(connector, part), payload.get(part)
        if (module is None) != (state is None):
            has, lacks = ("checkpoint", "config") if module is None else ("config", "checkpoint")
            raise InputError(
                f"{path}: the {has} has `{part}`, the {lacks} does not",
                f"use the config that the checkpoint was trained with (connector.{part})",
            )
        if module is not None and isinstance(state, dict):
            _compare(module.state_dict(), state, part, path)
    for part in PARTS:
        if payload.get(part) is not None:
            getattr(connector, part).load_state_dict(payload[part])


def _compare(expected: dict[str, Tensor], got: dict[str, Any], part: str, path: Path) -> None:
    for name in sorted(expected.keys() ^ got.keys()):
        where = "lacks" if name in expected else "has an unexpected"
        raise InputError(f"{path}: the checkpoint {where} `{part}.{name}`", "it belongs to another connector config")
    for name, tensor in expected.items():
        value = got[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"{path}: `{part}.{name}` has shape {shape} in the checkpoint, {tuple(tensor.shape)} by the config",
                "use the config (connector and backbones) that the checkpoint was trained with",
            )
        if not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise InputError(
                f"{path}: `{part}.{name}` contains {bad} values that are NaN or infinite", "use an older checkpoint"
            )


def _free_gb(folder: Path) -> float:
    stats = os.statvfs(folder)
    return stats.f_bavail * stats.f_frsize / 1e9
