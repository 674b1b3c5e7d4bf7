"""Loading frozen backbones: if any weight does not come from the checkpoint, there is a one-line error.

Missing keys must be an error here, because they would not be noticed later: with newly initialised weights in the tower
or the language model, the connector still trains and still lowers the loss.
"""

from __future__ import annotations

import hashlib
import sys

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from eyechart.exits import NamedInputError
from eyechart.hub import explain_absence, hub_bounded, unreadable
from eyechart.models.hashing import HashedFiles


def load_complete(
    kind: type[PreTrainedModel], name: str, setting: str, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """Call `kind.from_pretrained(name)`, and raise an error if any weights are newly initialised.

    Args:
        kind: a transformers model class.
        name: folder or hub id.
        setting: the config field that contains the name, for messages.
        dtype: precision of the loaded weights.
        attention: attention implementation.

    Raises:
        ValueError: the model does not exist, or is neither in the cache nor available from the hub, or weights are
            missing.
    """
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        with hub_bounded(name):
            model, info = kind.from_pretrained(
                name, dtype=dtype, attn_implementation=attention, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ImportError) as error:
        raise ValueError(explain_absence(name, setting, error)) from error
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ValueError(unreadable(name, setting, kind.__name__, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise NamedInputError(
            "tower-uninitialised",
            f"{setting}: {name} lacks {len(missing)} of the model's weight tensors (first: {missing[0]}), which would "
            "be random",
            f"use a complete checkpoint of {kind.__name__}, or download this one again",
        )
    return model


def load_hashed(
    kind: type[PreTrainedModel], name: str, setting: str, dtype: torch.dtype, attention: str
) -> tuple[PreTrainedModel, HashedFiles]:
    """Do the same as `load_complete`, and also hash the weights while they are read; `HashedFiles.of` returns them."""
    files = HashedFiles(name)
    try:
        return load_complete(kind, name, setting, dtype, attention), files
    except BaseException:
        files.cancel()
        raise


def fingerprint(model: nn.Module) -> str:
    """Return a quick hash of weights in memory: every parameter's name, shape and up to 64 of its values as bfloat16.

    It shows whether weights that were loaded once have moved. The identity of a model is in `models.hashing`.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().flatten()
        step = max(1, flat.numel() // 64)
        values = flat[::step][:64].to(torch.bfloat16).float().cpu()
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]
