"""Adds the measures of matching and words to the results of check 1, computed on the same samples.

Matching tests whether a caption is likelier with its own image than with others. The figures of words state how much
each word of the captions relies on the picture.
"""

from __future__ import annotations

from functools import partial

from eyechart.progress import progress_bar
from eyechart.results import Ablation
from eyechart.scoring.conditions import MEASUREMENTS
from eyechart.scoring.internals import Inside
from eyechart.scoring.matching import match
from eyechart.scoring.pairs import Captions
from eyechart.scoring.plan import Execution, Plan
from eyechart.scoring.ranks import Ranks
from eyechart.scoring.summary import Scores
from eyechart.scoring.words import words_of
from eyechart.seam import ScorerOfBatches
from eyechart.verdict.gaps import costs


def with_measures(
    ablation: Ablation,
    scores: Scores,
    scorer: ScorerOfBatches,
    plan: Plan,
    ranks: Ranks,
    inside: Inside | None = None,
) -> Ablation:
    """Return the results with the figures of words and, if the plan requests it, of matching.

    Args:
        ablation: the results of check 1.
        scores: the scored samples of check 1, with their visual tokens.
        scorer: the model, adapted to the scoring interface.
        plan: the plan of check 1, which states the requested measures.
        ranks: the processes that share the work; all of them must call this function with the same arguments.
        inside: the mean-pooled tower features. Without them, figures that depend on the similarity of images are left
            out.
    """
    found, words, vocabulary = None, None, plan.vocabulary
    if scores.visual is not None and any(name in plan.conditions for name in MEASUREMENTS):
        features_SV = inside.features([sample.row for sample in scores.samples]) if inside is not None else None
        captions = Captions(scores.samples, scores.visual, features_SV)
        bar = partial(progress_bar, what="matching", unit="pair")
        found = match(scorer, captions, plan.settings, plan.seed, Execution(ranks, bar))
    if vocabulary.decode is not None:
        sure = costs(ablation.conditions.get("shuffled"))
        words = words_of(scores, vocabulary.decode, vocabulary.end_id, plan.settings, sure)
    return ablation.model_copy(update={"matching": found, "words": words})
