"""Checks whether the connector in use is the trained one, by comparing tensors, without running the connector.

The check compares three sets of tensors. Each is a flat mapping from names, such as `resampler.latents`, to tensors:

    initial   the weights before any training: the connector newly built from the config and the seed
    stored    the weights in the checkpoint
    in_use    the weights in the loaded model

The distance of a tensor w from its initial value w0 ignores uniform shrinking, because weight decay also shrinks
weights that get no gradient:

    min over 0 <= a <= 1 of ||w - a w0|| / ||w0||          (||w|| where w0 is zero)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eyechart.faults.learning_rate import could_not_move
from eyechart.faults.table import agree, finding
from eyechart.results import Finding

# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
MOVED = 1e-3
"""If all distances are below this, the whole connector counts as untrained. Ten AdamW updates with a learning rate of
1e-4 move weights of the usual size (0.05) ten times as far."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
STILL = 1e-6
"""If its distance is below this, a tensor counts as untrained even if the rest of the connector was trained. The limit
only allows for the rounding of float32, because norm weights move slowly and only an unchanged part is a fault."""
# size: smaller tensors have no meaningful correlation
_LARGE = 256
"""Minimum number of values that a tensor needs for a meaningful correlation with its initial values."""
# exact: 5 standard deviations of a random correlation, one in 3 million
_CHANCE = 5.0
"""If a correlation is below this many standard deviations of the correlation between random tensors, it counts as
chance."""
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 24
_RELATED = 0.3
"""Minimum correlation of a trained part with its own initial values."""
# size: names in a message
_SHOWN = 3


@dataclass(frozen=True)
class ConnectorEvidence:
    """The tensors that show whether a trained connector is in use."""

    initial: Mapping[str, Tensor]
    stored: Mapping[str, Any]
    """The tensors as read from the file, without validation."""
    in_use: Mapping[str, Tensor] | None = None
    """The loaded model's tensors; None if the checkpoint could not be loaded into a model."""
    updates: int | None = None
    """Number of optimizer updates recorded in the checkpoint; None if not recorded."""
    gradient_norms: tuple[float, ...] = ()
    """Gradient norms from the training log; empty if there is no log."""
    learning_rate: float | None = None
    """Peak learning rate in the checkpoint's config; None if not recorded."""


def flatten(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the nested mapping of a checkpoint: `{"resampler": {"latents": w}}` to `{"resampler.latents": w}`."""
    flat: dict[str, Any] = {}
    for part, tensors in parts.items():
        if isinstance(tensors, Mapping):
            flat |= {f"{part}.{name}": value for name, value in tensors.items()}
        elif tensors is not None:
            flat[part] = tensors
    return flat


def diagnose_connector(evidence: ConnectorEvidence) -> list[Finding]:
    """Return findings about the connector's tensors; empty if the connector in use is trained, complete and finite."""
    found = _misfits(evidence) + _non_finite(evidence.stored)
    if found:
        return found  # distances to tensors that are missing or not finite are meaningless
    return _never_trained(evidence) or _not_in_use(evidence)


def distance(value: Tensor, initial: Tensor) -> float:
    """Return the distance of a tensor from its initial value, by the formula at the top of this file."""
    value, initial = value.double(), initial.double()
    square = float((initial * initial).sum())
    if square == 0:
        return float(value.norm())
    shrunk = min(1.0, max(0.0, float((value * initial).sum()) / square))
    return float((value - shrunk * initial).norm()) / math.sqrt(square)


def _misfits(evidence: ConnectorEvidence) -> list[Finding]:
    """Return findings about tensors that are missing, unexpected, or of another shape."""
    initial, stored = evidence.initial, evidence.stored
    lacking = [name for name in initial if name not in stored]
    extra = [name for name in stored if name not in initial]
    shapes = {
        name: (_shape(stored[name]), tuple(initial[name].shape))
        for name in initial
        if name in stored and _shape(stored[name]) != tuple(initial[name].shape)
    }
    said = []
    if lacking:
        said.append(
            f"lacks {len(lacking)} of the {len(initial)} tensors that this config's connector has ({_names(lacking)})"
        )
    if extra:
        said.append(f"has {len(extra)} tensors that this config's connector does not have ({_names(extra)})")
    for name, (got, expected) in list(shapes.items())[:1]:
        more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        said.append(f"has `{name}` with the shape {got}, while the config requires {expected}{more}")
    if not said:
        return []
    return [
        finding(
            "connector-not-loaded",
            f"the checkpoint {', and '.join(said)}, so the connector in use is not the trained one",
            "use the config and the backbones that the checkpoint was trained with, or a checkpoint that is complete",
            lacking=lacking,
            unexpected=extra,
            shapes={name: [str(got), str(expected)] for name, (got, expected) in shapes.items()},
        )
    ]


def _non_finite(stored: Mapping[str, Any]) -> list[Finding]:
    bad = {
        name: int((~torch.isfinite(value)).sum())
        for name, value in stored.items()
        if isinstance(value, Tensor) and not bool(torch.isfinite(value).all())
    }
    if not bad:
        return []
    first = next(iter(bad))
    return [
        finding(
            "non-finite",
            f"the checkpoint's weights contain NaN or infinity, first in `{first}` ({bad[first]} "
            f"{agree(bad[first], 'value', 'values')}; {len(bad)} of {len(stored)} tensors), so losses computed with "
            "them are meaningless",
            "use an older checkpoint; then train with a lower train.lr or train.clip, and look for the row or the "
            "overflow that caused it",
            tensors=bad,
        )
    ]


def _never_trained(evidence: ConnectorEvidence) -> list[Finding]:
    stored = evidence.stored
    far = {name: distance(stored[name], initial) for name, initial in evidence.initial.items()}
    still = [name for name, value in far.items() if value < STILL]
    nearest = max(far.values())
    slow = nearest > 0 and could_not_move(evidence.learning_rate, evidence.updates, evidence.initial)
    if nearest < MOVED and not slow:
        return [_whole(evidence, nearest)]
    if still_constant := _constants_untouched(evidence):
        return [
            finding(
                "connector-not-loaded",
                "the checkpoint's connector looks as if it was never trained: all "
                f"{len(still_constant)} tensors that are initialised to ones or zeros (such as `{still_constant[0]}`) "
                "still "
                "have exactly these values, and the other weights differ from this seed's initial weights, so they "
                "come from another initialisation",
                "load the trained connector: perhaps a newly initialised one was saved instead, or loading skipped "
                "the connector",
                untouched=still_constant,
                largest_distance=max(far.values()),
            )
        ]
    if strange := _foreign_parts(evidence):
        related = _correlations(evidence)
        rest = max(cosine for part, cosine in related.items() if part not in strange)
        return [
            finding(
                "connector-not-loaded",
                f"the connector's {_names(strange)} {agree(len(strange), 'is', 'are')} unrelated to this run's initial "
                f"weights (correlation no more than chance, but up to {rest:.2f} in the other parts): either "
                "initialised again after loading, or loaded from another checkpoint",
                "load all parts of the connector from one checkpoint, strictly, and after all code that initialises "
                "weights",
                foreign=strange,
            )
        ]
    parts = sorted({name.split(".")[0] for name in far})
    untouched = [part for part in parts if all(n in still for n in far if n.split(".")[0] == part)]
    if untouched:
        return [
            finding(
                "connector-not-loaded",
                f"the connector's {_names(untouched)} still {agree(len(untouched), 'has', 'have')} exactly the initial "
                "weights while the rest was trained, so this part was left out when the connector was trained, saved "
                "or loaded",
                f"check that the parameters of {_names(untouched)} require gradients, are passed to the optimizer, and "
                "are in the checkpoint",
                untouched=untouched,
                distances={name: far[name] for name in still},
            )
        ]
    return []


def _whole(evidence: ConnectorEvidence, largest: float) -> Finding:
    """Return the finding for a connector that still has its initial weights: not trained, or not loaded."""
    trained = "" if evidence.updates is None else f" after {evidence.updates} updates"
    moved = f" (largest relative change {largest:.1e}; training changes weights by {MOVED:g} and more)"
    begins = (
        f"the checkpoint's connector {'still has' if largest else 'has exactly'} its initial weights{trained}"
        f"{moved if largest else ''}"
    )
    norms = evidence.gradient_norms
    if norms and max(norms) == 0:
        return finding(
            "no-gradient",
            f"{begins}, and the gradient norm in the training log is 0: no gradient reaches the connector",
            "check that the visual tokens are placed with gradients enabled (no `no_grad`, no `.detach()`), that the "
            "connector's parameters require gradients, and that they were passed to the optimizer",
            largest_distance=largest,
            gradient_norms=list(norms),
        )
    return finding(
        "connector-not-loaded",
        f"{begins}: either it was not trained, or weights other than the trained ones were saved or loaded",
        "check that the checkpoint was saved from the model that was trained; then check that the connector's "
        "parameters were passed to the optimizer and require gradients, that the visual tokens are not detached, and "
        "that train.lr is not 0",
        largest_distance=largest,
    )


def _constants_untouched(evidence: ConnectorEvidence) -> list[str]:
    """Return the tensors initialised with a single value (norm weights, zero biases), if all still have that value."""
    constant = [n for n, w in evidence.initial.items() if w.numel() > 1 and bool((w == w.flatten()[0]).all())]
    untouched = [
        n for n in constant if torch.equal(evidence.stored[n].to(evidence.initial[n].dtype), evidence.initial[n])
    ]
    return untouched if len(untouched) == len(constant) else []


def _foreign_parts(evidence: ConnectorEvidence) -> list[str]:
    """Return the parts unrelated to their initial values, if another part is clearly related to its own.

    Trained weights stay correlated with their initial values. Two random initialisations are correlated only by chance,
    typically by about 1/sqrt(size). If all parts are unrelated, the run used another seed, which is not a fault.
    """
    related = _correlations(evidence)
    if max(related.values(), default=0.0) < _RELATED:
        return []
    return [part for part, cosine in related.items() if cosine == 0.0]


def _correlations(evidence: ConnectorEvidence) -> dict[str, float]:
    """Return, by part, the largest correlation of a large tensor with its own initial values; 0 if it may be chance."""
    related: dict[str, float] = {}
    for name, initial in evidence.initial.items():
        if initial.numel() >= _LARGE and float(initial.float().std()) > 0:
            cosine = _cosine(evidence.stored[name], initial)
            part = name.split(".")[0]
            related[part] = max(related.get(part, 0.0), cosine if cosine > _CHANCE / initial.numel() ** 0.5 else 0.0)
    return related


def _cosine(value: Tensor, initial: Tensor) -> float:
    value, initial = value.double(), initial.double()
    return float((value * initial).sum() / (value.norm() * initial.norm() or 1.0))


def _not_in_use(evidence: ConnectorEvidence) -> list[Finding]:
    if evidence.in_use is None:
        return []
    in_use = {name: value.detach().cpu() for name, value in evidence.in_use.items()}
    other = [n for n, w in evidence.stored.items() if n not in in_use or not _same(in_use[n], w)]
    if not other:
        return []
    fresh = [n for n in other if n in in_use and _same(in_use[n], evidence.initial[n])]
    few = "all of them" if len(fresh) == len(other) else f"{len(fresh)} of them"
    what = f", {few} with their initial values" if fresh else ""
    return [
        finding(
            "connector-not-loaded",
            f"{len(other)} of the connector's {len(evidence.stored)} tensors in the loaded model "
            f"{agree(len(other), 'differs', 'differ')} from the checkpoint ({_names(other)}){what}: the model that is "
            "scored is not the one that was trained",
            "load the connector strictly (no `strict=False`, no ignored missing keys) and after all code that "
            "initialises weights",
            differing=other,
            initial=fresh,
        )
    ]


def _same(in_use: Tensor, stored: Tensor) -> bool:
    """Return whether two tensors are equal after `stored` is rounded to the dtype of `in_use`."""
    if in_use.shape != stored.shape:
        return False
    return torch.equal(in_use, stored.to(in_use.dtype))


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _names(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
