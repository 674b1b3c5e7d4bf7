"""Last stages of the walk: how labels are predicted, which parameters are trained, whether samples are independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.faults.experiments import past_tokens
from eyechart.faults.loss_findings import NEIGHBOURS, diagnose_neighbours, diagnose_past_tokens, diagnose_text
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.seam import Batch, VisualTokens
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.hooks import watched
from qwen3_vlm.preflight.text import Row
from qwen3_vlm.preflight.walk import Walk, no_gradient, non_finite

# size: shifts that are tried
_SHIFTS = (-1, 0, -2, 1, -3)
"""Positions from which an answer token may be predicted, relative to its own; -1 is correct."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_LIKE = 0.8
"""Correlation above which two lists contain losses of the same tokens, computed by different loss functions. Losses of
unrelated tokens differ widely."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_ALL = 0.98
"""Smallest share of tokens whose loss must be equal to the independent cross-entropy."""
# size: tokens needed for a comparison
_FEWEST = 8
_LOSS_SAYS = {
    0: ("labels-unshifted", "t", "each caption token is predicted from itself, so the model may copy what it sees"),
    -2: ("labels-shifted", "t-2", "labels are shifted once too often"),
    -3: ("labels-shifted", "t-3", "labels are shifted twice too often"),
    1: ("labels-unshifted", "t+1", "each caption token is predicted after the model has read it"),
}


@torch.no_grad()
def loss_stage(walk: Walk) -> list[Finding]:
    """Compare the loss with an independent cross-entropy from full logits, at several shifts."""
    vlm = walk.vlm
    with watched(vlm) as seen:
        nll = walk.nll(vlm.visual(walk.features_BPV))
    per_sample = [losses_T.float().cpu() for losses_T in nll.per_sample()]
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
    log_p_BTK = F.log_softmax(vlm.llm.model(inputs_embeds=seen.embeds[-1], use_cache=False).logits.float(), -1).cpu()
    agreed = {shift: _agreement(walk.rows, per_sample, log_p_BTK, shift) for shift in _SHIFTS}
    best = max(_SHIFTS, key=lambda shift: agreed[shift])
    evidence: dict[str, Any] = {
        "agreement_by_shift": {str(k): round(v, 3) for k, v in agreed.items()},
        "loss": round(float(nll.nll_N.float().mean()), 4),
        "ln_vocabulary": round(math.log(log_p_BTK.shape[-1]), 4),
    }
    if agreed[best] < 0.5:
        if agreed[-1] == 0 and not any(row.answer_start() is not None for row in walk.rows):
            return []  # no caption is at its expected position: the text checks have reported it
        return _other_number(walk, per_sample, log_p_BTK, agreed[-1], evidence) or [
            finding(
                "labels-shifted",
                "the loss is not the cross-entropy of the caption's tokens at t with the logits at any position from "
                f"t-3 to t+1 (best agreement {100 * agreed[best]:.0f}% of tokens)",
                "compare the loss with torch's cross_entropy of the logits at t-1 and the id at t",
                **evidence,
            )
        ]
    if best == -1:
        return [] if agreed[-1] > _ALL else _other_number(walk, per_sample, log_p_BTK, agreed[-1], evidence)
    code, where, what = _LOSS_SAYS[best]
    fix = "compute the loss at position t from the logits at position t-1: shift once, in the labels or in the loss"
    said = f"the loss is the cross-entropy of the logits at {where} with the token at t, where t-1 is right: {what}"
    return [finding(code, said, fix, **evidence)]


def _other_number(
    walk: Walk, per_sample: list[Tensor], log_p_BTK: Tensor, agreed: float, evidence: dict[str, Any]
) -> list[Finding]:
    """Report a loss that has the right shift but other values for some tokens.

    There is no finding if the loss is unrelated to the independent one.
    """
    likeness = _likeness(walk.rows, per_sample, log_p_BTK)
    if likeness <= _LIKE:
        return []
    return [
        finding(
            "loss-altered",
            "the loss rises and falls with the cross-entropy of the caption's tokens at the right positions "
            f"(correlation {likeness:.2f}), but has different values (equal for {100 * agreed:.0f}% of tokens): "
            "perplexities and differences of losses computed from it have a different meaning",
            "compute torch's cross_entropy of the unchanged logits, without label smoothing, temperature, focal or "
            "class weights, or scaling",
            correlation=round(likeness, 4),
            **evidence,
        )
    ]


def _agreement(rows: Sequence[Row], per_sample: list[Tensor], log_p_BTK: Tensor, shift: int) -> float:
    """Return the share of losses that equal the independent ones at this shift.

    Several small offsets in the list are tried, and the best one counts.
    """
    equal, total = 0, 0
    for b, (row, losses_T) in enumerate(zip(rows, per_sample, strict=True)):
        start = row.answer_start()
        if start is None or not len(losses_T):
            continue
        positions = range(start, len(row.ids))
        expected = [
            -float(log_p_BTK[b, p + shift, row.ids[p]]) if 0 <= p + shift < log_p_BTK.shape[1] else math.nan
            for p in positions
        ]
        # Align the lists at the front, or at the end in case prompt tokens are labelled, too.
        offsets = {o + base for o in range(-2, 3) for base in (0, len(expected) - len(losses_T))}
        equal += max(_matches(losses_T.tolist(), expected, offset) for offset in offsets)
        total += min(len(expected), len(losses_T))
    return equal / total if total else 0.0


def _likeness(rows: Sequence[Row], per_sample: list[Tensor], log_p_BTK: Tensor) -> float:
    """Return the correlation of the losses with the independent ones at the right shift; 0 if they cannot be paired."""
    got, own = [], []
    for b, (row, losses_T) in enumerate(zip(rows, per_sample, strict=True)):
        start = row.answer_start()
        if start and len(losses_T) == len(row.ids) - start:
            got += losses_T.tolist()
            own += [-float(log_p_BTK[b, p - 1, row.ids[p]]) for p in range(start, len(row.ids))]
    if len(got) < _FEWEST or np.ptp(got) == 0 or np.ptp(own) == 0:
        return 0.0
    return float(np.corrcoef(got, own)[0, 1])


def _matches(got: list[float], expected: list[float], offset: int) -> int:
    pairs = [(got[i], expected[i + offset]) for i in range(len(got)) if 0 <= i + offset < len(expected)]
    # A bfloat16 model rounds logits to 8 bits, so two computations with the same weights differ in the second digit.
    return sum(abs(a - b) <= 2e-3 + 0.02 * abs(b) for a, b in pairs)


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
        grads = torch.autograd.grad(nll.nll_N.sum(), list(names.values()), allow_unused=True)
    bad = [name for name, g in zip(names, grads, strict=True) if g is not None and not bool(torch.isfinite(g).all())]
    if bad:
        fix = "look at the loss of each sample, then try model.precision fp32"
        return [non_finite(f"the gradient of the connector's {bad[0]}", fix)]
    none = [name for name, g in zip(names, grads, strict=True) if g is None or not bool(g.any())]
    if none:
        return [no_gradient(f"no gradient reaches the connector's {none[0]}", none, len(names))]
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
