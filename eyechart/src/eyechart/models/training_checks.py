"""Checks of a live model in training: its own loss, its gradients, and the origin of its weights.

Dimension suffixes: see `eyechart.seam`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyechart.faults.changes import with_text
from eyechart.faults.experiments import Gradients, TextRoutes
from eyechart.faults.label_text import alignment_of, label_places
from eyechart.faults.loss_findings import diagnose_text
from eyechart.faults.own_loss import cross_entropies, distance_of
from eyechart.faults.table import Severity, agree, finding
from eyechart.models.checkpoint import origin_of, safetensors_of
from eyechart.models.collated import Collated
from eyechart.models.doors import as_tensor
from eyechart.models.live_model import LiveModel
from eyechart.results import Finding
from eyechart.seam import IGNORE_INDEX

_DISTANCES = (1, 0, 2)
"""Distances from the logits to the label that they are compared with; 1 is correct."""


class PartName(StrEnum):
    """The parts of a model."""

    CONNECTOR = "connector"
    TOWER = "vision tower"
    LANGUAGE = "language model"


_PARTS = {
    PartName.CONNECTOR: (
        "projector",
        "connector",
        "merger",
        "resampler",
        "aligner",
        "modality_projection",
        "embed_vision",
    ),
    PartName.TOWER: ("vision", "visual", "image_encoder", "image_tower", "vit."),
}
"""Parts of a model by substrings of module names, tested in this order; all other modules are the language model."""


def loss_findings(live: LiveModel, source: Collated) -> list[Finding]:
    """Compare the model's own loss on the trainer's labels with independent cross-entropies at several shifts."""
    if source.labels_BT is None:
        return []
    labels_BT = torch.from_numpy(source.labels_BT)
    if not bool((labels_BT != IGNORE_INDEX).any()):
        return [
            finding(
                "no-labels",
                "no token of the batch has a label: the loss is 0 or NaN, and nothing is learnt",
                "look at how the collator masks prompts, and at the longest sequence that it allows",
                rows=len(labels_BT),
            )
        ]
    with live.running(), torch.no_grad():
        found = live.forward({**source.inputs, "labels": labels_BT})
    loss, logits = getattr(found, "loss", None), getattr(found, "logits", None)
    if not isinstance(loss, Tensor) or not isinstance(logits, Tensor) or logits.shape[:2] != labels_BT.shape:
        return []
    if not bool(torch.isfinite(loss)):
        return [
            finding(
                "non-finite",
                "the model's loss on this batch is NaN or infinite",
                "look for NaN or infinity in its weights and in pixel_values, then try float32 or bfloat16 weights",
            )
        ]
    own = float(loss.float())
    by_distance = {distance: _cross_entropy(logits, labels_BT, distance) for distance in _DISTANCES}
    distance = distance_of(own, by_distance)
    if distance is None:
        return [_other_loss(own, by_distance[1])]
    batch = source.batch()
    own_labels_BT = torch.full_like(batch.labels_BT, IGNORE_INDEX)
    for row, positions_T in enumerate(source.positions):
        own_labels_BT[row, : len(positions_T)] = labels_BT[row, torch.from_numpy(positions_T)]
    alignment = alignment_of(with_text(batch.text(), batch.ids_BT, own_labels_BT))
    return diagnose_text(TextRoutes(reach=distance, target=0, alignment=alignment, look_ahead=0.0))


def _other_loss(own: float, plain: float) -> Finding:
    return finding(
        "loss-altered",
        f"the model's loss on this batch is {own:.4g}, and the mean cross-entropy of its labels is {plain:.4g} nats: "
        "it weighs tokens differently, or adds another term",
        "nothing, if the model adds a term on purpose (experts, label smoothing); otherwise compute the mean "
        "cross-entropy of logits at t-1 and labels at t",
        "warning",
        loss=own,
        cross_entropy=plain,
    )


def _cross_entropy(logits_BTK: Tensor, labels_BT: Tensor, distance: int) -> float:
    """Return the mean over the labels that have logits at this distance; infinity if there is none."""
    rows = zip(logits_BTK, labels_BT, strict=True)
    losses_N = torch.cat([cross_entropies(at_TK, own_T, label_places(own_T), distance) for at_TK, own_T in rows])
    return float(losses_N.nanmean().nan_to_num(nan=math.inf))


@dataclass(frozen=True)
class Part:
    """The trainable parameters of one part of a model, after one backward pass that did not write gradients."""

    name: PartName
    trainable: int
    """Number of tensors that require a gradient."""
    unreached: tuple[str, ...]
    """Names of these that get no gradient other than zero."""
    broken: tuple[str, ...]
    """Names of these whose gradient is NaN or infinite."""
    unheld: tuple[str, ...]
    """Names of these that are not in the optimizer."""


def gradient_findings(live: LiveModel, source: Collated, optimizer: Any = None) -> list[Finding]:
    """Compute the gradient of the model's own loss without writing it to the parameters, and judge each part."""
    named = {name: weight for name, weight in live.model.named_parameters() if weight.requires_grad}
    if not named or source.labels_BT is None:
        return []
    with live.running(), _without_checkpointing(live.model), torch.enable_grad():
        loss = _loss(live, source)
        if loss is None:
            return []
        if not loss.requires_grad:
            return [_no_gradient("the loss does not depend on any trainable parameter", "", trainable=len(named))]
        found = Gradients.of(loss, named)
    parts = _parts(named, found, None if optimizer is None else held_by(optimizer))
    return [found for part in parts for found in _judged(part, source)]


def _loss(live: LiveModel, source: Collated) -> Tensor | None:
    """Return the model's own loss on the trainer's labels, or the cross-entropy of its logits if it returns none."""
    labels_BT = torch.from_numpy(source.labels_BT)
    found = live.forward({**source.inputs, "labels": labels_BT})
    loss = getattr(found, "loss", None)
    if isinstance(loss, Tensor):
        return loss if bool(torch.isfinite(loss)) else None
    logits_BTK = as_tensor(found)[:, :-1]
    return F.cross_entropy(logits_BTK.flatten(0, 1).float(), labels_BT[:, 1:].flatten().to(logits_BTK.device))


def _parts(named: Mapping[str, nn.Parameter], gradients: Gradients, held: set[int] | None) -> Iterator[Part]:
    by_part: dict[PartName, list[str]] = {}
    for name in named:
        by_part.setdefault(part_of(name), []).append(name)
    for part, names in by_part.items():
        yield Part(
            name=part,
            trainable=len(names),
            unreached=tuple(name for name in gradients.unreached if name in names),
            broken=tuple(name for name in gradients.broken if name in names),
            unheld=() if held is None else tuple(name for name in names if id(named[name]) not in held),
        )


def part_of(name: str) -> PartName:
    """Return the part of a model that a parameter belongs to, by its name."""
    return next((part for part, hints in _PARTS.items() if any(hint in name for hint in hints)), PartName.LANGUAGE)


def _judged(part: Part, source: Collated) -> Iterator[Finding]:
    if part.broken:
        yield finding(
            "non-finite",
            f"the gradient of the {part.name}'s {part.broken[0]} is NaN or infinite",
            "look at the loss of each row of this batch, then try float32 or bfloat16 weights",
            parameters=list(part.broken[:8]),
        )
    pictured = any(source.shows_image(place) for place in range(source.geometry.rows))
    if len(part.unreached) == part.trainable and (pictured or part.name is PartName.LANGUAGE):
        yield _no_gradient(
            f"the {part.name} is trainable ({part.trainable} tensors), but none of them gets a gradient",
            part.name.value,
            trainable=part.trainable,
        )
    if part.unheld:
        some = "none" if len(part.unheld) == part.trainable else f"only {part.trainable - len(part.unheld)}"
        yield finding(
            "no-gradient",
            f"the {part.name} is trainable, but {some} of its {part.trainable} tensors are in the optimizer (missing: "
            f"{part.unheld[0]}), so the others never change",
            "make the optimizer after setting requires_grad, and give it every trainable parameter",
            part=part.name.value,
            unheld=list(part.unheld[:8]),
        )


def _no_gradient(said: str, part: str, trainable: int) -> Finding:
    return finding(
        "no-gradient",
        said,
        "look for no_grad, detach() or features that were computed before training on the way from this part to the "
        "loss, and for gradient checkpointing of a frozen part without enable_input_require_grads()",
        part=part,
        trainable=trainable,
    )


def held_by(optimizer: Any) -> set[int]:
    """Return the identities of the parameters that an optimizer holds, also inside a wrapper around it."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return {id(weight) for group in inner.param_groups for weight in group["params"]}


def _without_checkpointing(model: nn.Module) -> Any:
    """Return a context without gradient checkpointing, since one form of it forbids `torch.autograd.grad`."""
    from contextlib import contextmanager

    @contextmanager
    def block() -> Iterator[None]:
        on = [module for module in model.modules() if vars(module).get("gradient_checkpointing") is True]
        for module in on:
            vars(module)["gradient_checkpointing"] = False
        try:
            yield
        finally:
            for module in on:
                vars(module)["gradient_checkpointing"] = True

    return block()


def _new_and_frozen(names: list[str], checkpoint: str) -> Finding:
    return finding(
        "no-gradient",
        f"the connector is not trainable, and {len(names)} of its weight tensors are not those of {checkpoint} (first: "
        f"{names[0]}): it is newly initialised and will stay random",
        "set requires_grad after get_peft_model, which freezes everything but its adapters, or name the connector in "
        "modules_to_save; if its weights were trained before, load them",
        part="connector",
        weights=names[:8],
    )


def weight_findings(live: LiveModel) -> list[Finding]:
    """Report weights that differ from the model's checkpoint, if its files are available locally."""
    name = str(getattr(live.config, "_name_or_path", "") or "")
    try:
        files = safetensors_of(name, local_only=True) if name else []
    except OSError:  # neither a folder nor in the hub's cache: moved, deleted, or made in memory
        return []
    if not files:
        return []
    origin = origin_of(live.model, files)
    if not origin.matched:
        return []  # converted, quantised or trained: its weights are not expected to be those of the files
    weights = dict(live.model.named_parameters())
    by_part: dict[PartName, list[str]] = {}
    for weight in origin.unrelated:
        by_part.setdefault(part_of(weight), []).append(weight)
    found = []
    for part, names in by_part.items():
        trained = all(weights[weight].requires_grad for weight in names)
        if part is PartName.CONNECTOR and not any(weights[weight].requires_grad for weight in names):
            found.append(_new_and_frozen(names, name))
            continue
        severity: Severity = "note" if trained and part is PartName.CONNECTOR else "error"
        found.append(
            finding(
                "tower-uninitialised",
                f"{len(names)} weight {agree(len(names), 'tensor', 'tensors')} of the {part} "
                f"{agree(len(names), 'is', 'are')} not those of {name}, first {names[0]}: newly initialised when the "
                "model was loaded, or after it",
                "nothing, if this part is new and trained from the start; otherwise load it with a version of "
                "transformers that knows these names, and check the missing keys that loading reports",
                severity,
                part=part.value,
                weights=names[:8],
                matched=origin.matched,
            )
        )
    return found
