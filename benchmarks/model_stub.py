"""Makes PyPI's torchvision importable beside a CPU build of torch, by declaring its two missing operators.

They belong to object detection and are never called here; the transforms that image processors use are Python.
"""

from __future__ import annotations

import importlib.util

import torch

_DETECTION = ("nms", "qnms")
_library: list[torch.library.Library] = []


def declare_operators() -> None:
    """Declare the operators if torchvision is installed and they do not exist."""
    if importlib.util.find_spec("torchvision") is None or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in _DETECTION:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.append(library)  # the operators exist as long as this object does
