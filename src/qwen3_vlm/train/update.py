"""One optimizer update over all ranks, and one evaluation.

The loss of an update is sum(NLL of label tokens) / (number of label tokens), over the whole window and all ranks.
Gradients are therefore summed over micro-batches and ranks, never averaged: neither the batch size, the accumulation
nor the number of processes changes them. That is why neither DDP (which averages) nor `accelerator.backward` (which
divides by the accumulation) is used; Accelerate supplies devices, processes and their sums.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from eyechart.exits import NonFiniteError
from eyechart.results import EvalPart
from eyechart.scoring.batching import Items, batches_by_length, collate
from eyechart.scoring.ranks import Ranks
from eyechart.seam import Batch, CollateStats, Reject, VisualTokens
from qwen3_vlm.models.vlm import VLM

T = TypeVar("T")
_ROWS_SHOWN = 16


class SampleSource(Items, Protocol):
    """A map-style data set with pixels or with cached features."""

    @property
    def lengths(self) -> list[int]:
        """Number of tokens at each position, before truncation."""
        ...

    def __len__(self) -> int:
        """Number of positions."""
        ...


@dataclass(frozen=True)
class UpdateResult:
    """Statistics of one optimizer update over all ranks."""

    nll: float
    tokens: int
    grad_norm: float
    """Norm of the whole gradient, before clipping."""
    stats: CollateStats
    rejects: tuple[Reject, ...]


@dataclass(frozen=True)
class _BadTensor:
    """A tensor that is not finite."""

    name: str
    """Description of the tensor, including its row if it belongs to one."""
    before_connector: bool
    """Whether the tensor depends only on frozen weights and an image, so that training cannot be the cause."""


@dataclass(frozen=True)
class EvalResult:
    """Held-out loss in nats per label token (None without labels), and the rows that could not be read."""

    loss: float | None
    rejects: tuple[Reject, ...]
    part: EvalPart
    """The same loss over only the rows in `first` (see `evaluate`)."""


def update(
    vlm: VLM,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    accelerator: Accelerator,
    clip: float,
    step: int,
) -> UpdateResult:
    """Do one optimizer update with this rank's share of an accumulation window.

    Args:
        vlm: the model.
        optimizer: over the connector's parameters; its learning rate is already set.
        batches: this rank's micro-batches; those of all ranks together form the window.
        accelerator: computes sums over ranks.
        clip: largest norm of the whole gradient.
        step: the last step of this window, for messages.

    Returns:
        Loss, number of label tokens, gradient norm and counts of the whole window.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; the optimizer has not been called.
    """
    parameters = [p for p in vlm.connector.parameters() if p.requires_grad]
    tokens = int(sum_over_ranks(accelerator, [float(sum(b.stats.label_tokens for b in batches))])[0])
    optimizer.zero_grad(set_to_none=True)
    nll = 0.0
    for batch in batches:
        if tokens and batch.stats.label_tokens:
            visual_BQE = vlm.visual(vlm.features(batch))
            loss = vlm.nll(batch, VisualTokens((visual_BQE,))).nll_N.sum()
            # The backward pass of a non-finite loss is harmless, because gradients are applied only after the check
            # below.
            torch.autograd.backward(loss / tokens)
            nll += float(loss.detach())
    nll = sum_over_ranks(accelerator, [nll])[0]
    _sum_gradients(accelerator, parameters)
    norm = float(clip_grad_norm_(parameters, clip)) if tokens else 0.0
    if not (math.isfinite(nll) and math.isfinite(norm)):
        raise _explained(vlm, batches, accelerator, step, nll)
    if tokens:
        optimizer.step()
    seen = over_ranks(accelerator, (sum((b.stats for b in batches), CollateStats()), [b.rejects for b in batches]))
    stats = sum((s for s, _ in seen), CollateStats())
    rejects = tuple(reject for _, groups in seen for group in groups for reject in group)
    return UpdateResult(nll, tokens, norm, stats, rejects)


def sum_over_ranks(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Sum plain numbers over all processes in float64."""
    if accelerator.num_processes == 1:
        return values
    total: Tensor = accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=accelerator.device), "sum")
    return [float(v) for v in total]


def over_ranks(accelerator: Accelerator, value: T) -> list[T]:
    """Return the `value` of every process, in the order of ranks."""
    if accelerator.num_processes == 1:
        return [value]
    gathered: list[T] = gather_object([value])
    return gathered


def ranks_of(accelerator: Accelerator) -> Ranks:
    """Return the processes of the job."""
    count = accelerator.num_processes
    return Ranks(accelerator.process_index, count, lambda value: over_ranks(accelerator, value))


def _sum_gradients(accelerator: Accelerator, parameters: list[nn.Parameter]) -> None:
    """Sum gradients over ranks in one message; a rank without samples contributes zeros."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if accelerator.num_processes == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    summed: Tensor = accelerator.reduce(flat, "sum")
    for parameter, part in zip(parameters, torch.split(summed, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def _explained(vlm: VLM, batches: Sequence[Batch], accelerator: Accelerator, step: int, nll: float) -> NonFiniteError:
    """Return an error that names the step, the rows of all ranks, and the first tensor that is not finite."""
    # Gathered over all ranks, because the bad sample may be on another rank.
    seen = over_ranks(accelerator, ([s.row for b in batches for s in b.samples], _first_bad(vlm, batches)))
    rows = sorted(row for part, _ in seen for row in part)
    shown = ", ".join(map(str, rows[:_ROWS_SHOWN])) + (", ..." if len(rows) > _ROWS_SHOWN else "")
    first = next((bad for _, bad in seen if bad), _BadTensor("none of the forward pass, so a gradient", False))
    what = "loss" if not math.isfinite(nll) else "gradient"
    # Training changes only the connector, so the tensors before it do not depend on the learning rate.
    fix = (
        "look at that row's image; if it is undamaged, look for NaN in model.vision, then try model.precision fp32"
        if first.before_connector
        else "lower train.lr; if the error occurs again at the same rows, look at these rows"
    )
    return NonFiniteError(
        f"{what} is not finite in the update ending at step {step}, rows {shown}; first bad tensor: {first.name}",
        fix,
        spared="The optimizer was not called",
    )


@torch.no_grad()
def _first_bad(vlm: VLM, batches: Sequence[Batch]) -> _BadTensor | None:
    """Repeat the forward pass and return the first tensor, from weights to losses, that is not finite; else None."""
    for name, parameter in vlm.connector.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return _BadTensor(f"the connector's parameter {name}", before_connector=False)
    for batch in batches:
        if not batch.stats.label_tokens:
            continue
        features_BPV = vlm.features(batch)
        visual_BQE = vlm.visual(features_BPV)
        per_sample = vlm.nll(batch, VisualTokens((visual_BQE,))).per_sample()
        stages = (
            ("tower features", features_BPV, True),
            ("visual tokens", visual_BQE, False),
            ("token losses", per_sample, False),
        )
        for name, rows, before_connector in stages:
            for sample, values in zip(batch.samples, rows, strict=True):
                if not bool(torch.isfinite(values).all()):
                    return _BadTensor(f"{name} of row {sample.row}", before_connector)
    return None


@torch.no_grad()
def evaluate(
    vlm: VLM, source: SampleSource, pad_id: int, batch_size: int, accelerator: Accelerator, first: Collection[int] = ()
) -> EvalResult:
    """Compute the token-weighted loss over a held-out set, split over ranks.

    Args:
        vlm: the model.
        source: the held-out set.
        pad_id: id of the token that pads sequences on the right.
        batch_size: number of samples per forward pass.
        accelerator: computes sums over ranks.
        first: rows over which the loss is also reported separately.
    """
    nll, tokens, part_nll, part_tokens, part_samples = 0.0, 0.0, 0.0, 0.0, 0.0
    rejects: list[Reject] = []
    groups = batches_by_length(source.lengths, batch_size)
    for positions in groups[accelerator.process_index :: accelerator.num_processes]:
        batch = collate([source[p] for p in positions], pad_id)
        rejects += batch.rejects
        asked = [b for b, sample in enumerate(batch.samples) if sample.row in first]
        part_samples += len(asked)
        if batch.stats.label_tokens:
            losses = vlm.nll(batch, vlm.encode(batch))
            nll += float(losses.nll_N.double().sum())
            tokens += batch.stats.label_tokens
            if asked:
                by_sample = losses.per_sample()
                part_N = torch.cat([by_sample[b] for b in asked])
                part_nll, part_tokens = part_nll + float(part_N.double().sum()), part_tokens + len(part_N)
    figures = sum_over_ranks(accelerator, [nll, tokens, part_nll, part_tokens, part_samples])
    nll, tokens, part_nll, part_tokens, part_samples = figures
    unread = tuple(reject for part in over_ranks(accelerator, rejects) for reject in part)
    told = EvalPart(rows=len(first), samples=int(part_samples), loss=part_nll / part_tokens if part_tokens else None)
    return EvalResult(nll / tokens if tokens else None, unread, told)
