"""Last stages of the walk: how labels are predicted, which parameters are trained, whether samples are independent."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from eyechart.faults.experiments import Gradients, past_tokens
from eyechart.faults.loss_findings import NEIGHBOURS, diagnose_neighbours, diagnose_past_tokens, diagnose_text
from eyechart.faults.own_loss import OwnLosses, own_losses
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.seam import Batch, VisualTokens
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.hooks import watched
from qwen3_vlm.preflight.walk import Walk, no_gradient, non_finite

# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_LIKE = 0.8
"""Correlation above which two lists contain losses of the same tokens, computed by different loss functions. Losses of
unrelated tokens differ widely."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_ALL = 0.98
"""Smallest share of tokens whose loss must be equal to the independent cross-entropy."""
_LOSS_SAYS = {
    0: ("labels-unshifted", "t", "each caption token is predicted from itself, so the model may copy what it sees"),
    2: ("labels-shifted", "t-2", "labels are shifted once too often"),
    3: ("labels-shifted", "t-3", "labels are shifted twice too often"),
    -1: ("labels-unshifted", "t+1", "each caption token is predicted after the model has read it"),
}
"""Code and words for each wrong distance from the logits to the token that they predict."""


@torch.no_grad()
def loss_stage(walk: Walk) -> list[Finding]:
    """Compare the loss with an independent cross-entropy from full logits, at several shifts."""
    vlm = walk.vlm
    with watched(vlm) as seen:
        nll = walk.nll(vlm.visual(walk.features_BPV))
    if not bool(torch.isfinite(nll.nll_N).all()):
        fix = "look at the embeddings and weights of model.llm, then try model.precision fp32"
        return [non_finite("the loss", fix)]
    labelled = sum(bool(row.targets) for row in walk.rows)
    if labelled and not len(nll.nll_N):
        return [
            finding(
                "no-labels",
                f"the loss counts no token, although {labelled} of {len(walk.rows)} samples have labels",
                "look at how the loss selects label positions",
                rows=labelled,
            )
        ]
    logits_BTK = vlm.llm.model(inputs_embeds=seen.embeds[-1], use_cache=False).logits.float().cpu()
    found = own_losses([losses_T.float().cpu() for losses_T in nll.per_sample()], logits_BTK, walk.batch)
    evidence: dict[str, Any] = {
        "agreement_by_shift": {str(-distance): round(share, 3) for distance, share in found.agreement.items()},
        "loss": round(float(nll.nll_N.float().mean()), 4),
        "ln_vocabulary": round(math.log(logits_BTK.shape[-1]), 4),
    }
    best = max(found.agreement, key=lambda distance: found.agreement[distance])
    agreed = found.agreement[best]
    if agreed >= 0.5 and best != 1:
        code, where, what = _LOSS_SAYS[best]
        fix = "compute the loss at position t from the logits at position t-1: shift once, in the labels or in the loss"
        said = f"the loss is the cross-entropy of the logits at {where} with the token at t, where t-1 is right: {what}"
        return [finding(code, said, fix, **evidence)]
    if agreed > _ALL or not any(row.answer_start() is not None for row in walk.rows):
        return []  # without a caption at its expected position, the text checks have reported it
    if found.likeness > _LIKE:
        return [_altered(found, evidence)]
    if agreed >= 0.5:
        return []
    return [
        finding(
            "labels-shifted",
            "the loss is not the cross-entropy of the caption's tokens at t with the logits at any position from "
            f"t-3 to t+1 (best agreement {100 * agreed:.0f}% of tokens)",
            "compare the loss with torch's cross_entropy of the logits at t-1 and the id at t",
            **evidence,
        )
    ]


def _altered(found: OwnLosses, evidence: dict[str, Any]) -> Finding:
    """Return the finding about a loss at the right distance that has other values for some tokens."""
    return finding(
        "loss-altered",
        "the loss rises and falls with the cross-entropy of the caption's tokens at the right positions "
        f"(correlation {found.likeness:.2f}), but has different values (equal for {100 * found.agreement[1]:.0f}% of "
        "tokens): perplexities and differences of losses computed from it have a different meaning",
        "compute torch's cross_entropy of the unchanged logits, without label smoothing, temperature, focal or "
        "class weights, or scaling",
        correlation=round(found.likeness, 4),
        **evidence,
    )


def gradient_stage(walk: Walk) -> list[Finding]:
    """Do one backward pass as in training, and check which parameters get a gradient.

    Every parameter of the connector must get one, and no other parameter may.
    """
    vlm = walk.vlm
    moving = [name for part in (vlm.tower, vlm.llm) for name, p in part.named_parameters() if p.requires_grad]
    if moving:
        return [
            finding(
                "frozen-moved",
                f"{len(moving)} parameter {agree(len(moving), 'tensor', 'tensors')} of the frozen parts "
                f"{agree(len(moving), 'requires', 'require')} gradients, first {moving[0]}",
                "freeze the vision tower and the language model: requires_grad_(False) on both",
                parameters=len(moving),
            )
        ]
    names = dict(vlm.connector.named_parameters())
    still = [name for name, p in names.items() if not p.requires_grad]
    if still:
        return [no_gradient(f"the connector's {still[0]} is frozen", still, len(names))]
    with torch.enable_grad():
        nll = walk.nll(vlm.visual(vlm.features(walk.batch)))
        if not nll.nll_N.requires_grad:
            return [no_gradient("the loss does not depend on any trained parameter", list(names), len(names))]
        found = Gradients.of(nll.nll_N.sum(), names)
    if found.broken:
        fix = "look at the loss of each sample, then try model.precision fp32"
        return [non_finite(f"the gradient of the connector's {found.broken[0]}", fix)]
    if found.unreached:
        first = f"no gradient reaches the connector's {found.unreached[0]}"
        return [no_gradient(first, [*found.unreached], len(names))]
    return []


@torch.no_grad()
def text_stage(walk: Walk) -> list[Finding]:
    """Check that the loss of a token does not depend on that token, on later ones, or directly on pixels.

    Pixels may affect the loss only through the visual tokens.
    """
    if walk.losses is None:
        return []
    vlm = walk.vlm

    def own(given: Batch, visual: VisualTokens | None) -> Tensor:
        return vlm.nll(given, visual or vlm.encode(given)).nll_N

    return diagnose_text(walk.losses.text()) or diagnose_past_tokens(past_tokens(vlm, walk.batch, own), _loose(vlm))


@torch.no_grad()
def company_stage(walk: Walk) -> list[Finding]:
    """Check that a sample's loss does not depend on other samples of its batch, on their order, or on padding."""
    if walk.tokens is None:
        return []
    return diagnose_neighbours(walk.tokens, _loose(walk.vlm) * max(1.0, walk.tokens.loss))


def _loose(vlm: VLM) -> float:
    """Return the rounding error, in nats, that is accepted for a loss of about 1 nat."""
    return NEIGHBOURS if next(vlm.llm.parameters()).dtype == torch.bfloat16 else 2e-3
