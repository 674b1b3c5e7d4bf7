"""Faults that show only while a run trains: between updates, after an epoch, at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eyechart.faults.table import agree, finding
from eyechart.faults.weights import distance
from eyechart.models.weights import fingerprint
from eyechart.results import Finding, Look
from eyechart.scoring.batching import collate
from eyechart.seam import VisualTokens
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.update import SampleSource

FIRST_UPDATES = 3
"""Updates after which every trained parameter must have moved."""
_TEXT_SAMPLES = 64
_SMALL_RATE = 0.01
"""Of the peak learning rate."""
_STILL = 3e-7
"""Relative distance from the start, shrinking by weight decay left out: the rounding of float32."""


@dataclass
class Watch:
    """Looks at the parts between updates; one per run and process."""

    vlm: VLM
    peak_lr: float
    """Updates far below it, as at the very end of a schedule, are not expected to move anything."""
    force: bool = False
    """Write errors down and go on."""
    start: dict[str, Tensor] = field(init=False)
    frozen: dict[str, str] = field(init=False)
    largest_norm: float = 0.0
    updates: int = 0

    def __post_init__(self) -> None:
        """Remember where everything stood."""
        self.start = {name: p.detach().clone() for name, p in self.vlm.connector.named_parameters()}
        self.frozen = self._hashes()

    def _hashes(self) -> dict[str, str]:
        return {"vision tower": fingerprint(self.vlm.tower.model), "language model": fingerprint(self.vlm.llm.model)}

    def after_update(self, grad_norm: float, learning_rate: float) -> list[Finding]:
        """Once, after the first few updates: has every trained parameter moved?

        Args:
            grad_norm: of this update, before clipping.
            learning_rate: of this update.
        """
        self.largest_norm = max(self.largest_norm, grad_norm)
        self.updates += learning_rate >= _SMALL_RATE * self.peak_lr
        if self.updates != FIRST_UPDATES or not self.start:
            return []
        still = unmoved(self.vlm.connector, self.start)
        of, self.start = len(self.start), {}
        if not still:
            return []
        whole = len(still) == of
        return [
            finding(
                "no-gradient",
                f"after {self.updates} updates "
                + (
                    f"none of the connector's {of} parameter tensors has moved"
                    if whole
                    else f"{len(still)} of the connector's {of} parameter tensors "
                    f"{agree(len(still), 'has', 'have')} not moved, first {still[0]}"
                )
                + f" (largest gradient norm of the whole connector {self.largest_norm:.3g}, learning rate "
                f"{learning_rate:.3g})",
                "give the optimizer every parameter of the connector; if it has them, keep the path from the loss to "
                "them differentiable (no detach), their weights in float32, and train.lr and train.clip large enough",
                unmoved=still[:8],
                count=len(still),
                of=of,
                largest_gradient_norm=self.largest_norm,
                learning_rate=learning_rate,
            )
        ]

    def after_epoch(self) -> list[Finding]:
        """Have the frozen parts stayed what they were?"""
        now = self._hashes()
        moved = [name for name, value in now.items() if value != self.frozen[name]]
        self.frozen = now
        return [
            finding(
                "frozen-moved",
                f"the {name} has changed while training, although it is frozen, so the loss no longer measures the "
                "connector alone",
                f"give the optimizer the connector's parameters only, and set requires_grad_(False) on the {name}",
                part=name,
            )
            for name in moved
        ]


def unmoved(connector: nn.Module, start: dict[str, Tensor]) -> list[str]:
    """Names of parameters that are where they started, or have only been shrunk by weight decay."""
    return [name for name, p in connector.named_parameters() if distance(p.detach(), start[name]) < _STILL]


@torch.no_grad()
def end_findings(vlm: VLM, held_out: SampleSource, pad_id: int, looks: Sequence[Look]) -> list[Finding]:
    """At the end of a run: is the loss below what the text alone gives, and did the gap to wrong pictures open?

    Args:
        vlm: the trained model.
        held_out: its first samples are scored with their image and without.
        pad_id: for batches.
        looks: what was seen of the gaps while training, if anything.
    """
    found = []
    items = [held_out[p] for p in range(min(_TEXT_SAMPLES, len(held_out)))]
    batch = collate(items, pad_id)
    if batch.stats.label_tokens:
        visual = VisualTokens((vlm.visual(vlm.features(batch)),))
        seeing = float(vlm.nll(batch, visual).nll_N.double().mean())
        text_only = float(vlm.nll(batch, None).nll_N.double().mean())
        if seeing >= text_only:
            found.append(
                finding(
                    "under-trained",
                    f"{len(batch)} held-out captions cost {seeing:.3f} nats/token with their images and "
                    f"{text_only:.3f} without, so the connector does not help yet",
                    "train longer or with a higher train.lr; if the loss has stopped falling, first check that "
                    "visual tokens reach the language model and that captions belong to their images (`qwen3-vlm "
                    "diagnose`)",
                    loss=round(seeing, 4),
                    text_only=round(text_only, 4),
                    samples=len(batch),
                )
            )
    return [*found, *never_opened(looks)]


def never_opened(looks: Sequence[Look]) -> list[Finding]:
    """Three looks and more without a gap to wrong pictures, while pictures as such are read."""
    if len(looks) < 3:
        return []
    last = looks[-1]
    gaps = [round(look.gap_shuffled, 4) for look in looks]
    if max(gaps[-2:]) >= 0.02 or (last.r_at_1 is not None and last.k and last.r_at_1 > 2 / last.k):
        return []
    constant = last.gap_zero > 0.1
    return [
        finding(
            "constant-prompt" if constant else "under-trained",
            f"up to step {last.step} another sample's image costs no more than the right one ({gaps[-1]:+.4f} "
            "nats/token), "
            + (
                f"though zeroed visual tokens cost {last.gap_zero:+.4f}: the visual tokens act as one fixed prompt"
                if constant
                else f"and zeroed visual tokens cost {last.gap_zero:+.4f}: the visual tokens are not used yet"
            ),
            "check that captions belong to their images and that different images give different tower features, then "
            "train longer or with a higher train.lr"
            if constant
            else "check that visual tokens reach the language model and get a gradient (`qwen3-vlm diagnose`), then "
            "train longer or with a higher train.lr",
            "warning" if constant else "note",
            gaps_shuffled=gaps,
            gap_zero=last.gap_zero,
            step=last.step,
        )
    ]
