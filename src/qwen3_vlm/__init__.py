"""Trains a vision-language connector and measures whether the picture reaches the language model through it.

from qwen3_vlm import ablate, audit, load
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

# By default, OpenMP's threads spin while they wait. On a busy machine, two spinning threads can be eight times slower
# than one. If they sleep instead, two threads are about as fast as one on a busy machine, and a quarter faster on an
# idle one. The variable must be set before PyTorch is imported; a value set by the user is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_NAMES = {"load": "loaded", "ablate": "ablate", "ablate_model": "ablate", "audit": "audit", "trial": "trial"}
__all__ = ["ablate", "ablate_model", "audit", "load", "trial"]


def __getattr__(name: str) -> Any:
    """Return the object of the API with this name. PyTorch is imported when the first of these objects is requested."""
    if name == "__version__":
        return version("qwen3-vlm")
    if name in _NAMES:
        return getattr(import_module(f"qwen3_vlm.commands.{_NAMES[name]}"), name)
    raise AttributeError(f"module qwen3_vlm has no attribute {name!r}")
