"""The log of a run: sums over an epoch, written as one readable line and one JSONL record.

The numbers of check 2 are also counted here during training: the percentages of truncated samples and of samples
without label tokens, and the average number of label tokens.
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
    """Number of the epoch, from 1."""
    step: int
    updates: int
    train_loss: float
    """Mean loss in nats per label token over the epoch, as computed during training."""
    eval_loss: float | None
    samples: int
    truncated: int
    """Number of samples truncated by max_seq_len. This field and the next five are the numbers of check 2."""
    zero_label: int
    label_tokens: int
    truncated_pct: float
    zero_label_pct: float
    avg_label_tokens: float
    learning_rate: float
    """Learning rate of the last update."""
    grad_norm: float
    """Gradient norm of the last update, before clipping."""
    seconds: float
    """Seconds of training in this epoch, including those before the run was resumed."""
    samples_per_second: float
    peak_memory_gb: float
    lengths: dict[int, int] = field(default_factory=dict)
    """Histogram of sequence lengths before truncation, in tokens."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Number of planned training rows that could not be read, by reason."""
    eval_rejected: dict[str, int] = field(default_factory=dict)
    """Number of held-out rows that could not be read, by reason. They are not included in `eval_loss`."""
    eval_part: EvalPart | None = None
    """The held-out loss over only the first `ablation.num_samples` rows, which check 1 must reproduce."""

    def line(self, epochs: int) -> str:
        """Return the readable line about this epoch."""
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
    """The sums over an epoch so far. They are saved in checkpoints, so that a resumed epoch is reported as a whole."""

    epoch: int = 0
    batches: int = 0
    nll: float = 0.0
    stats: CollateStats = field(default_factory=CollateStats)
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        plain = asdict(self)
        plain["stats"]["lengths"] = dict(self.stats.lengths)
        plain["rejected"] = dict(self.rejected)
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> EpochProgress:
        """Restore the sums from the plain values in a checkpoint."""
        stats = CollateStats(**{**plain["stats"], "lengths": Counter(plain["stats"]["lengths"])})
        return cls(**{**plain, "stats": stats, "rejected": Counter(plain["rejected"])})


EPOCH_LOG = Log(LOG_NAME, "an epoch record", EpochRecord, lambda record: record.step)
append_record, read_records_of_run, forget_records = EPOCH_LOG.append, EPOCH_LOG.read, EPOCH_LOG.forget
