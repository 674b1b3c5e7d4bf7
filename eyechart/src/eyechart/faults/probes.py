"""What reaches the model? All experiments on a few samples of one batch, through the scoring seam.

What they are and what they measure: `experiments`. What it means: `image_findings`, `loss_findings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from eyechart.faults.changes import random_like, select, without_images
from eyechart.faults.experiments import ImageRoutes, SlotRoutes, TextRoutes, TokenRoutes, image_routes
from eyechart.faults.experiments_on_losses import LossRoute
from eyechart.faults.image_findings import VISUAL, diagnose_images, diagnose_repeats
from eyechart.faults.label_text import answers_in_prompt
from eyechart.faults.loss_findings import diagnose_neighbours, diagnose_slots, diagnose_text, diagnose_tokens
from eyechart.faults.table import finding
from eyechart.results import Finding
from eyechart.seam import IGNORE_INDEX, Batch, ScorerOfBatches

_ROWS = 4
_ANSWERS = 0.5
"""Share of samples with their caption in the prompt above which it is not a coincidence."""


@dataclass(frozen=True)
class Probes:
    """What was measured."""

    images: ImageRoutes
    tokens: TokenRoutes
    slots: SlotRoutes
    text: TextRoutes
    answers_in_prompt: float
    """Share of the samples whose caption, or nearly all of its tokens, already appears before its labels."""


@torch.no_grad()
def probe(scorer: ScorerOfBatches, batch: Batch, seed: int = 0) -> Probes:
    """Run all experiments on the first few samples of a batch that have label tokens.

    About 40 forward passes of four samples. Nothing is trained and nothing is kept.

    Args:
        scorer: the model, adapted to the seam.
        batch: samples with their images, at least one with label tokens.
        seed: draws the replacements.

    Raises:
        ValueError: no sample of the batch has a label token.
    """
    places = labelled(batch)[:_ROWS]
    if not places:
        raise ValueError("probing needs a sample with label tokens, and none of this batch has any")
    few = select(batch, places)
    text = without_images(few)
    drawn = random_like(scorer.encode(few), torch.Generator().manual_seed(seed))
    route = LossRoute(scorer, text, drawn, seed + 1)
    return Probes(
        images=image_routes(scorer.encode, few, seed),
        tokens=route.tokens(),
        slots=route.slots(),
        text=route.text(),
        answers_in_prompt=answers_in_prompt(text),
    )


def diagnose_probes(probes: Probes) -> list[Finding]:
    """Name the faults in how images, visual tokens and labels reach the losses; nothing if all paths are correct."""
    images, tokens = probes.images, probes.tokens
    if images.finite and (random := diagnose_repeats({VISUAL: images.repeated, "losses": tokens.repeated})):
        return random  # random changes hide the effects of the experiments
    found = diagnose_images(images) + diagnose_tokens(tokens)
    if any(tokens.by_row):
        found += diagnose_slots(probes.slots, probes.text)
    return [*found, *diagnose_text(probes.text), *_answers(probes), *diagnose_neighbours(tokens)]


def _answers(probes: Probes) -> Iterator[Finding]:
    if probes.answers_in_prompt > _ANSWERS:
        yield finding(
            "leak",
            f"the caption, or nearly all of its tokens, is already in the prompt of {probes.answers_in_prompt:.0%} "
            "of the samples, so it can be copied without looking at the picture",
            "remove the caption from the human turn, or from prompt.template",
            answers_in_prompt=probes.answers_in_prompt,
        )


def labelled(batch: Batch) -> list[int]:
    """Places of the samples that have a label token."""
    places: list[int] = (batch.labels_BT != IGNORE_INDEX).any(dim=1).nonzero()[:, 0].tolist()
    return places
