"""Checks of what a run prepares before its first update: optimizer, order of the rows, and cached features, if any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.data.dataset import Dataset
from eyechart.faults.table import agree, finding
from eyechart.models.training_checks import held_by
from eyechart.results import Finding
from eyechart.seam import Sample
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.rows import spread
from qwen3_vlm.train.schedule import Window
from qwen3_vlm.train.update import SampleSource

_CACHED = 4
"""Number of samples whose cached features are recomputed."""


def order_findings(size: int, windows: Sequence[Window]) -> list[Finding]:
    """Check that an epoch of these windows reads each of `size` training rows exactly once."""
    counts = Counter(position for window in windows for batch in window for position in batch)
    if counts == Counter(range(size)):
        return []
    read = sum(position in counts for position in range(size))
    return [
        finding(
            "under-trained",
            f"an epoch reads {read} of {size:,} training rows, and {sum(n > 1 for n in counts.values())} of them more "
            "than once: the others are never used",
            "let the sampler draw every row once per epoch, in a new order each time",
            "error",
            rows_read=read,
            of=size,
        )
    ]


def optimizer_findings(vlm: VLM, optimizer: torch.optim.Optimizer) -> list[Finding]:
    """Check that the optimizer holds every parameter of the connector and no other parameter."""
    held = held_by(optimizer)
    own = dict(vlm.connector.named_parameters())
    absent = [name for name, p in own.items() if id(p) not in held]
    frozen = [name for name, p in (*vlm.tower.named_parameters(), *vlm.llm.named_parameters()) if id(p) in held]
    found = []
    if absent:
        found.append(
            finding(
                "no-gradient",
                f"the optimizer was not given {len(absent)} of the connector's {len(own)} parameter tensors, first "
                f"{absent[0]}, so {agree(len(absent), 'it keeps', 'they keep')} the random initial values",
                "give the optimizer vlm.connector.parameters()",
                absent=absent[:8],
                count=len(absent),
            )
        )
    if frozen:
        found.append(
            finding(
                "frozen-moved",
                f"the optimizer was given {len(frozen)} parameter {agree(len(frozen), 'tensor', 'tensors')} of the "
                f"frozen parts, first {frozen[0]}",
                "give the optimizer vlm.connector.parameters() and nothing else",
                foreign=frozen[:8],
                count=len(frozen),
            )
        )
    return found + _kept_gradients(vlm, optimizer)


def _kept_gradients(vlm: VLM, optimizer: torch.optim.Optimizer) -> list[Finding]:
    """Check that `zero_grad` removes gradients. The test sets gradients of zeros, so it has no lasting effect."""
    held = held_by(optimizer)
    tried = [p for p in vlm.connector.parameters() if id(p) in held and p.grad is None]
    for parameter in tried:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.zero_grad(set_to_none=True)
    kept = sum(parameter.grad is not None for parameter in tried)
    for parameter in tried:
        parameter.grad = None
    if not kept:
        return []
    return [
        finding(
            "gradients-kept",
            f"`optimizer.zero_grad` leaves the gradients of {kept} of {len(tried)} parameter tensors, so every update "
            "adds the gradients of all updates before it",
            "call the optimizer's own `zero_grad` after every step, and look for code that replaces or skips it",
            kept=kept,
            of=len(tried),
        )
    ]


@torch.no_grad()
def cache_findings(vlm: VLM, cached: SampleSource, dataset: Dataset) -> list[Finding]:
    """Check that cached features belong to their images, by running the tower again on a few samples."""
    pairs = [(cached[p], dataset[p]) for p in spread(_CACHED, len(dataset))]
    both = [(a, b) for a, b in pairs if isinstance(a, Sample) and isinstance(b, Sample)]
    if len(both) < 2:
        return []
    kept_BPV = torch.stack([a.features_PV for a, _ in both if a.features_PV is not None]).float()
    pixels_BCHW = torch.stack([b.pixels_CHW for _, b in both if b.pixels_CHW is not None])
    fresh_BPV = vlm.tower(pixels_BCHW.to(vlm.device)).cpu().float()
    apart_B = (kept_BPV - fresh_BPV).flatten(1).norm(dim=1) / fresh_BPV.flatten(1).norm(dim=1)
    if float(apart_B.max()) < 0.05:
        return []
    b = int(apart_B.argmax())
    swapped = _rows_of_others(kept_BPV, fresh_BPV)
    # Features that differ between samples were computed from images, although perhaps not from the right ones.
    of_images = float((kept_BPV - kept_BPV[:1]).norm()) > 0.1 * float((fresh_BPV - fresh_BPV[:1]).norm())
    if of_images and not swapped and _still_own(kept_BPV, fresh_BPV):
        return [
            finding(
                "features-altered",
                f"the cached features of row {both[b][0].row} belong to its image but were changed: they differ by "
                f"{float(apart_B[b]):.2g} times their size from what the tower now computes",
                "delete the cached features and compute them again with this tower and this preprocessing; look for a "
                "conversion without a scale (int8, float8) in the code that writes them",
                samples=int((apart_B >= 0.05).sum()),
                of=len(both),
                largest_difference=float(apart_B.max()),
            )
        ]
    whose = f", but those of row {both[swapped[b]][0].row}" if b in swapped else " nor those of another image tried"
    same = "; they are nearly the same for all samples" if not of_images else ""
    return [
        finding(
            "image-order" if of_images else "pixels-unused",
            f"the cached features of row {both[b][0].row} are not those of its image{whose if of_images else ''}{same}",
            "check the code that writes and reads the cache: each sample's features must be at its own position, in "
            "one order; or set data.cache_features to off"
            if of_images
            else "check the code that writes the cache: the tower must get each sample's own pixels (look for a "
            "reused buffer or one image for all samples); or set data.cache_features to off",
            samples=int((apart_B >= 0.05).sum()),
            of=len(both),
            largest_difference=float(apart_B.max()),
        )
    ]


def _still_own(kept_BPV: Tensor, fresh_BPV: Tensor) -> bool:
    """Whether the features of each sample are more similar to those of its own image than to those of the others."""
    kept, fresh = (F.normalize((x - x.mean(0)).flatten(1), dim=1) for x in (kept_BPV, fresh_BPV))
    likeness_BB = kept @ fresh.T
    return bool((likeness_BB.argmax(dim=1) == torch.arange(len(kept))).all() and likeness_BB.diagonal().min() > 0.7)


def _rows_of_others(got_BX: Tensor, own_BX: Tensor) -> dict[int, int]:
    """Find rows of `got` that are nearer to another row of `own` than to their own; return that other row for each.

    A row counts only if the other one is clearly nearer. If all rows are nearly equal, rounding decides which is
    nearest, and no row is returned.
    """
    distances_BB = torch.cdist(got_BX.flatten(1).float()[None], own_BX.flatten(1).float()[None])[0]
    nearest_B = distances_BB.argmin(dim=1)
    return {
        b: int(o)
        for b, o in enumerate(nearest_B)
        if int(o) != b and 10 * float(distances_BB[b, o]) < float(distances_BB[b, b])
    }
