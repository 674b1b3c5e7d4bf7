"""`eyechart.check_model`: finds faults of a live model with a few forward passes on one batch of its collator.

A live model is a model that is loaded in the current process, for example by a trainer. The checks, in this order:

    pixels            the batch has pixels for every row whose text has image positions
    self-tests        the model uses the image features of every depth, gets the picture by no second path, and keeps no
                      features from earlier calls (`models.opening`)
    paths             each image and its visual tokens affect the losses of their own row and of no other
                      (`faults.probes`)
    text              each token is predicted from the tokens before it, independent of other rows
    the model's loss  the labels are shifted by one, and the loss is finite (`models.training_checks`)
    gradients         tower, connector and language model get gradients if they are trainable, and the optimizer
                      contains all trainable parameters
    weights           the weights were loaded from the files of the checkpoint, and not newly initialised
    freezing          a frozen part has no trainable parameters (`models.freezing`)

The passes run in the model's current mode (train or eval). If dropout is active, losses of different batches cannot be
compared. The paths are then tested in eval mode; in the current mode, the check only tests whether images reach the
losses.
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
    from eyechart.models.live_model import LiveModel

_ROWS = 4
"""The number of rows on which the paths from image to loss are tested."""


def check_model(
    model: nn.Module, batch: Mapping[str, Any], processor: Any = None, *, optimizer: Any = None, seed: int = 0
) -> list[Finding]:
    """Test with a few forward passes whether a live model can learn from the images of a batch.

    After the call, the model's mode, weights, buffers and gradients, and the states of all random generators, are the
    same as before.

    Args:
        model: a model of transformers, which may be wrapped in DDP, PEFT or `torch.compile`.
        batch: a batch made by the model's collator, with labels if the model is being trained.
        processor: the model's processor. Without it, answers are found by token types or labels.
        optimizer: the optimizer. If it is given, the function checks that it contains all trainable parameters.
        seed: the seed of the random ids and visual tokens that replace the right ones.

    Returns:
        The findings, the most likely cause first; an empty list if there are none.

    Raises:
        InputError: the model or the batch cannot be used.
    """
    with kept_randomness():  # importing a library may draw random numbers too
        return rank(_found(model, batch, processor, optimizer, seed))


def _found(model: nn.Module, batch: Mapping[str, Any], processor: Any, optimizer: Any, seed: int) -> list[Finding]:
    # These modules are imported here because transformers takes seconds to load.
    from eyechart.models.freezing import freezing_findings
    from eyechart.models.live_model import LiveModel
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
    """Yield a finding if rows with image positions have no pixels, or if the whole batch has no images."""
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
    """Run the self-tests, and the probes that test which inputs affect which losses; return their findings."""
    from eyechart.models.live import LiveScorer
    from eyechart.models.live_model import LiveModel
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
    # The images are replaced in the same way (`scorer.door`), but the model is in its own mode. All passes use one
    # seed, so that dropout is the same in each of them.
    training = LiveScorer(LiveModel(live.model, evaluating=False, seed=seed), scorer.door, scorer.sources)
    with training.live.running():
        return diagnose_tokens(LossRoute(training, few.text(), drawn, seed + 1).tokens())
