"""Faults of the code that places visual tokens in the text, and of the attention to these positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eyechart.seam import Batch, TokenNLL, VisualTokens
from fault_site import Case, Change, Site, edit_json, swap, take_base

_NLL = "qwen3_vlm.models.vlm.VLM.nll"
_PLACE = "qwen3_vlm.models.fusion.place"


def _placing(mask: Callable[[Tensor, int], Tensor]) -> Change:
    """Put visual tokens at the positions where `mask(ids_BT, patch_id)` is true, without checking their number."""

    def place(embeds_BTE: Tensor, ids_BT: Tensor, visual_BQE: Tensor, patch_id: int) -> Tensor:
        chosen_BT = mask(ids_BT, patch_id)
        return embeds_BTE.masked_scatter(chosen_BT[..., None], visual_BQE.to(embeds_BTE.dtype))

    return swap(_PLACE, lambda original: place)


def _moved(by: int) -> Change:
    return _placing(lambda ids_BT, patch_id: (ids_BT == patch_id).roll(by, dims=1))


def _nowhere(ids_BT: Tensor, patch_id: int) -> Tensor:
    return torch.zeros_like(ids_BT, dtype=torch.bool)


def _reversed(original: Any) -> Any:
    return lambda embeds_BTE, ids_BT, visual_BQE, patch_id: original(embeds_BTE, ids_BT, visual_BQE.flip(1), patch_id)


def _added(original: Any) -> Any:
    """Add a thousandth of each visual token to the placeholder's embedding."""

    def place(embeds_BTE: Tensor, ids_BT: Tensor, visual_BQE: Tensor, patch_id: int) -> Tensor:
        image_BT1 = (ids_BT == patch_id)[..., None]
        placed_BTE = torch.zeros_like(embeds_BTE).masked_scatter(image_BT1, visual_BQE.to(embeds_BTE.dtype))
        return embeds_BTE + 1e-3 * placed_BTE

    return place


def _text_only(original: Any) -> Any:
    """Compute the visual tokens and keep them in the graph, but multiply them by 0."""
    return lambda self, batch, visual: original(self, batch, visual and visual.map(lambda layer: layer * 0))


def _read_with(option: str, value: Callable[[Batch, Tensor], Tensor]) -> Change:
    """Pass `value(batch, image_BT)` as the argument named `option` to the language model for batches with images."""

    def make(original: Any) -> Any:
        def nll(self: Any, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
            if visual is None:
                result: TokenNLL = original(self, batch, visual)
                return result
            value_BT = value(batch, batch.ids_BT == self.patch_id).long()

            def with_option(module: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
                return args, {**options, option: value_BT[:, : options["inputs_embeds"].shape[1]]}

            handle = self.llm.model.model.register_forward_pre_hook(with_option, with_kwargs=True)
            try:
                changed: TokenNLL = original(self, batch, visual)
                return changed
            finally:
                handle.remove()

        return nll

    return swap(_NLL, make)


def _image_hidden(batch: Batch, image_BT: Tensor) -> Tensor:
    """Return an attention mask that is 0 at the image positions, as for padding."""
    return batch.attention_BT & ~image_BT


def _first_half_hidden(batch: Batch, image_BT: Tensor) -> Tensor:
    return batch.attention_BT & ~(image_BT & (image_BT.cumsum(1) <= image_BT.sum(1, keepdim=True) // 2))


def _one_place(batch: Batch, image_BT: Tensor) -> Tensor:
    """Return position ids as in a model that counts an image as one token."""
    first_BT = image_BT & (image_BT.cumsum(1) == 1)
    return (~image_BT | first_BT).long().cumsum(1) - 1


def _sliding_window(site: Site) -> None:
    """Use the attention of a related model, in which each position sees only itself and the three before it."""

    def edit(tree: dict[str, Any]) -> None:
        layers = ["sliding_attention"] * tree["num_hidden_layers"]
        tree.update(use_sliding_window=True, sliding_window=4, max_window_layers=0, layer_types=layers)

    edit_json(site.own_backbone("llm") / "config.json", edit)


FUSION = (
    Case(
        "placed-one-late",
        "placeholder-offset",
        "visual tokens are placed one position to the right",
        change=_moved(1),
    ),
    Case(
        "placed-one-early",
        "placeholder-offset",
        "visual tokens are placed one position to the left",
        world="digits",
        change=_moved(-1),
    ),
    Case(
        "placed-two-late",
        "placeholder-offset",
        "visual tokens are placed two positions to the right",
        "evaluation",
        take_base,
        _moved(2),
    ),
    Case(
        "block-reversed",
        "placeholder-offset",
        "visual tokens in reverse order at their positions, healthy connector",
        "evaluation",
        take_base,
        swap(_PLACE, _reversed),
        also=("loss-not-reproduced",),
    ),
    Case(
        "nothing-placed",
        "not-injected",
        "the fusion looks for an id that no prompt holds, and does not check the count",
        change=_placing(_nowhere),
    ),
    Case(
        "nothing-placed-when-evaluated",
        "not-injected",
        "the same on a healthy connector",
        "evaluation",
        take_base,
        _placing(_nowhere),
    ),
    Case(
        "visual-tokens-zeroed",
        "not-injected",
        "visual tokens are multiplied by 0 before they are placed",
        change=swap(_NLL, _text_only),
        also=("pixels-unused", "collapsed", "scale-mismatch"),
        world="digits",
    ),
    Case(
        "added-not-placed",
        "not-injected",
        "visual tokens are added to the placeholder's embedding at a thousandth",
        "evaluation",
        take_base,
        swap(_PLACE, _added),
        also=("scale-mismatch", "placeholder-offset", "collapsed"),
    ),
    Case(
        "image-masked-as-padding",
        "image-masked",
        "the attention mask is 0 at the image positions",
        change=_read_with("attention_mask", _image_hidden),
    ),
    Case(
        "image-masked-when-evaluated",
        "image-masked",
        "the same on a healthy connector",
        "evaluation",
        take_base,
        _read_with("attention_mask", _image_hidden),
        world="digits",
    ),
    Case(
        "half-the-image-masked",
        "image-masked",
        "the attention mask hides the first half of the image positions",
        "evaluation",
        take_base,
        _read_with("attention_mask", _first_half_hidden),
    ),
    Case(
        "one-position-for-the-image",
        "image-masked",
        "all image positions have one position id, from which the attention mask is made",
        "evaluation",
        take_base,
        _read_with("position_ids", _one_place),
    ),
    Case(
        "sliding-window-of-four",
        "image-masked",
        "config.json of the language model has a sliding window of 4 in every layer",
        set_up=_sliding_window,
    ),
)
