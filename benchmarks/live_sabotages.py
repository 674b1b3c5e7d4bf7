"""Broken live models and collators that `eyechart.score` must never call PASS, on tiny models that do see.

    python benchmarks/live_sabotages.py

Two tiny models (Qwen3-VL, whose features enter at three depths, and LLaVA) are trained for seconds until they name the
colours of pictures. Each sabotage then breaks one thing inside the model or in its batches. Columns: what `score` gave
(a verdict, or `refused` with the self-test), and the errors that `check_model` found on the first batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

import eyechart
from eyechart.models.collated import Collated

sys.path.insert(0, str(Path(__file__).parents[1] / "eyechart" / "tests"))

from colour_worlds import World, make_world  # noqa: E402 - the path above is for it

Batch = dict[str, Any]
Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Sabotage:
    """One thing that is broken."""

    name: str
    model: Callable[[Any], Any] | None = None
    """Returns a context in which the model is broken."""
    batch: Callable[[Batch], Batch] | None = None
    """Returns the broken batch."""
    only: str = ""
    """The model that it needs; empty if any."""


def tensors_of(output: Any, change: Change) -> Any:
    """Image features with every tensor that the language model gets changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, ModelOutput):
        kept = {name: output[name] for name in ("pooler_output", "deepstack_features") if output.get(name) is not None}
        return type(output)(**{name: tensors_of(value, change) for name, value in kept.items()})
    return type(output)(tensors_of(item, change) for item in output)


@contextmanager
def features(model: Any, change: Callable[[Any], Any]) -> Iterator[None]:
    """Change what `get_image_features` returns."""
    inner, own = model.model, model.model.get_image_features
    # The real method is replaced at the class level of this instance, like a patch of the modelling file.
    kind = type(inner)
    patched = type(kind.__name__, (kind,), {"get_image_features": lambda _, *a, **k: change(own(*a, **k))})
    inner.__class__ = patched
    try:
        yield
    finally:
        inner.__class__ = kind


@contextmanager
def arguments(module: nn.Module, change: Callable[[Batch], Batch]) -> Iterator[None]:
    """Change the keyword arguments of a module's forward pass."""
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: (args, change(kwargs)), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def kept_forever(model: Any) -> Any:
    """The vision half returns what it computed first for images of these sizes."""
    first: dict[Any, Any] = {}

    def change(found: Any) -> Any:
        shapes: list[Any] = []
        tensors_of(found, lambda t: shapes.append(tuple(t.shape)) or t)
        return first.setdefault(tuple(shapes), found)

    return features(model, change)


def of_the_call_before(model: Any) -> Any:
    """The vision half returns what it computed in the call before."""
    last: dict[str, Any] = {}

    def change(found: Any) -> Any:
        before, last["is"] = last.get("is", found), found
        shapes = [[], []]  # type: ignore[var-annotated]
        for output, into in zip((before, found), shapes, strict=True):
            tensors_of(output, lambda t, into=into: into.append(t.shape) or t)
        return before if shapes[0] == shapes[1] else found

    return features(model, change)


@contextmanager
def kept_inside(model: Any) -> Iterator[None]:
    """The language model gets the features that the vision half computed last, whatever it is given."""
    kept: dict[str, Any] = {}
    image_id = getattr(model.config, "image_token_id", None) or model.config.image_token_index

    def note_features(found: Any) -> Any:
        pooled = found.pooler_output
        kept["features"] = pooled.flatten(0, -2) if isinstance(pooled, Tensor) else torch.cat(list(pooled))
        return found

    def note_ids(kwargs: Batch) -> Batch:
        kept["ids"] = kwargs["input_ids"]
        return kwargs

    def swap(kwargs: Batch) -> Batch:
        image_BT = kept["ids"] == image_id
        if "features" not in kept or int(image_BT.sum()) != len(kept["features"]):
            return kwargs
        embeds_BTE = kwargs["inputs_embeds"].clone()
        embeds_BTE[image_BT] = kept["features"].detach().to(embeds_BTE)
        return {**kwargs, "inputs_embeds": embeds_BTE}

    language_model = model.model.language_model
    with features(model, note_features), arguments(model.model, note_ids), arguments(language_model, swap):
        yield


def deepstack_dropped(model: Any) -> Any:
    """The deeper layers of the language model get no image features."""
    return arguments(model.model.language_model, lambda kwargs: {**kwargs, "deepstack_visual_embeds": None})


def deepstack_stale(model: Any) -> Any:
    """The deeper layers get the image features of the pass before."""
    last: dict[str, Any] = {}

    def change(kwargs: Batch) -> Batch:
        now = kwargs.get("deepstack_visual_embeds")
        before, last["is"] = last.get("is"), now
        same = now is not None and before is not None and [t.shape for t in before] == [t.shape for t in now]
        return {**kwargs, "deepstack_visual_embeds": before if same else now}

    return arguments(model.model.language_model, change)


def pixels_ignored(model: Any) -> Any:
    """The inner model gets neither pixels nor features."""

    def change(kwargs: Batch) -> Batch:
        return {k: v for k, v in kwargs.items() if not k.startswith("pixel_values") and k != "mm_encoder_outputs"}

    return arguments(model.model, change)


def image_hidden(model: Any) -> Any:
    """The attention mask hides image positions."""

    def change(kwargs: Batch) -> Batch:
        mask_BT, ids_BT = kwargs["attention_mask"], kwargs["input_ids"]
        image_id = getattr(model.config, "image_token_id", None) or model.config.image_token_index
        return {**kwargs, "attention_mask": mask_BT * (ids_BT != image_id)}

    return arguments(model.model, change)


@contextmanager
def looks_ahead(model: Any) -> Iterator[None]:
    """Attention goes both ways."""
    layers = [module for module in model.modules() if hasattr(module, "is_causal")]
    before = [module.is_causal for module in layers]

    def change(kwargs: Batch) -> Batch:
        embeds_BTE = kwargs["inputs_embeds"]
        zeros = torch.zeros(len(embeds_BTE), 1, embeds_BTE.shape[1], embeds_BTE.shape[1])
        return {**kwargs, "attention_mask": zeros}

    with arguments(model.model.language_model, change):
        try:
            yield
        finally:
            for module, causal in zip(layers, before, strict=True):
                module.is_causal = causal


@contextmanager
def answer_leaks(model: Any) -> Iterator[None]:
    """The logits get the next token added to them."""
    seen: dict[str, Any] = {}

    def note(kwargs: Batch) -> Batch:
        seen["ids"], seen["keep"] = kwargs["input_ids"], kwargs.get("logits_to_keep")
        return kwargs

    def change(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        following_BT = seen["ids"].roll(-1, dims=1)
        if isinstance(seen["keep"], Tensor):
            following_BT = following_BT[:, seen["keep"]]
        output.logits = output.logits + 20 * F.one_hot(following_BT, output.logits.shape[-1])
        return output

    handle = model.register_forward_hook(change, with_kwargs=True)
    try:
        with arguments(model, note):
            yield
    finally:
        handle.remove()


@contextmanager
def connector_new(model: Any) -> Iterator[None]:
    """The connector has new random weights."""
    kept = {n: w.detach().clone() for n, w in model.named_parameters() if "merger" in n or "projector" in n}
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name in kept:
            weights[name].normal_(std=0.02)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                weights[name].copy_(value)


def of_pixels(change: Change) -> Callable[[Batch], Batch]:
    """Return a change of the pixels of a batch."""
    return lambda batch: {**batch, "pixel_values": change(batch["pixel_values"])}


def other_rows_pixels(batch: Batch) -> Batch:
    """Every row has the pixels of the row before it."""
    pixels = batch["pixel_values"]
    return {
        **batch,
        "pixel_values": pixels.view(len(batch["input_ids"]), -1, *pixels.shape[1:]).roll(1, 0).view_as(pixels),
    }


def without_pixels(batch: Batch) -> Batch:
    """Return the batch without its pixels."""
    return {key: value for key, value in batch.items() if key != "pixel_values"}


OF_LIVE = (
    Sabotage("features of the first call are kept forever", kept_forever),
    Sabotage("features are those of the call before", of_the_call_before),
    Sabotage("the language model takes features kept inside", kept_inside),
    Sabotage("deepstack features are not handed on", deepstack_dropped, only="qwen3_vl"),
    Sabotage("deepstack features are those of the pass before", deepstack_stale, only="qwen3_vl"),
)
"""The sabotages that passed all self-tests of the version before."""
OWN = (
    Sabotage("the forward pass drops pixels and features", pixels_ignored),
    Sabotage("the attention mask hides the image", image_hidden),
    Sabotage(
        "images of a batch are rolled by one", lambda m: features(m, lambda f: _over_batch(f, lambda t: t.roll(1, 0)))
    ),
    Sabotage("features are averaged over the batch", lambda m: features(m, lambda f: _over_batch(f, _mean))),
    Sabotage("features are constant", lambda m: features(m, lambda f: tensors_of(f, torch.ones_like))),
    Sabotage("features have dropout that never stops", lambda m: features(m, lambda f: tensors_of(f, _dropped))),
    Sabotage("attention looks ahead", looks_ahead),
    Sabotage("the logits contain the next token", answer_leaks),
    Sabotage("the connector is new", connector_new),
    Sabotage("the collator zeroes the pixels", batch=of_pixels(torch.zeros_like)),
    Sabotage("the collator does not normalise the pixels", batch=of_pixels(lambda p: (p * 0.5 + 0.5) * 255)),
    Sabotage("every row has the pixels of another row", batch=other_rows_pixels),
    Sabotage("the collator drops the pixels", batch=without_pixels),
)
"""Sabotages written for this benchmark."""


def _mean(stacked: Tensor) -> Tensor:
    return stacked.mean(0, keepdim=True).expand_as(stacked)


def _dropped(tensor: Tensor) -> Tensor:
    return F.dropout(tensor, 0.5, training=True)


def _over_batch(output: Any, change: Change) -> Any:
    """Change features over the images of a batch, which here all have equally many tokens."""
    count = len(output.pooler_output)

    def changed(part: Any) -> Any:
        if isinstance(part, Tensor):
            return change(part.view(count, -1, part.shape[-1])).reshape(part.shape)
        if len(part) == count and all(isinstance(item, Tensor) for item in part):
            return type(part)(change(torch.stack(list(part))).unbind())
        return type(part)(changed(item) for item in part)

    names = ("pooler_output", "deepstack_features")
    return type(output)(**{name: changed(output[name]) for name in names if output.get(name) is not None})


@dataclass(frozen=True)
class Outcome:
    """What became visible."""

    verdict: str
    """The verdict of `score`, or `refused` and why."""
    errors: tuple[str, ...]
    """Codes of the errors that `check_model` found."""


def outcome(world: World, sabotage: Sabotage | None = None, rows: int = 64) -> Outcome:
    """Score and check a world with a sabotage, or without one, on so many rows."""
    model, batch = world.model, world.batch(rows, seed=99)
    if sabotage is not None and sabotage.batch is not None:
        batch = sabotage.batch(batch)
    broken = sabotage.model(model) if sabotage is not None and sabotage.model is not None else _nothing()
    with broken:
        try:
            results = eyechart.score(model, batch, "runbook", processor=world.processor)
            verdict = f"{results.verdict} ({results.ablation.door})" if results.ablation else results.verdict
            verdict += "".join(f" {found.code}" for found in results.diagnosis if found.severity == "error")
        except ValueError as error:
            verdict = f"refused: {str(error)[:110]}"
    with sabotage.model(model) if sabotage is not None and sabotage.model is not None else _nothing():
        source = Collated.read(batch, world.processor, model.config)
        few = {**source.cut(range(8)), "labels": batch["labels"][:8]}
        errors = [f.code for f in eyechart.check_model(model, few, world.processor) if f.severity == "error"]
    return Outcome(verdict, tuple(errors))


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def main() -> int:
    """Print the table; return the number of sabotages that passed."""
    passed = 0
    for name in ("qwen3_vl", "llava"):
        world = make_world(name)
        print(f"{name}: healthy: {outcome(world)}")
        for sabotage in (*OF_LIVE, *OWN):
            if sabotage.only in ("", name):
                found = outcome(world, sabotage)
                passed += found.verdict.startswith("PASS")
                print(
                    f"{name}: {sabotage.name}: {found.verdict} | check_model: {', '.join(found.errors) or '-'}",
                    flush=True,
                )
    print(f"{passed} passed")
    return passed


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(min(main(), 1))
