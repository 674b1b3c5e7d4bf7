"""What is measured beside the conditions of check 1, on the same samples: matching and words."""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.progress import progress_bar
from eyechart.results import Ablation
from eyechart.scoring.conditions import MEASUREMENTS
from eyechart.scoring.internals import Inside
from eyechart.scoring.matching import match
from eyechart.scoring.ranks import Ranks
from eyechart.scoring.summary import Scores
from eyechart.scoring.word_pieces import Decode
from eyechart.scoring.words import words_of
from eyechart.seam import Scorer
from eyechart.settings import AblationSettings


def with_measures(
    ablation: Ablation,
    scores: Scores,
    scorer: Scorer,
    names: Sequence[str],
    decode: Decode,
    eos_id: int,
    settings: AblationSettings,
    seed: int,
    ranks: Ranks,
    inside: Inside | None = None,
) -> Ablation:
    """Add matching, where `--conditions` asks for it, and words.

    Args:
        ablation: check 1.
        scores: its samples, with their visual tokens.
        scorer: the model, behind the seam.
        names: what was asked for.
        decode: token ids to text, special tokens kept and no spaces cleaned up.
        eos_id: the token that ends a caption.
        settings: sizes of what is measured.
        seed: draws candidates.
        ranks: the processes that share the work, each called with the same arguments.
        inside: pooled tower features, for hard and graded donors; None leaves these out.
    """
    found = None
    if scores.visual is not None and any(name in names for name in MEASUREMENTS):
        features_SV = inside.features([sample.row for sample in scores.samples]) if inside is not None else None
        found = match(
            scorer,
            scores.samples,
            scores.visual,
            features_SV,
            settings,
            seed,
            progress=lambda total: progress_bar(total, "matching", "pair"),
            ranks=ranks,
        )
    words = words_of(scores, decode, eos_id, settings)
    return ablation.model_copy(update={"matching": found, "words": words})
