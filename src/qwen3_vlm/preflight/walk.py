"""The batch that the stages of the preflight examine in the model, and findings that several stages share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eyechart.faults.changes import select, without_images
from eyechart.faults.experiments import TokenRoutes
from eyechart.faults.experiments_on_losses import LossRoute
from eyechart.faults.prepared_pixels import References
from eyechart.faults.probes import labelled
from eyechart.faults.table import finding
from eyechart.results import Finding
from eyechart.scoring.batching import collate
from eyechart.seam import Batch, TokenNLL, VisualTokens
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.text import Row

_PASS_ON = "pass each sample's pixels through the tower and the tower's features through the connector"


@dataclass(frozen=True)
class Walk:
    """A batch, the model, and tensors that several stages need."""

    vlm: VLM
    batch: Batch
    rows: Sequence[Row]
    """One row per sample, in the order of the batch."""
    references: list[References]
    """The outputs of the tower's own processor for each row's image file."""
    pad_id: int
    latents: int

    @cached_property
    def features_BPV(self) -> Tensor:
        """The tower's features of the batch, computed once. The first stage has checked that they are correct."""
        return self.vlm.features(self.batch)

    @cached_property
    def losses(self) -> LossRoute | None:
        """The experiments on the losses of this batch; None if no sample has a label token."""
        places = labelled(self.batch)
        if not places:
            return None
        drawn_BQE = self.noise(2, self.vlm.llm.text_rms()).cpu()
        return LossRoute(self.vlm, without_images(select(self.batch, places)), VisualTokens((drawn_BQE[places],)))

    @cached_property
    def tokens(self) -> TokenRoutes | None:
        """The experiments on how visual tokens affect the losses. Each sample is collated in a batch of its own."""
        alone = [collate([self.batch.samples[place]], self.pad_id) for place in labelled(self.batch)]
        return self.losses.tokens([*map(without_images, alone)]) if self.losses else None

    def nll(self, visual_BQE: Tensor) -> TokenNLL:
        """Return the loss as training computes it."""
        return self.vlm.nll(self.batch, VisualTokens((visual_BQE,)))

    def noise(self, seed: int, scale: float) -> Tensor:
        """Return reproducible random visual tokens [B,Q,E] that are far from each other."""
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.batch), self.latents, self.vlm.llm.width)
        return (scale * torch.randn(shape, generator=generator)).to(self.vlm.device)

    def patch_positions(self) -> Tensor:
        """Return the positions [B,Q] of the image tokens."""
        found_N2 = (self.batch.ids_BT == self.vlm.patch_id).nonzero()
        return found_N2[:, 1].view(len(self.batch), self.latents)


def unused(what: str, fix: str = _PASS_ON, **evidence: object) -> Finding:
    """Return a finding that the pixels have no effect."""
    return finding("pixels-unused", f"the images are not used: {what}", fix, None, **evidence)


def many_of(count: int, of: int) -> str:
    """Return text such as `all 8` or `3 of the 8`."""
    return f"all {of}" if count == of else f"{count} of the {of}"


def not_injected(what: str, **evidence: object) -> Finding:
    """Return a finding that the visual tokens have no effect."""
    fix = "put the visual tokens into the embeddings at the image positions, and pass these embeddings to the model"
    return finding("not-injected", f"the visual tokens do not reach the language model: {what}", fix, None, **evidence)


def masked(what: str, seen: int, share: float) -> Finding:
    """Return a finding that attention cannot see image positions.

    Args:
        what: description of the evidence.
        seen: number of image positions that at least one label sees.
        share: share of the image positions that no label sees.
    """
    fix = "make the attention mask true at image positions, and remove any bias that hides them"
    return finding("image-masked", f"attention cannot see the image: {what}", fix, positions_seen=seen, hidden=share)


def non_finite(where: str, fix: str) -> Finding:
    """Return a finding about NaN or infinity before any training."""
    return finding("non-finite", f"there is NaN or infinity in {where} before any training", fix, where=where)


def no_gradient(what: str, names: list[str], of: int) -> Finding:
    """Return a finding about parameters that training would not change."""
    which = f"{len(names)} of the connector's {of} parameter tensors" if names else "the connector"
    return finding(
        "no-gradient",
        f"{what}, so training would not change {which}",
        "keep the path from the loss to the connector differentiable: no detach, no no_grad, requires_grad on every "
        "parameter of the connector",
        parameters=names[:8],
        count=len(names),
        of=of,
    )
