"""Faults injected after the detectors were written, to get around them: partial, mixed, elsewhere, or on no list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from fault_data import caption, human, with_text
from fault_site import Case, Change, Site, edit_checkpoint, human_turns, swap, take_base
from qwen3_vlm.batch import Batch, TokenNLL, VisualTokens

_VLM = "qwen3_vlm.models.vlm.VLM"
_COLLATE = "qwen3_vlm.data.collate.collate"
_IMAGES = "qwen3_vlm.data.images"
_TOWER = "qwen3_vlm.models.vision.VisionTower.forward"
_BUILD = "qwen3_vlm.build.build_model"
_PROJECT = "qwen3_vlm.models.connector.Connector.project"


def _batches(change: Callable[[Batch], Batch]) -> Change:
    return swap(_COLLATE, lambda original: lambda items, pad_id: change(original(items, pad_id)))


def _last_two_swapped(batch: Batch) -> Batch:
    def swapped(values: Tensor | None) -> Tensor | None:
        return values if values is None or len(values) < 2 else torch.cat([values[:-2], values[-2:].flip(0)])

    return replace(batch, pixels_BCHW=swapped(batch.pixels_BCHW), features_BPV=swapped(batch.features_BPV))


def _labels_of_the_next(batch: Batch) -> Batch:
    return replace(batch, labels_BT=batch.labels_BT.roll(1, 0)) if len(batch) > 1 else batch


def _pixels(change: Callable[[Image.Image], Image.Image]) -> Change:
    return swap(
        f"{_IMAGES}.to_pixels",
        lambda original: lambda image, spec, max_pixels: original(change(image.convert("RGB")), spec, max_pixels),
    )


def _lower_half_black(image: Image.Image) -> Image.Image:
    width, height = image.size
    black = Image.new("RGB", image.size)
    black.paste(image.crop((0, 0, width, height // 2)))
    return black


def _tiny_first(image: Image.Image) -> Image.Image:
    """A thumbnail of 16 pixels, as a data set of previews has them."""
    return image.resize((16, 16)).resize(image.size)


def _tower(change: Callable[[Tensor], Tensor]) -> Change:
    return swap(_TOWER, lambda original: lambda self, pixels: change(original(self, pixels)))


def _visual(change: Callable[[Tensor], Tensor]) -> Change:
    return swap(_PROJECT, lambda original: lambda self, latents: change(original(self, latents)))


def _built(change: Callable[[Any], object]) -> Change:
    def make(original: Any) -> Any:
        def build(config: Any, inputs: Any) -> Any:
            vlm = original(config, inputs)
            change(vlm)
            return vlm

        return build

    return swap(_BUILD, make)


@torch.no_grad()
def _head_at_random(vlm: Any) -> None:
    """A head of its own that no file had, where the model ties it to the embeddings."""
    head = vlm.llm.model.lm_head
    generator = torch.Generator().manual_seed(0)
    head.weight = torch.nn.Parameter(torch.randn(head.weight.shape, generator=generator) * head.weight.std(), False)


@torch.no_grad()
def _embeddings_sorted(vlm: Any) -> None:
    """Rows of the embedding table in another order than the tokenizer's, as after a resize that re-indexed them."""
    table = vlm.llm.model.get_input_embeddings().weight
    table.copy_(table.roll(7, 0))


def _half_masked(original: Any) -> Any:
    """The attention mask hides the first half of the image positions."""

    def nll(self: Any, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        if visual is None:
            result: TokenNLL = original(self, batch, visual)
            return result
        image_BT = batch.ids_BT == self.patch_id
        early_BT = image_BT & (image_BT.cumsum(1) <= image_BT.sum(1, keepdim=True) // 2)
        mask_BT = (batch.attention_BT & ~early_BT).long()

        def with_mask(module: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**options, "attention_mask": mask_BT[:, : options["inputs_embeds"].shape[1]]}

        handle = self.llm.model.model.register_forward_pre_hook(with_mask, with_kwargs=True)
        try:
            masked: TokenNLL = original(self, batch, visual)
            return masked
        finally:
            handle.remove()

    return nll


def _one_ahead(original: Any) -> Any:
    """A causal mask whose diagonal is off by one: each position sees the token behind it."""

    def mask(**options: Any) -> Tensor:
        embeds_BTE = options.get("inputs_embeds", options.get("input_embeds"))
        cache = options.get("past_key_values")
        before = cache.get_seq_length() if cache is not None else 0
        batch, length, _ = embeds_BTE.shape
        hidden_TT = torch.ones(length, before + length, dtype=torch.bool).triu(before + 2)
        mask_TT = torch.zeros(hidden_TT.shape, dtype=embeds_BTE.dtype).masked_fill(hidden_TT, -torch.inf)
        whole_B1TT: Tensor = mask_TT.expand(batch, 1, -1, -1)
        return whole_B1TT

    return mask


def _one_position_for_the_image(original: Any) -> Any:
    """All image positions have one position id, as in a model that counts an image as one token."""

    def nll(self: Any, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        if visual is None:
            result: TokenNLL = original(self, batch, visual)
            return result
        image_BT = batch.ids_BT == self.patch_id
        first_BT = image_BT & (image_BT.cumsum(1) == 1)
        places_BT = (~image_BT | first_BT).long().cumsum(1) - 1

        def with_places(module: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**options, "position_ids": places_BT[:, : options["inputs_embeds"].shape[1]]}

        handle = self.llm.model.model.register_forward_pre_hook(with_places, with_kwargs=True)
        try:
            moved: TokenNLL = original(self, batch, visual)
            return moved
        finally:
            handle.remove()

    return nll


def _cached_by_short_name(original: Any) -> Any:
    """A cache of decoded images whose key is the last digit of the file's name."""
    kept: dict[str, Any] = {}

    def load(path: Path, spec: Any, max_pixels: int) -> Any:
        key = Path(path).stem[-1]
        if key not in kept:
            kept[key] = original(path, spec, max_pixels)
        return kept[key]

    return load


def _weights(change: Callable[[Tensor], Tensor]) -> Callable[[Site], object]:
    """Every matrix of the checkpoint's connector, changed."""

    def edit(payload: dict[str, Any]) -> None:
        for part in ("resampler", "projector"):
            payload[part] = {name: change(w) if w.ndim > 1 else w for name, w in payload[part].items()}

    def set_up(site: Site) -> None:
        edit_checkpoint(site.take_base(), edit)

    return set_up


def _rounded(weight: Tensor) -> Tensor:
    """Two bits a weight."""
    step = weight.abs().max() / 2
    return (weight / step).round() * step


def _then(first: Callable[[Site], object], **values: object) -> Callable[[Site], object]:
    def set_up(site: Site) -> None:
        first(site)
        site.set(**values)

    return set_up


def _noise(features: Tensor) -> Tensor:
    """Dropout that was left on."""
    return torch.nn.functional.dropout(features, 0.5)


def _html_in_place(site: Site) -> None:
    root = site.own_images()
    for row in site.rows[::25]:
        path = root / row["image"]
        path.unlink()
        path.write_text("<html><body>404 Not Found</body></html>")


def _words_in_the_request(site: Site) -> None:
    """The request lists the caption's words, sorted: a hint that an automatic prompt writer left in."""
    human_turns(site)
    site.write_rows([with_text(row, f"<image>\n{' '.join(sorted(caption(row).split()))}") for row in site.rows])


def _captions_of_three(site: Site) -> None:
    """Captions moved among each three neighbouring rows, as by a loader with several workers."""
    rows = site.rows
    texts = [caption(row) for row in rows]
    moved = [
        with_text(row, human(row), texts[i - i % 3 + (i + 1) % 3] if i - i % 3 + 2 < len(rows) else texts[i])
        for i, row in enumerate(rows)
    ]
    site.write_rows(moved)


OTHERS = (
    Case(
        "last-two-swapped",
        "image-order",
        "the last two samples of a batch have each other's image",
        "evaluation",
        take_base,
        _batches(_last_two_swapped),
    ),
    Case(
        "labels-of-the-neighbour",
        "pairs-mismatched",
        "samples of a batch have each other's labels",
        "evaluation",
        take_base,
        _batches(_labels_of_the_next),
        also=("prompt-labelled",),
    ),
    Case(
        "lower-half-black",
        "wrong-preprocessing",
        "the lower half of every image is black, for a healthy connector",
        "evaluation",
        take_base,
        _pixels(_lower_half_black),
    ),
    Case(
        "grey-first",
        "wrong-preprocessing",
        "images are turned to grey first, for a healthy connector",
        "evaluation",
        take_base,
        _pixels(lambda image: image.convert("L").convert("RGB")),
    ),
    Case(
        "mirrored",
        "wrong-preprocessing",
        "images are mirrored, for a healthy connector",
        "evaluation",
        take_base,
        _pixels(ImageOps.mirror),
        world="digits",
    ),
    Case(
        "previews",
        "wrong-preprocessing",
        "images are shrunk to 16 pixels and enlarged again",
        "evaluation",
        take_base,
        _pixels(_tiny_first),
    ),
    Case(
        "first-slot-repeated",
        "slots-dead",
        "every image position gets the first visual token",
        "evaluation",
        take_base,
        _visual(lambda v: v[:, :1].expand_as(v)),
        also=("loss-not-reproduced",),
    ),
    Case(
        "tower-dropout",
        "loss-not-reproduced",
        "half of the tower's features are dropped at random",
        "evaluation",
        take_base,
        _tower(_noise),
    ),
    Case(
        "head-at-random",
        "tower-uninitialised",
        "the language model's head is newly initialised",
        "evaluation",
        take_base,
        _built(_head_at_random),
    ),
    Case(
        "embeddings-moved",
        "token-id-mismatch",
        "rows of the embedding table are moved by 7",
        "evaluation",
        take_base,
        _built(_embeddings_sorted),
        also=("tower-uninitialised",),
    ),
    Case(
        "half-the-image-masked",
        "image-masked",
        "the attention mask hides the first half of the image positions",
        "evaluation",
        take_base,
        swap(f"{_VLM}.nll", _half_masked),
    ),
    Case(
        "one-position-for-the-image",
        "image-masked",
        "all image positions have one position id, from which the attention mask is made",
        "evaluation",
        take_base,
        swap(f"{_VLM}.nll", _one_position_for_the_image),
    ),
    Case(
        "one-token-ahead",
        "labels-unshifted",
        "the causal mask is off by one: the next token is visible",
        "evaluation",
        take_base,
        swap("transformers.models.qwen3.modeling_qwen3.create_causal_mask", _one_ahead),
        also=("leak",),
    ),
    Case(
        "cached-by-last-digit",
        "image-order",
        "decoded images are cached under the last digit of their name",
        "evaluation",
        take_base,
        swap(f"{_IMAGES}.load_image", _cached_by_short_name),
        also=("wrong-preprocessing", "images-degenerate", "pairs-mismatched"),
    ),
    Case(
        "two-bit-weights",
        "loss-not-reproduced",
        "the connector's weights are rounded to two bits",
        "evaluation",
        _weights(_rounded),
        also=("collapsed",),
    ),
    Case(
        "weights-scaled",
        "loss-not-reproduced",
        "the connector's matrices are halved, as by an average with zeros",
        "evaluation",
        _weights(lambda w: w / 2),
    ),
    Case(
        "another-prompt",
        "loss-not-reproduced",
        "evaluated with text in front of the image that training did not have",
        "evaluation",
        _then(take_base, prompt__template="Please look at this picture: <image>"),
    ),
    Case(
        "shorter-when-evaluated",
        "answer-truncated",
        "data.max_seq_len is lower than in training",
        "evaluation",
        _then(take_base, data__max_seq_len=20),
    ),
    Case(
        "placed-two-late",
        "placeholder-offset",
        "visual tokens are placed two positions to the right",
        "evaluation",
        take_base,
        swap(
            "qwen3_vlm.models.fusion.place",
            lambda original: (
                lambda e, ids, v, patch: e.masked_scatter((ids == patch).roll(2, dims=1)[..., None], v.to(e.dtype))
            ),
        ),
    ),
    Case(
        "added-not-placed",
        "not-injected",
        "visual tokens are added to the placeholder's embedding at a thousandth",
        "evaluation",
        take_base,
        swap(
            "qwen3_vlm.models.fusion.place",
            lambda original: (
                lambda e, ids, v, patch: torch.where(
                    (ids == patch)[..., None],
                    e + 1e-3 * torch.zeros_like(e).masked_scatter((ids == patch)[..., None], v.to(e.dtype)),
                    e,
                )
            ),
        ),
        also=("scale-mismatch", "placeholder-offset", "collapsed"),
    ),
    Case("pages-not-images", "images-unreadable", "one image file in 25 is a saved error page", set_up=_html_in_place),
    Case(
        "words-in-the-request",
        "leak",
        "the request lists the caption's words in alphabetical order",
        set_up=_words_in_the_request,
    ),
    Case(
        "captions-moved-by-three",
        "pairs-mismatched",
        "captions go round among each three neighbouring rows",
        set_up=_captions_of_three,
    ),
    Case(
        "learning-rate-huge",
        "constant-prompt",
        "train.lr is 3",
        set_up=lambda site: site.set(train__lr=3.0),
        also=("collapsed", "non-finite", "picture-harmful", "slots-dead"),
    ),
)
