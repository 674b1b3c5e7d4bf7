"""`eyechart.check_model`: the faults that a few forward passes of a live model show on one batch of its collator.

    pixels            missing, although the text has image positions
    self-tests        features ignored at some depth, a second path of the picture, features kept from earlier calls
                      (`models.opening`)
    paths             each image and its visual tokens affect the losses of their own row and of no other
                      (`faults.probes`)
    text              each token is predicted from the tokens before it, independent of other rows
    the model's loss  shifted labels, a loss that is not finite (`models.training_checks`)
    gradients         of tower, connector and language model, compared with what is trainable and what is in the
                      optimizer
    weights           newly initialised instead of loaded from the files of the checkpoint
    freezing          parameters in a frozen part that are still trainable (`models.freezing`)

The passes run in the model's current mode. If dropout is active, losses of different batches cannot be compared: the
paths are then tested in eval mode, and in the current mode only whether images reach the losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from eyechart.faults.changes import random_like
from eyechart.faults.experiments_on_losses import LossRoute
from eyechart.faults.loss_findings import diagnose_tokens
from eyechart.faults.probes import diagnose_probes, probe
from eyechart.faults.table import finding, rank
from eyechart.models.unchanged import kept_randomness
from eyechart.results import Finding

if TYPE_CHECKING:
    from eyechart.models.collated import Collated
    from eyechart.models.live import LiveModel

_ROWS = 4
"""Number of rows on which the paths are tested."""


def check_model(
    model: nn.Module, batch: Mapping[str, Any], processor: Any = None, *, optimizer: Any = None, seed: int = 0
) -> list[Finding]:
    """Test with a few forward passes whether a live model can learn from the images of a batch.

    The model's mode, weights, buffers and gradients, and all random generators, are the same afterwards.

    Args:
        model: a model of transformers, possibly inside DDP, PEFT or `torch.compile`.
        batch: a batch made by its collator, with labels if the model is being trained.
        processor: its processor; without it, answers are found by token types or labels.
        optimizer: the optimizer, to check that it contains all trainable parameters.
        seed: seed for random replacements.

    Returns:
        Findings, the most likely cause first; empty if nothing was found.

    Raises:
        InputError: model or batch cannot be used.
    """
    with kept_randomness():  # importing a library may also draw random numbers
        return rank(_found(model, batch, processor, optimizer, seed))


def _found(model: nn.Module, batch: Mapping[str, Any], processor: Any, optimizer: Any, seed: int) -> list[Finding]:
    # Imported where they are used: transformers takes seconds to load.
    from eyechart.models.freezing import freezing_findings
    from eyechart.models.live import LiveModel
    from eyechart.models.opening import read_batches
    from eyechart.models.training_checks import gradient_findings, loss_findings, weight_findings

    live = LiveModel(model, evaluating=False)
    (source,) = read_batches([batch], processor, live.config)
    with live.running():
        found = [*_pixels(source)] or _paths(live, batch, processor, seed)
        found += loss_findings(live, source)
        found += gradient_findings(live, source, optimizer)
        found += weight_findings(live)
        found += freezing_findings(live.model)
    return found


def _pixels(source: Collated) -> Iterator[Finding]:
    """Report image positions without pixels."""
    geometry = source.geometry
    rows = [place for place in range(geometry.rows) if geometry.runs[place]]
    blind = [place for place in rows if not source.shows_image(place)]
    if blind:
        yield finding(
            "pixels-unused",
            f"{len(blind)} of {geometry.rows} rows have image positions in their text and no pixels in the batch",
            "return the processor's pixel_values from the collator, and let the trainer keep them "
            "(remove_unused_columns=False)",
            rows=blind[:8],
        )
    elif not rows and geometry.pixels.key is None:
        yield finding(
            "pixels-unused",
            "the batch has neither image positions nor pixels, so the model cannot be tested on images",
            "pass a batch with images; if its rows have images, check the placeholders in their text and the collator",
            "warning",
        )


def _paths(live: LiveModel, batch: Mapping[str, Any], processor: Any, seed: int) -> list[Finding]:
    """Run self-tests and probes."""
    from eyechart.models.live import LiveModel, LiveScorer
    from eyechart.models.opening import first_samples, open_live
    from eyechart.models.selftests import UnfitError

    stochastic = live.stochastic(batch)
    try:
        scorer = open_live(live.model, [batch], processor, evaluating=stochastic)
    except UnfitError as error:
        failure = error.failure
        fix = "check what the model keeps between forward passes, and how it passes on image features"
        return [finding(failure.fault, f"{failure.outcome}. {failure.meaning}", fix, test=failure.test.value)]
    few = first_samples(scorer.batches, _ROWS)
    if few is None:
        return []
    with scorer.live.running():
        found = diagnose_probes(probe(scorer, few, seed, scorer.door.slots))
        drawn = random_like(scorer.encode(few), torch.Generator().manual_seed(seed))
    if found or not stochastic:
        return found
    # The same door in the model's own mode, with one seed for all passes so that dropout is the same in them.
    training = LiveScorer(LiveModel(live.model, evaluating=False, seed=seed), scorer.door, scorer.sources)
    with training.live.running():
        return diagnose_tokens(LossRoute(training, few.text(), drawn, seed + 1).tokens())
