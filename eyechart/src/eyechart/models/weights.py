"""Loads frozen backbones; if any weight is missing in the checkpoint, a one-line error is raised.

Missing keys must be an error here, because later they would go unnoticed: a connector trains and lowers the loss even
if weights of the tower or the language model are newly initialised.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from eyechart.exits import InputError, NamedInputError
from eyechart.hub import explain_absence, hub_bounded, unreadable
from eyechart.models.hashing import HashedFiles
from eyechart.processors.loading import refuse_own_code


def load_complete(
    kind: type[PreTrainedModel],
    name: str,
    setting: str,
    dtype: torch.dtype | None,
    attention: str,
    options: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Call `kind.from_pretrained(name)`, and raise an error if any weights are newly initialised.

    Args:
        kind: a transformers model class.
        name: folder or hub id.
        setting: name of the config field with the model's name, for messages.
        dtype: precision of the loaded weights; None keeps that of the file.
        attention: attention implementation.
        options: further arguments of `from_pretrained`.

    Raises:
        ValueError: the folder does not exist, the model is neither in the cache nor available on the hub, or weights
            are missing.
    """
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        with hub_bounded(name):
            model, info = kind.from_pretrained(
                name,
                dtype=dtype or "auto",
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                **(options or {}),
            )
    except (OSError, ImportError) as error:
        raise ValueError(explain_absence(name, setting, error)) from error
    except (SafetensorError, RuntimeError, ValueError) as error:
        if attention == "sdpa" and isinstance(error, ValueError) and _lacks_sdpa(kind, name):
            flag = "--attention" if setting == "MODEL" else "model.attention"
            raise InputError(
                f"{flag}: {name} has no {attention} attention in transformers {transformers.__version__}",
                f"set {flag} to eager",
            ) from error
        refuse_own_code(name, setting, error)
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


def is_quantised(name: str, trust_remote_code: bool = False) -> bool:
    """Return whether the weights of a checkpoint are quantised, according to its configuration.

    Raises:
        ValueError: there is no readable configuration.
    """
    try:
        with hub_bounded(name):
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(explain_absence(name, "MODEL", error)) from error
    except (ValueError, KeyError) as error:
        if not trust_remote_code:
            refuse_own_code(name, "MODEL", error)
        raise ValueError(unreadable(name, "MODEL", "configuration", error)) from error
    return getattr(config, "quantization_config", None) is not None


def _lacks_sdpa(kind: Any, name: str) -> bool:
    """Return whether the class that loads a checkpoint, or that of a part of it, has no `sdpa` attention.

    A part is for example the tower of Gemma 3n on transformers 5.6 (TimmWrapperModel).
    """
    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    mapping = getattr(kind, "_model_mapping", None)
    whole = kind if mapping is None else mapping.get(type(config), kind)
    parts = [part for part in vars(config).values() if isinstance(part, transformers.PreTrainedConfig)]
    of_parts = (transformers.AutoModel._model_mapping.get(type(part), None) for part in parts)
    return not all(getattr(found, "_supports_sdpa", True) for found in (whole, *of_parts))


def fingerprint(model: nn.Module) -> str:
    """Return a quick hash of weights in memory: every parameter's name, shape and up to 64 of its values as bfloat16.

    It shows whether loaded weights have changed. For the identity of a model, see `models.hashing`.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().flatten()
        step = max(1, flat.numel() // 64)
        values = flat[::step][:64].to(torch.bfloat16).float().cpu()
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]
