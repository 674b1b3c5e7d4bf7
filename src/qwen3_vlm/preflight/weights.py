"""Compares frozen weights in memory with their checkpoint files, and looks for weights that were never trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eyechart.faults.table import agree, finding
from eyechart.models.checkpoint import origin_of, safetensors_of
from eyechart.results import Finding
from qwen3_vlm.build import Prepared
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.shipped import locate

_FIX_ABSENT = "copy or download the checkpoint again: these weights are not in it, so they are random"
_FIX_DIFFERS = (
    "look for code that changes it after loading (a resize of the embeddings, an init, an optimizer that holds frozen "
    "weights), and remove it"
)
_FIX_LAYERS = (
    "check these layers in the checkpoint's file: if they are the same there, download it again or use another model; "
    "if not, look for code that reinitialises them after loading"
)


def weight_findings(prepared: Prepared, vlm: VLM) -> list[Finding]:
    """Compare the first and last row of every tensor of both frozen parts with the checkpoint files."""
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
                f"{len(bad)} {agree(len(bad), 'tensor', 'tensors')} of {setting} {name} "
                f"{agree(len(bad), 'holds', 'hold')} NaN or infinity, first {bad[0]}",
                "copy or download the checkpoint again; if its file is finite, look for code that writes to these "
                "weights "
                "after loading",
                tensors=bad[:8],
            )
        ]
    files = safetensors_of(locate(name))
    if files:
        origin, total = origin_of(model, files), len(list(model.parameters()))
        differ, absent = sorted(origin.differ), sorted(origin.absent)
        if differ or absent:
            return [
                finding(
                    "tower-uninitialised",
                    f"{_unlike(differ, absent, total)} of {setting} {name}, first {(absent or differ)[0]}: most likely "
                    "reinitialised, resized or trained after loading",
                    _FIX_ABSENT if absent else _FIX_DIFFERS,
                    differ=differ[:8],
                    absent=absent[:8],
                    tensors=total,
                )
            ]
    return _never_trained(setting, name, model)


def _unlike(differ: list[str], absent: list[str], total: int) -> str:
    """Describe how many tensors differ from the file or are not in it; a count of zero is left out."""
    said = []
    if differ:
        said.append(f"{len(differ)} of {total} tensors {agree(len(differ), 'differs', 'differ')} from the file")
    if absent:
        said.append(f"{len(absent)} of {total} tensors {agree(len(absent), 'is', 'are')} not in the file")
    return " and ".join(said)


def _never_trained(setting: str, name: str, model: nn.Module) -> list[Finding]:
    """Report a model whose norms all have their initial values; training would have changed at least one value."""
    norms = _norms(model)
    if not norms or not all(_fresh(norm) for norm in norms):
        return _layers_never_trained(setting, name, model)
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


def _layers_never_trained(setting: str, name: str, model: nn.Module) -> list[Finding]:
    """Report layers of a stack whose norms all have their initial values, if the norms of other layers have changed."""
    for stack, layers in model.named_modules():
        if not isinstance(layers, nn.ModuleList):
            continue
        fresh = {i: [_fresh(norm) for norm in _norms(layer)] for i, layer in enumerate(layers)}
        new = [i for i, norms in fresh.items() if norms and all(norms)]
        moved = [i for i, norms in fresh.items() if norms and not any(norms)]
        if new and moved:
            return [
                finding(
                    "tower-uninitialised",
                    f"{setting} {name}: in {stack}, {_layers(new, 'has', 'have')} all normalisation weights at their "
                    f"starting values, while {_layers(moved[:8], 'has', 'have')} none at these values: most likely "
                    f"{_layers(new, 'was', 'were')} newly initialised and never trained",
                    _FIX_LAYERS,
                    stack=stack,
                    new_layers=new,
                    trained_layers=moved,
                )
            ]
    return []


def _layers(numbers: list[int], one: str, many: str) -> str:
    """Return text such as `layer 1 has` or `layers 0, 2 have`; `one` and `many` are the two forms of the verb."""
    return f"{agree(len(numbers), 'layer', 'layers')} {', '.join(map(str, numbers))} {agree(len(numbers), one, many)}"


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if "norm" in type(m).__name__.lower() and hasattr(m, "weight")]


def _fresh(norm: nn.Module) -> bool:
    weight, bias = norm.weight, getattr(norm, "bias", None)
    assert isinstance(weight, Tensor)
    return bool((weight == 1).all()) and (bias is None or not bool(bias.any()))
