"""Records the actual inputs of the two transformers models, independently of the code around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from qwen3_vlm.models.vlm import VLM


@dataclass
class Seen:
    """The recorded calls. If there were several, the last one is used."""

    pixels: list[Tensor] = field(default_factory=list)
    """`pixel_values` of each call of the vision model."""
    features: list[Tensor] = field(default_factory=list)
    """`last_hidden_state` returned by each of these calls."""
    embeds: list[Tensor] = field(default_factory=list)
    """`inputs_embeds` of each call of the language model, [B,T,E]."""


@contextmanager
def watched(vlm: VLM, as_leaf: bool = False) -> Iterator[Seen]:
    """Record both models' forward calls.

    Args:
        vlm: the model.
        as_leaf: whether to give the language model a detached copy of its embeddings, which collects their gradient
            in `.grad`.
    """
    seen = Seen()

    def see_pixels(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = named.get("pixel_values", args[0] if args else None)
        if isinstance(values, Tensor):
            seen.pixels.append(values)

    def see_features(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        values = getattr(output, "last_hidden_state", None)
        if isinstance(values, Tensor):
            seen.features.append(values)

    def see_embeds(
        module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        embeds_BTE, ids = named.get("inputs_embeds"), named.get("input_ids", args[0] if args else None)
        if embeds_BTE is None and isinstance(ids, Tensor):
            embeds_BTE = vlm.llm.model.get_input_embeddings()(ids)
        if embeds_BTE is None:
            return None
        if not as_leaf:
            seen.embeds.append(embeds_BTE)
            return None
        leaf_BTE = embeds_BTE.detach().clone().requires_grad_(True)
        seen.embeds.append(leaf_BTE)
        return (), {**named, "input_ids": None, "inputs_embeds": leaf_BTE}

    handles = [
        vlm.tower.model.register_forward_pre_hook(see_pixels, with_kwargs=True),
        vlm.tower.model.register_forward_hook(see_features),
        vlm.llm.model.model.register_forward_pre_hook(see_embeds, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
