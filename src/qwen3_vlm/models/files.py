"""Reads the config.json of a backbone without reading its weights."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from eyechart.hub import hub_bounded
from qwen3_vlm.shipped import locate


def load_config_only(name: str) -> dict[str, Any]:
    """Return the config.json of a backbone as a dictionary, read from a folder, the local hub cache or the hub."""
    place = locate(name)
    with hub_bounded(place):
        found, _ = PreTrainedConfig.get_config_dict(place)
    if not found:
        raise OSError(f"no config.json in {name}")
    return dict(found)
