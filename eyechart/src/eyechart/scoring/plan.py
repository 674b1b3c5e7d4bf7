"""What is asked of check 1, and how it is carried out."""

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
    """What is measured; with the samples and the model it decides every figure."""

    conditions: tuple[str, ...]
    """Names from `parse_conditions`, `correct` first; MEASUREMENTS may be among them."""
    settings: AblationSettings = AblationSettings()
    seed: int = 42
    """Draws donors, noise and candidates."""
    requested: int | None = None
    """Samples asked for; None are those that came, scored or not."""
    available: int | None = None
    """Samples that there are to score, unusable ones included; None where that is not known."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Rows among those asked for that were rejected before any image was read, by reason."""
    vocabulary: Vocabulary = Vocabulary()
    mean_tokens: Tensor | None = None
    """[Q,E] mean visual tokens of training images; None leaves `mean-token` out, and that is said."""
    blind: Blind | None = None
    """The trained blind prompt; None leaves `blind` out, and that is said."""
    training: TokenCounts | None = None
    """Label tokens of the training captions, for check 0; None counts the scored captions of other images instead."""


@dataclass(frozen=True)
class Execution:
    """How it is carried out; no figure depends on it."""

    ranks: Ranks = Ranks()
    """The processes that share the work, each called with the same arguments."""
    progress: Callable[[int], Bar] = lambda total: SilentBar()
    """Makes a progress bar for a total of batches, each counted once per encoding and once per scoring."""
    scratch: Path | None = None
    """Folder for temporary files; None takes the system's."""
    judge_unread: Callable[[Sequence[Reject]], None] = lambda unread: None
    """Called once with all rows of `Batch.rejects`, before anything is scored; may raise."""
