"""One optimizer update, one evaluation, and the record of one epoch (check 2 is counted here, while training).

The loss of an update is sum(NLL of label tokens) / (label tokens), over its whole accumulation window and all ranks.
Gradients are therefore summed over micro-batches and ranks, never averaged: neither the batch size, the accumulation
nor the number of processes changes them. That is why neither DDP (which averages) nor `accelerator.backward` (which
divides by the accumulation) is used; Accelerate supplies devices, processes and their sums.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from qwen3_vlm.batch import Batch, CollateStats, Reject, Sample, VisualTokens
from qwen3_vlm.data.collate import batches_by_length, collate
from qwen3_vlm.exits import NonFiniteError
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.results import write_atomic

LOG_NAME = "log.jsonl"


class SampleSource(Protocol):
    """A map-style data set: with pixels, or with cached features."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of every position, before any cut."""
        ...

    def __len__(self) -> int:
        """Number of positions."""
        ...

    def __getitem__(self, position: int) -> Sample | Reject:
        """The sample, or why there is none."""
        ...


@dataclass(frozen=True)
class EpochRecord:
    """One line of log.jsonl."""

    epoch: int
    """From 1."""
    step: int
    updates: int
    train_loss: float
    """Nats per label token, over the epoch as it was trained."""
    eval_loss: float | None
    samples: int
    truncated: int
    """Samples cut by max_seq_len; check 2, as the next five."""
    zero_label: int
    label_tokens: int
    truncated_pct: float
    zero_label_pct: float
    avg_label_tokens: float
    learning_rate: float
    """Of the last update."""
    grad_norm: float
    """Of the last update, before clipping."""
    seconds: float
    """Spent training this epoch, over all its resumptions."""
    samples_per_second: float
    peak_memory_gb: float
    lengths: dict[int, int] = field(default_factory=dict)
    """Histogram of sequence lengths before the cut, in tokens."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Planned rows that could not be read, by reason."""

    def line(self, epochs: int) -> str:
        """The one line that a person reads per epoch."""
        held_out = f"{self.eval_loss:.4f}" if self.eval_loss is not None else "-"
        rejected = f" | {sum(self.rejected.values())} rejected" if self.rejected else ""
        return (
            f"epoch {self.epoch}/{epochs} | step {self.step} | train {self.train_loss:.4f} | eval {held_out} | "
            f"truncated {self.truncated_pct:.2f}% | zero-label {self.zero_label_pct:.2f}% | "
            f"label tokens {self.avg_label_tokens:.1f} | {self.samples_per_second:.0f} samples/s{rejected}"
        )


@dataclass
class EpochProgress:
    """What has been summed in an epoch so far; part of a checkpoint, so a resumed epoch reports the whole of it."""

    epoch: int = 0
    batches: int = 0
    nll: float = 0.0
    stats: CollateStats = field(default_factory=CollateStats)
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        plain = asdict(self)
        plain["stats"]["lengths"] = dict(self.stats.lengths)
        plain["rejected"] = dict(self.rejected)
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> EpochProgress:
        """Back from a checkpoint."""
        stats = CollateStats(**{**plain["stats"], "lengths": Counter(plain["stats"]["lengths"])})
        return cls(**{**plain, "stats": stats, "rejected": Counter(plain["rejected"])})


@dataclass(frozen=True)
class UpdateResult:
    """What one optimizer update saw, over all ranks."""

    nll: float
    tokens: int
    grad_norm: float
    stats: CollateStats
    rejects: tuple[Reject, ...]


def update(
    vlm: VLM,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    accelerator: Accelerator,
    clip: float,
    step: int,
) -> UpdateResult:
    """One optimizer update on this rank's share of an accumulation window.

    Args:
        vlm: the model.
        optimizer: over the connector's parameters; its learning rate is already set.
        batches: micro-batches; together with the other ranks' they are the window.
        accelerator: sums over ranks.
        clip: largest norm of the whole gradient.
        step: the step that this window ends on, for messages.

    Returns:
        Loss, label tokens, gradient norm and counts of the whole window.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; the optimizer has not been called.
    """
    parameters = [p for p in vlm.connector.parameters() if p.requires_grad]
    stats = sum((b.stats for b in batches), CollateStats())
    rejects = tuple(r for b in batches for r in b.rejects)
    tokens = int(sum_over_ranks(accelerator, [float(stats.label_tokens)])[0])
    optimizer.zero_grad(set_to_none=True)
    nll = 0.0
    for batch in batches:
        if tokens and batch.stats.label_tokens:
            visual_BQE = vlm.visual(vlm.features(batch))
            loss = vlm.nll(batch, VisualTokens((visual_BQE,))).nll_N.sum()
            # The backward pass of a non-finite loss is harmless: nothing is applied before the check below.
            torch.autograd.backward(loss / tokens)
            nll += float(loss.detach())
    nll = sum_over_ranks(accelerator, [nll])[0]
    _sum_gradients(accelerator, parameters)
    norm = float(clip_grad_norm_(parameters, clip)) if tokens else 0.0
    if not (math.isfinite(nll) and math.isfinite(norm)):
        raise NonFiniteError(_explain_non_finite(vlm, batches, step, nll))
    if tokens:
        optimizer.step()
    if accelerator.num_processes > 1:
        gathered = gather_object([(stats, rejects)])
        stats = sum((s for s, _ in gathered), CollateStats())
        rejects = tuple(r for _, many in gathered for r in many)
    return UpdateResult(nll, tokens, norm, stats, rejects)


def sum_over_ranks(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Add up plain numbers over all processes, in float64."""
    if accelerator.num_processes == 1:
        return values
    total: Tensor = accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=accelerator.device), "sum")
    return [float(v) for v in total]


def _sum_gradients(accelerator: Accelerator, parameters: list[nn.Parameter]) -> None:
    """Add up gradients over ranks in one message; a rank without samples contributes zeros."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if accelerator.num_processes == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    summed: Tensor = accelerator.reduce(flat, "sum")
    for parameter, part in zip(parameters, torch.split(summed, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def _explain_non_finite(vlm: VLM, batches: Sequence[Batch], step: int, nll: float) -> str:
    """Name the step, the rows and the first tensor that is not finite, walking the forward pass again."""
    rows = [s.row for b in batches for s in b.samples]
    shown = ", ".join(map(str, rows[:16])) + (", ..." if len(rows) > 16 else "")
    first = "none of the forward pass, so a gradient"
    bad = [n for n, p in vlm.connector.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        first = f"the connector's parameter {bad[0]}"
    else:
        for batch in batches:
            with torch.no_grad():
                features_BPV = vlm.features(batch)
                visual_BQE = vlm.visual(features_BPV)
                losses_N = vlm.nll(batch, VisualTokens((visual_BQE,))).nll_N
            stages = (("tower features", features_BPV), ("visual tokens", visual_BQE), ("token losses", losses_N))
            found = [name for name, tensor in stages if not bool(torch.isfinite(tensor).all())]
            if found:
                first = found[0]
                break
    what = "loss" if not math.isfinite(nll) else "gradient"
    return (
        f"{what} is not finite in the update ending at step {step}, rows {shown}; first bad tensor: {first}. The "
        "optimizer was not called; lower train.lr, or look at these rows"
    )


@torch.no_grad()
def evaluate(vlm: VLM, source: SampleSource, pad_id: int, batch_size: int, accelerator: Accelerator) -> float | None:
    """Token-weighted loss over a held-out set in nats per label token, split over ranks; None if it has no labels."""
    nll, tokens = 0.0, 0.0
    groups = batches_by_length(source.lengths, batch_size)
    for positions in groups[accelerator.process_index :: accelerator.num_processes]:
        batch = collate([source[p] for p in positions], pad_id)
        if batch.stats.label_tokens:
            nll += float(vlm.nll(batch, vlm.encode(batch)).nll_N.double().sum())
            tokens += batch.stats.label_tokens
    nll, tokens = sum_over_ranks(accelerator, [nll, tokens])
    return nll / tokens if tokens else None


def append_record(folder: Path, record: EpochRecord) -> None:
    """Add a record to log.jsonl, in place of any of the same or a later step (left by a run that was cut off)."""
    kept = [r for r in read_records_of_run(folder) if r.step < record.step]
    lines = [json.dumps(asdict(r)) + "\n" for r in (*kept, record)]
    write_atomic(folder / LOG_NAME, "".join(lines))


def read_records_of_run(folder: Path) -> list[EpochRecord]:
    """The epoch records of a run, oldest first; none if the folder has no log.

    Raises:
        ValueError: a line is not a record.
    """
    path = folder / LOG_NAME
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            raw = json.loads(line)
            raw["lengths"] = {int(k): v for k, v in raw["lengths"].items()}
            records.append(EpochRecord(**raw))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            message = f"{path}, line {number}: not an epoch record ({error}); delete the file or that line"
            raise ValueError(message) from error
    return records
