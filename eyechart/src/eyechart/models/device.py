"""Chooses the device on which a model runs, and lists the data types in which it can run."""

from __future__ import annotations

import torch
from transformers.utils import is_flash_attn_2_available

from eyechart.settings import NamedPlacement, Placement

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(place: Placement | NamedPlacement, threads: int | None = None) -> torch.device:
    """Set PyTorch's number of threads, and return the device on which the model will run.

    Args:
        place: the user's settings for device, precision and attention.
        threads: the number of CPU threads; None leaves PyTorch's number unchanged.

    Raises:
        ValueError: the settings request cuda without a GPU, bf16 on a GPU that does not support it, or flash attention
            where it cannot be used. In the message, the names of the settings have the prefix of `place`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    cuda, named = torch.cuda.is_available(), place.prefix
    if place.device == "cuda" and not cuda:
        raise ValueError(
            f"{named}device: cuda was requested, but PyTorch finds no GPU; set {named}device to auto or cpu"
        )
    device = torch.device("cuda" if cuda and place.device != "cpu" else "cpu")
    if place.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(f"{named}precision: this GPU has no bfloat16; set {named}precision to fp32")
    if place.attention == "flash_attention_2":
        _require_flash(place, device)
    return device


def _require_flash(place: Placement | NamedPlacement, device: torch.device) -> None:
    lacks, named = "", place.prefix
    if device.type == "cpu":
        lacks = "needs a GPU, got cpu"
    elif place.precision == "fp32":
        lacks = f"computes only in 16 bits, but {named}precision is fp32"
    elif not is_flash_attn_2_available():
        lacks = "needs the package flash-attn, which is not installed or does not support this GPU"
    if lacks:
        also = f", or {named}precision to bf16" if "fp32" in lacks else ""
        raise ValueError(f"{named}attention: flash_attention_2 {lacks}; set {named}attention to sdpa{also}")
