"""The log of a run: what is summed over an epoch, one readable line and one JSONL record of it.

Check 2 is counted here, while training: % truncated samples, % samples without label tokens, average label tokens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from eyechart.files import Log
from eyechart.results import EvalPart
from eyechart.seam import CollateStats

LOG_NAME = "log.jsonl"


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
    eval_rejected: dict[str, int] = field(default_factory=dict)
    """Held-out rows that could not be read, and so are not in `eval_loss`, by reason."""
    eval_part: EvalPart | None = None
    """The held-out loss over the first `ablation.num_samples` rows alone, which check 1 has to find again."""

    def line(self, epochs: int) -> str:
        """The one line that a person reads per epoch."""
        held_out = f"{self.eval_loss:.4f}" if self.eval_loss is not None else "-"
        unread = sum(self.rejected.values()) + sum(self.eval_rejected.values())
        rejected = f" | {unread} rejected" if unread else ""
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


_LOG = Log(LOG_NAME, "an epoch record", EpochRecord, lambda record: record.step)
append_record, read_records_of_run, forget_records = _LOG.append, _LOG.read, _LOG.forget
