"""Train a vision-language connector and prove whether it carries the picture into the language model.

from qwen3_vlm import ablate, audit, load
"""

from importlib import import_module
from typing import Any

_NAMES = {"load": "loaded", "ablate": "ablation", "audit": "coverage", "trial": "trial"}
__all__ = ["ablate", "audit", "load", "trial"]


def __getattr__(name: str) -> Any:
    """Hand on the API's names; PyTorch loads when the first of them is used."""
    if name in _NAMES:
        return getattr(import_module(f"qwen3_vlm.api.{_NAMES[name]}"), name)
    raise AttributeError(f"module qwen3_vlm has no attribute {name!r}")
