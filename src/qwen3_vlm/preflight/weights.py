"""Frozen weights in memory against the files they should have come from, and signs that nobody ever trained them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import cached_file

from qwen3_vlm.build import Prepared
from qwen3_vlm.faults import finding
from qwen3_vlm.models.hub import hub_bounded
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.results import Finding

_FIX = "load every weight of the frozen part from its own checkpoint; copy or download it again if files are missing"


def weight_findings(prepared: Prepared, vlm: VLM) -> list[Finding]:
    """Both frozen parts, tensor by tensor: first and last row of each."""
    found = []
    parts: list[tuple[str, str, nn.Module]] = [
        ("model.vision", prepared.config.model.vision, vlm.tower.model),
        ("model.llm", prepared.config.model.llm, vlm.llm.model),
    ]
    for setting, name, model in parts:
        found += _part(setting, name, model)
    return found


@torch.no_grad()
def _part(setting: str, name: str, model: nn.Module) -> list[Finding]:
    bad = [n for n, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        return [
            finding(
                "non-finite",
                f"{setting} {name}: {len(bad)} weights hold NaN or infinity, first {bad[0]}",
                "copy or download the checkpoint again, or set model.precision to fp32 if it overflows in bf16",
                tensors=bad[:8],
            )
        ]
    files = _files(name)
    if files:
        differ, absent, total = _compare(model, files)
        if differ or absent:
            first = (absent or differ)[0]
            return [
                finding(
                    "tower-uninitialised",
                    f"{setting} {name}: {len(differ)} of {total} weights are not those of the file and {len(absent)} "
                    f"are not in it, first {first}: they are random or changed",
                    _FIX,
                    differ=differ[:8],
                    absent=absent[:8],
                    tensors=total,
                )
            ]
    return _never_trained(setting, name, model)


def _files(name: str) -> list[Path]:
    """The checkpoint's safetensors files, in its folder or the hub's cache; none where they cannot be found."""
    if Path(name).is_dir():
        return sorted(Path(name).glob("*.safetensors"))
    with hub_bounded(name):
        index = cached_file(name, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
        if index is None:
            single = cached_file(name, "model.safetensors", _raise_exceptions_for_missing_entries=False)
            return [Path(single)] if single else []
    shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(Path(index).parent / shard for shard in shards)


def _compare(model: nn.Module, files: list[Path]) -> tuple[list[str], list[str], int]:
    """Names that differ from the files, names that are not in them, and how many were compared."""
    wanted = dict(model.named_parameters())
    seen: set[str] = set()
    differ: list[str] = []
    for key, tensor in _tensors(files):
        name = _name_of(key, wanted)
        if name is None or name in seen:
            continue
        seen.add(name)
        mine = wanted[name]
        if list(tensor.get_shape()) != list(mine.shape):
            differ.append(name)
            continue
        for row in (0, mine.shape[0] - 1) if mine.dim() else ():
            # Compared as bfloat16: a file in float32 may be loaded at half the width.
            here = mine[row].to("cpu", torch.bfloat16)
            if not torch.equal(torch.as_tensor(tensor[row]).to(torch.bfloat16), here):
                differ.append(name)
                break
    return differ, sorted(set(wanted) - seen), len(wanted)


def _tensors(files: list[Path]) -> Iterator[tuple[str, Any]]:
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a dictionary
                yield key, opened.get_slice(key)


def _name_of(key: str, wanted: dict[str, nn.Parameter]) -> str | None:
    """The parameter that a file's key is for: prefixes such as `vision_model.` come and go between versions."""
    if key in wanted:
        return key
    parts = key.split(".")
    for start in range(1, len(parts)):
        if (short := ".".join(parts[start:])) in wanted and parts[0] != "text_model":
            return short
    longer = [name for name in wanted if name.endswith(f".{key}")]
    return longer[0] if len(longer) == 1 else None


def _never_trained(setting: str, name: str, model: nn.Module) -> list[Finding]:
    """Every norm of the model exactly as it is made: training would have moved at least one value."""
    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower() and hasattr(m, "weight")]
    if not norms or not all(_fresh(norm) for norm in norms):
        return []
    return [
        finding(
            "tower-uninitialised",
            f"{setting} {name}: all {len(norms)} normalisation layers still have their starting values, so these "
            "weights look as if they were never trained",
            f"point {setting} to a trained model",
            "warning",
            norms=len(norms),
        )
    ]


def _fresh(norm: nn.Module) -> bool:
    weight, bias = norm.weight, getattr(norm, "bias", None)
    assert isinstance(weight, Tensor)
    return bool((weight == 1).all()) and (bias is None or not bool(bias.any()))
