"""Tests which inputs reach the model, by running all experiments on a few samples through the scoring interface.

`experiments` describes the experiments; `image_findings` and `loss_findings` derive findings from their results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from eyechart.faults.changes import random_like, select, without_images
from eyechart.faults.experiments import ImageRoutes, SlotRoutes, TextRoutes, TokenRoutes, image_routes
from eyechart.faults.experiments_on_losses import LossRoute
from eyechart.faults.image_findings import VISUAL, diagnose_images, diagnose_repeats
from eyechart.faults.label_text import answers_in_prompt
from eyechart.faults.loss_findings import diagnose_neighbours, diagnose_slots, diagnose_text, diagnose_tokens
from eyechart.faults.table import finding
from eyechart.results import Finding
from eyechart.seam import IGNORE_INDEX, Batch, ScorerOfBatches, VisualTokens

# size: samples of a probe
_ROWS = 4
# measured: benchmarks/thresholds.py on scenes, digits and columns: 0 of 12
_ANSWERS = 0.5
"""If the prompts of more than this share of the samples contain the caption, the captions count as leaked."""


@dataclass(frozen=True)
class Probes:
    """The results of all experiments."""

    images: ImageRoutes
    tokens: TokenRoutes
    slots: SlotRoutes
    text: TextRoutes
    answers_in_prompt: float
    """Share of the samples whose prompt contains the caption, or nearly all of its tokens."""


@runtime_checkable
class Together(Protocol):
    """A scorer whose `encode` processes one image at a time, although its model processes whole batches in training."""

    def encode_together(self, batch: Batch) -> VisualTokens:
        """Return the visual tokens of a batch, computed as in training."""
        ...


@torch.no_grad()
def probe(scorer: ScorerOfBatches, batch: Batch, seed: int = 0, slots: bool = True) -> Probes:
    """Run all experiments on the first few samples of a batch that have label tokens.

    The experiments take about 40 forward passes with four samples each. Nothing is trained or stored.

    Args:
        scorer: the model, adapted to the scoring interface.
        batch: samples with their images, at least one with label tokens.
        seed: seed for the random replacements.
        slots: whether to change visual tokens one by one. Use False if the visual tokens are pixel values, because
            there are too many of them, and each has too small an effect.

    Raises:
        ValueError: no sample of the batch has a label token.
    """
    places = labelled(batch)[:_ROWS]
    if not places:
        raise ValueError("probing needs a sample with label tokens, but no sample of this batch has any")
    few = select(batch, places)
    text = without_images(few)
    drawn = random_like(scorer.encode(few), torch.Generator().manual_seed(seed))
    route = LossRoute(scorer, text, drawn, seed + 1)
    return Probes(
        images=image_routes(scorer.encode_together if isinstance(scorer, Together) else scorer.encode, few, seed),
        tokens=route.tokens(),
        slots=route.slots() if slots else SlotRoutes((), 0, ()),
        text=route.text(),
        answers_in_prompt=answers_in_prompt(text),
    )


def diagnose_probes(probes: Probes) -> list[Finding]:
    """Return findings about how images, visual tokens and labels affect the losses; empty if all paths are correct."""
    images, tokens = probes.images, probes.tokens
    if images.finite and (random := diagnose_repeats({VISUAL: images.repeated, "losses": tokens.repeated})):
        return random  # random changes would hide the effects of the experiments
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
    """Return the indices of the samples in the batch that have at least one label token."""
    places: list[int] = (batch.labels_BT != IGNORE_INDEX).any(dim=1).nonzero()[:, 0].tolist()
    return places
