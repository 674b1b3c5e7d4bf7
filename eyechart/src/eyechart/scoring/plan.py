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
    """What check 1 measures. Every figure depends only on the plan, the samples and the model."""

    conditions: tuple[str, ...]
    """The names that `parse_conditions` returns, `correct` first; names in MEASUREMENTS may be among them."""
    settings: AblationSettings = AblationSettings()
    seed: int = 42
    """The seed for all draws: of donors (samples that provide wrong pictures), of noise, and of candidates for
    matching."""
    requested: int | None = None
    """The number of requested samples; if None, the number of samples passed to check 1, including those that cannot be
    scored."""
    available: int | None = None
    """The number of samples that are available for scoring, including unusable ones; None if unknown."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """The number of requested rows that were rejected before any image was read, by reason."""
    vocabulary: Vocabulary = Vocabulary()
    mean_tokens: Tensor | None = None
    """The mean visual tokens [Q,E] of training images. If None, the condition `mean-token` is left out, with a
    remark."""
    blind: Blind | None = None
    """The trained blind prompt (a constant prompt instead of the picture). If None, the condition `blind` is left out,
    with a remark."""
    training: TokenCounts | None = None
    """The counts of the label tokens in the training captions, for check 0 (comparison with a unigram predictor). If
    None, the tokens of scored captions of other images are counted instead."""


@dataclass(frozen=True)
class Execution:
    """How check 1 is run. No figure depends on these settings."""

    ranks: Ranks = Ranks()
    """The processes that share the work; all of them must call `ablate` with the same arguments."""
    progress: Callable[[int], Bar] = lambda total: SilentBar()
    """A function that makes a progress bar for a total number of batches. Each batch counts once per encoding and once
    per scoring."""
    scratch: Path | None = None
    """The folder for temporary files; if None, the system's folder."""
    judge_unread: Callable[[Sequence[Reject]], None] = lambda unread: None
    """A function that is called once, before any sample is scored, with all rows that could not be read
    (`Batch.rejects`). It may raise an error to stop check 1."""
