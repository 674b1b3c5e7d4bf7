"""The arguments of check 1: what to measure, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from eyechart.progress import Bar, SilentBar
from eyechart.scoring.decomposition import Blind
from eyechart.scoring.ranks import Ranks
from eyechart.scoring.unigram import TokenCounts
from eyechart.seam import Reject, Vocabulary
from eyechart.settings import AblationSettings


@dataclass(frozen=True)
class Plan:
    """What to measure; together with the samples and the model, it determines every figure."""

    conditions: tuple[str, ...]
    """Names from `parse_conditions`, `correct` first; MEASUREMENTS may be among them."""
    settings: AblationSettings = AblationSettings()
    seed: int = 42
    """Seed for donors, noise and candidates."""
    requested: int | None = None
    """Number of requested samples; None uses the number of samples passed, scored or not."""
    available: int | None = None
    """Number of samples available for scoring, including unusable ones; None if unknown."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Number of requested rows that were rejected before any image was read, by reason."""
    vocabulary: Vocabulary = Vocabulary()
    mean_tokens: Tensor | None = None
    """[Q,E] mean visual tokens of training images; None leaves `mean-token` out, with a remark."""
    blind: Blind | None = None
    """The trained blind prompt; None leaves `blind` out, with a remark."""
    training: TokenCounts | None = None
    """Counts of the label tokens of the training captions, for check 0. If None, the scored captions of other images
    are counted instead."""


@dataclass(frozen=True)
class Execution:
    """How to run check 1; no figure depends on it."""

    ranks: Ranks = Ranks()
    """The processes that share the work; all must make the call with the same arguments."""
    progress: Callable[[int], Bar] = lambda total: SilentBar()
    """Makes a progress bar for a total number of batches; each batch counts once per encoding and once per scoring."""
    scratch: Path | None = None
    """Folder for temporary files; None uses the system's."""
    judge_unread: Callable[[Sequence[Reject]], None] = lambda unread: None
    """Called once with all rows of `Batch.rejects`, before anything is scored; may raise."""
