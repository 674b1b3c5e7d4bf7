"""One real batch through the real model: what reaches the language model, what the loss sees, what learns.

Stages in the order of the data. A stage that is broken ends the walk: what follows from it is no second fault.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen3_vlm.batch import Batch, TokenNLL, VisualTokens
from qwen3_vlm.data.collate import collate
from qwen3_vlm.faults import agree, finding
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.pixels import compare
from qwen3_vlm.preflight.probe import own_row, probe
from qwen3_vlm.preflight.text import Row
from qwen3_vlm.results import Finding

_PASS_ON = "pass each sample's pixels through the tower and the tower's features through the connector"
_RESTLESS = 0.01
"""Relative difference between two equal calls that no order of summation explains."""
_SHIFTS = (-1, 0, -2, 1, -3)
"""Where the logits of an answer token may come from, relative to its position; -1 is right."""
_LOSS_SAYS = {
    0: ("labels-unshifted", "t", "each caption token is predicted from itself, so the model may copy what it sees"),
    -2: ("labels-shifted", "t-2", "labels are shifted once too often"),
    -3: ("labels-shifted", "t-3", "labels are shifted twice too often"),
    1: ("labels-unshifted", "t+1", "each caption token is predicted after the model has read it"),
}


@dataclass(frozen=True)
class Walk:
    """A batch on its way."""

    vlm: VLM
    batch: Batch
    rows: Sequence[Row]
    """One per sample of the batch, in its order."""
    references: list[Tensor | None]
    """What the tower's own processor makes of each row's file, [3,H,W]."""
    pad_id: int
    latents: int

    @cached_property
    def features_BPV(self) -> Tensor:
        """The tower's features of the batch, computed once: the first stage has shown that they are its own."""
        return self.vlm.features(self.batch)

    @cached_property
    def alone(self) -> list[tuple[Batch, Tensor]]:
        """Every sample as a batch of its own, with its features [1,P,V]."""
        batches = [collate([sample], self.pad_id) for sample in self.batch.samples]
        return [(single, self.vlm.features(single)) for single in batches]

    def nll(self, visual_BQE: Tensor) -> TokenNLL:
        """The loss as training computes it."""
        return self.vlm.nll(self.batch, VisualTokens((visual_BQE,)))

    def noise(self, seed: int, scale: float) -> Tensor:
        """Visual tokens [B,Q,E] that are far apart, reproducible."""
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.batch), self.latents, self.vlm.llm.width)
        return (scale * torch.randn(shape, generator=generator)).to(self.vlm.device)

    def patch_positions(self) -> Tensor:
        """[B,Q] positions of the image tokens."""
        found_N2 = (self.batch.ids_BT == self.vlm.patch_id).nonzero()
        return found_N2[:, 1].view(len(self.batch), self.latents)


def flow_findings(walk: Walk) -> list[Finding]:
    """All stages; the findings of the first that is broken."""
    for stage in (_pixels, _connector, _fusion, _attention, _loss, _gradients, _company):
        found = stage(walk)
        if found:
            return found
    return []


@torch.no_grad()
def _pixels(walk: Walk) -> list[Finding]:
    """File to tower, and tower to features."""
    vlm, batch = walk.vlm, walk.batch
    with probe(vlm) as seen:
        features_BPV = walk.features_BPV
    if not seen.pixels:
        return [_unused("the vision tower is never called for a batch of images", tower_calls=0)]
    found = compare(torch.cat(seen.pixels), walk.references, [row.raw for row in walk.rows])
    if found:
        return found
    assert batch.pixels_BCHW is not None
    changed_BPV = vlm.features(replace(batch, pixels_BCHW=255 - batch.pixels_BCHW))
    if torch.equal(features_BPV, changed_BPV):
        return [
            _unused(
                "the tower's features do not change when every image is inverted",
                "check that the tower is called with this batch's pixels, and that no cached or constant tensor takes "
                "the place of its output",
                feature_change=0.0,
            )
        ]
    alone_BPV = torch.cat([features_1PV for _, features_1PV in walk.alone])
    return _order(
        own_row(features_BPV, alone_BPV),
        walk,
        "the tower's features",
        "look at how pixels are stacked into a batch and handed to the tower: a sort, a reversal or a reshape there",
    )


@torch.no_grad()
def _connector(walk: Walk) -> list[Finding]:
    """Features to visual tokens, as training and as scoring computes them."""
    vlm, batch, features_BPV = walk.vlm, walk.batch, walk.features_BPV
    visual_BQE = vlm.visual(features_BPV)
    if not bool(torch.isfinite(features_BPV).all() and torch.isfinite(visual_BQE).all()):
        if not bool(torch.isfinite(features_BPV).all()):
            fix = "look at the pixels that the tower is given and at its weights, then try model.precision fp32"
            return [_non_finite("the tower's features", fix)]
        fix = "look at the connector's initial weights, then try model.precision fp32"
        return [_non_finite("the visual tokens (the connector's output)", fix)]
    restless = _relative(vlm.visual(vlm.features(batch)), visual_BQE)
    if restless > _RESTLESS:
        return [
            finding(
                "loss-not-reproduced",
                "the same images give other visual tokens each time, in evaluation mode too (they differ by "
                f"{restless:.2g} times their size): something random is left on between the pixels and the visual "
                "tokens, so no score can be had twice",
                "look for dropout that `eval()` does not reach (a functional call, a module that was never registered) "
                "and for noise or augmentation in tower and connector",
                relative_difference=restless,
            )
        ]
    generator = torch.Generator().manual_seed(0)
    far_BPV = features_BPV + 3 * features_BPV.float().std() * torch.randn(features_BPV.shape, generator=generator).to(
        features_BPV
    )
    far_BPV = far_BPV.to(features_BPV.dtype)
    far_BQE = vlm.visual(far_BPV)
    if torch.equal(far_BQE, visual_BQE):
        return [
            _unused(
                "the visual tokens do not change when the tower's features do",
                "check that the connector is called with the tower's features, and that its weights are not zero",
                visual_change=0.0,
            )
        ]
    alone_BQE = torch.cat([vlm.visual(far_BPV[b : b + 1]) for b in range(len(far_BPV))])
    # Reversed samples in, reversed tokens out: then nothing is out of order, and what differs from a sample alone is
    # what its neighbours do to it.
    ordered = _relative(vlm.visual(far_BPV.flip(0)).flip(0), far_BQE) < 0.02
    if ordered and _relative(alone_BQE, far_BQE) > 0.1:
        return [
            finding(
                "batch-dependent",
                "the connector makes other visual tokens of an image when it is alone than when other images share its "
                f"batch (they differ by {_relative(alone_BQE, far_BQE):.2g} times their size)",
                "compute nothing over the batch dimension in the connector: no batch statistics, no mean over samples",
                relative_difference=_relative(alone_BQE, far_BQE),
            )
        ]
    found = _order(
        own_row(far_BQE, alone_BQE),
        walk,
        "the connector's visual tokens",
        "look inside the connector for a sort, a reversal, or a reshape that mixes samples",
    )
    if found:
        return found
    scored_BQE = vlm.encode(batch).layers[0]
    inverted = replace(batch, pixels_BCHW=255 - batch.pixels_BCHW) if batch.pixels_BCHW is not None else batch
    if torch.equal(vlm.encode(inverted).layers[0], scored_BQE):
        return [
            _unused(
                "encode(), which scoring calls, makes the same visual tokens of every image",
                "let encode() and the training step call the same tower and connector",
                visual_change=0.0,
            )
        ]
    swapped = own_row(scored_BQE, visual_BQE)
    if swapped:
        return _order(
            swapped,
            walk,
            "the visual tokens that encode() makes for scoring",
            "let encode() keep the batch's order and call the same tower and connector as the training step",
        )
    size = float(visual_BQE.float().pow(2).mean().sqrt()) or 1.0
    apart = float((scored_BQE.float() - visual_BQE.float()).abs().max()) / size
    if apart > 0.1:
        return [
            finding(
                "connector-not-loaded",
                f"scoring and training make different visual tokens of one image (they differ by up to {apart:.2g} "
                "times their RMS)",
                "let encode() and the training step call the same tower and connector",
                relative_difference=apart,
            )
        ]
    return []


def _order(swapped: dict[int, int], walk: Walk, what: str, fix: str) -> list[Finding]:
    if not swapped:
        return []
    b, other = next(iter(swapped.items()))
    rows = [row.sample.row for row in walk.rows]
    return [
        finding(
            "image-order",
            f"for {len(swapped)} of {len(rows)} samples of a batch, {what} are those of another sample, when compared "
            f"with each sample alone: row {rows[b]} has those of row {rows[other]}",
            fix,
            samples=len(swapped),
            of=len(rows),
        )
    ]


@torch.no_grad()
def _fusion(walk: Walk) -> list[Finding]:
    """Visual tokens to embeddings: every token at its own position, everything else untouched."""
    vlm, batch = walk.vlm, walk.batch
    given_BQE = walk.noise(1, vlm.llm.text_rms())
    with probe(vlm) as seen:
        walk.nll(given_BQE)
    if not seen.embeds:
        return [_not_injected("the language model is not called with embeddings", placed=0)]
    embeds_BTE = seen.embeds[-1].float().cpu()
    ids_BT, given = batch.ids_BT, given_BQE.float().cpu()
    text_BTE = vlm.llm.model.get_input_embeddings().weight[ids_BT.to(vlm.device)].float().cpu()
    # The last position may be left out: nothing is predicted from it.
    length = embeds_BTE.shape[1]
    if embeds_BTE.shape != text_BTE[:, :length].shape or length < text_BTE.shape[1] - 1:
        if len(batch) > 1 and (neighbours := _reached_by_another(walk, given_BQE)):
            return neighbours
        return [_not_injected(f"embeddings of shape {tuple(embeds_BTE.shape)} reach the language model", placed=0)]
    text_BTE = text_BTE[:, :length]
    found = _where_tokens_went(walk, embeds_BTE, text_BTE, given)
    if found:
        return found
    at_BQ = walk.patch_positions()
    real_BT = batch.attention_BT.cpu()[:, :length].clone()
    real_BT[torch.arange(len(batch))[:, None], at_BQ] = False
    off_BT = ((embeds_BTE - text_BTE).abs().amax(-1) > 1e-2 * text_BTE.abs().max()) & real_BT
    if not bool(off_BT.any()):
        return []
    b, t = off_BT.nonzero()[0].tolist()
    near = min(abs(t - int(p)) for p in at_BQ[b]) <= 1
    return [
        finding(
            "placeholder-offset" if near else "token-id-mismatch",
            f"{int(off_BT.sum())} text {agree(int(off_BT.sum()), 'position does', 'positions do')} not carry the "
            f"embedding of their own token, first position {t} of row {walk.rows[b].sample.row}, which is "
            f"{'next to' if near else 'outside'} the image block",
            "replace embeddings at image positions only, and embed every other id with the language model's own table",
            positions=int(off_BT.sum()),
        )
    ]


def _relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-12))


def _reached_by_another(walk: Walk, given_BQE: Tensor) -> list[Finding]:
    """Change the first sample's visual tokens: does another sample's loss change?"""
    changed_BQE = given_BQE.clone()
    changed_BQE[0] = walk.noise(4, walk.vlm.llm.text_rms())[0]
    before, after = walk.nll(given_BQE).per_sample(), walk.nll(changed_BQE).per_sample()
    moved = [b for b in range(1, len(before)) if not torch.allclose(before[b], after[b], atol=1e-3)]
    if not moved:
        return []
    return [
        finding(
            "batch-dependent",
            f"changing the picture of one sample changes the loss of {len(moved)} of the {len(before) - 1} other "
            "samples of its batch: they are read as one sequence",
            "let no sample attend to another: one sequence per row, or packing with a mask and positions of its own "
            "for each sample",
            samples=len(moved),
        )
    ]


def _where_tokens_went(walk: Walk, embeds_BTE: Tensor, text_BTE: Tensor, given_BQE: Tensor) -> list[Finding]:
    """Search each visual token of each sample among all positions of all samples."""
    at_BQ = walk.patch_positions()
    batch, positions, width = embeds_BTE.shape
    flat = F.normalize(embeds_BTE.reshape(-1, width), dim=-1)
    cosine = F.normalize(given_BQE.reshape(-1, width), dim=-1) @ flat.T
    # Random directions: in 32 dimensions the best of a thousand strangers stays below .8, a rounded copy above .999.
    best, where = cosine.max(dim=1)
    went: Counter[str] = Counter()
    shifts: Counter[int] = Counter()
    scales: list[float] = []
    for index, (similarity, place) in enumerate(zip(best.tolist(), where.tolist(), strict=True)):
        b, q = divmod(index, walk.latents)
        own = b * positions + int(at_BQ[b, q])
        if float(cosine[index, own]) > 0.99:
            went["own"] += 1
            scales.append(float(embeds_BTE[b, at_BQ[b, q]].norm() / given_BQE[b, q].norm()))
        elif similarity <= 0.99:
            went["nowhere"] += 1
        elif place // positions != b:
            went["other sample"] += 1
        else:
            went["beside"] += 1
            shifts[place % positions - int(at_BQ[b, q])] += 1
    total = batch * walk.latents
    if went["other sample"]:
        return [
            finding(
                "image-order",
                f"{went['other sample']} of {total} visual tokens are placed in another sample's text",
                "keep each sample's visual tokens in its own row when they are put into the embeddings",
                went=dict(went),
            )
        ]
    if went["beside"]:
        shift, count = shifts.most_common(1)[0]
        return [
            finding(
                "placeholder-offset",
                f"{went['beside']} of {total} visual tokens stand beside their image position, "
                f"{_many(count, went['beside'])} of them "
                f"{abs(shift)} {agree(abs(shift), 'position', 'positions')} too far {'right' if shift > 0 else 'left'}",
                "put visual token q at the q-th image position, in reading order",
                went=dict(went),
                most_common_shift=shift,
            )
        ]
    if went["nowhere"]:
        there = torch.stack([embeds_BTE[b, at_BQ[b]] for b in range(batch)])
        text = torch.stack([text_BTE[b, at_BQ[b]] for b in range(batch)])
        instead = "the placeholder token's own embedding" if torch.allclose(there, text) else "something else"
        return [
            _not_injected(
                f"{went['nowhere']} of {total} are not in its input embeddings, and at image positions it reads "
                f"{instead}",
                placed=went["own"],
                of=total,
            )
        ]
    scale = sum(scales) / len(scales)
    if not 0.97 < scale < 1.03:
        return [
            finding(
                "scale-mismatch",
                f"visual tokens are multiplied by {scale:.3g} on their way into the language model",
                "place the connector's output as it is",
                factor=scale,
            )
        ]
    return []


def _attention(walk: Walk) -> list[Finding]:
    """Embeddings to losses: the loss must depend on every image position, on its own sample, and on nothing ahead."""
    vlm = walk.vlm
    given_BQE = walk.noise(2, vlm.llm.text_rms())
    with torch.no_grad():
        first, second = walk.nll(given_BQE), walk.nll(walk.noise(3, vlm.llm.text_rms()))
    if len(first.nll_N) and torch.equal(first.nll_N, second.nll_N):
        what = "no loss changes when the visual tokens do, although they are in the input embeddings"
        return [_masked(what, 0, 1.0)]
    with probe(vlm, as_leaf=True) as seen, torch.enable_grad():
        nll = walk.nll(given_BQE)
        per_sample = nll.per_sample()
        leaf_BTE = seen.embeds[-1]
        if not nll.nll_N.requires_grad:
            return [_no_gradient("no gradient passes through the language model to its inputs", [], 0)]
        (grad_BTE,) = torch.autograd.grad(nll.nll_N.sum(), leaf_BTE, retain_graph=True)
        size_BT = grad_BTE.float().norm(dim=-1).cpu()
        labelled = torch.tensor([bool(row.targets) for row in walk.rows])
        slots_BQ = size_BT.gather(1, walk.patch_positions())[labelled]
        dead_Q = (slots_BQ == 0).all(dim=0)
        if bool(dead_Q.any()):
            return [
                _masked(
                    f"{_many(int(dead_Q.sum()), walk.latents)} image positions are hidden from every caption token",
                    int((~dead_Q).sum()),
                    float(dead_Q.float().mean()),
                )
            ]
        return _leaks(walk, per_sample, leaf_BTE)


def _leaks(walk: Walk, per_sample: list[Tensor], leaf_BTE: Tensor) -> list[Finding]:
    """What a loss must not depend on: other samples, and its own and later tokens."""
    b = next((b for b, losses_T in enumerate(per_sample) if len(losses_T)), None)
    if b is None:
        return []
    (own_BTE,) = torch.autograd.grad(per_sample[b].sum(), leaf_BTE, retain_graph=True)
    others = [o for o in range(len(per_sample)) if o != b and float(own_BTE[o].abs().max()) > 0]
    if others:
        row, other = walk.rows[b].sample.row, walk.rows[others[0]].sample.row
        return [
            finding(
                "image-order",
                f"the loss of row {row} depends on row {other}, which only shares its batch",
                "let no sample attend to another: one sequence per row, no packing without its own mask",
                samples=len(others),
            )
        ]
    start = walk.rows[b].answer_start()
    if start is None or start >= len(walk.rows[b].ids) - 1 or len(per_sample[b]) < 2:
        return []
    first = per_sample[b][0]
    (ahead_BTE,) = torch.autograd.grad(first, leaf_BTE, retain_graph=True)
    seen_T = ahead_BTE[b].float().abs().amax(-1).cpu()
    behind_T = seen_T[max(start, walk.rows[b].labelled[0]) + 1 :]
    if bool((behind_T > 0).any()):
        return [
            finding(
                "labels-unshifted",
                "the loss of the first caption token depends on the caption tokens after it, so the answer can be "
                "copied instead of predicted",
                "use causal attention in the language model",
                row=walk.rows[b].sample.row,
            )
        ]
    return []


@torch.no_grad()
def _loss(walk: Walk) -> list[Finding]:
    """The loss against a cross-entropy of our own from full logits, at several shifts."""
    vlm = walk.vlm
    with probe(vlm) as seen:
        nll = walk.nll(vlm.visual(walk.features_BPV))
    per_sample = [losses_T.float().cpu() for losses_T in nll.per_sample()]
    if not bool(torch.isfinite(nll.nll_N).all()):
        fix = "look at the embeddings and weights of model.llm, then try model.precision fp32"
        return [_non_finite("the loss", fix)]
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
            return []  # no caption is where it should be: the text checks have said so
        return [
            finding(
                "labels-shifted",
                "the loss is not the cross-entropy of the caption's tokens at t with the logits at any position from "
                f"t-3 to t+1 (best agreement {100 * agreed[best]:.0f}% of tokens)",
                "compare the loss with torch's cross_entropy of the logits at t-1 and the id at t",
                **evidence,
            )
        ]
    if best == -1:
        return []
    code, where, what = _LOSS_SAYS[best]
    fix = "compare the logits at position t-1 with the id at t: shift exactly once, in the labels or in the loss"
    said = f"the loss is the cross-entropy of the logits at {where} with the token at t, where t-1 is right: {what}"
    return [finding(code, said, fix, **evidence)]


def _agreement(rows: Sequence[Row], per_sample: list[Tensor], log_p_BTK: Tensor, shift: int) -> float:
    """Share of the caption tokens' losses that equal our own at this shift, best over small offsets in the list."""
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
        # From the front, or from the end where prompt tokens are labelled too.
        offsets = {o + base for o in range(-2, 3) for base in (0, len(expected) - len(losses_T))}
        equal += max(_matches(losses_T.tolist(), expected, offset) for offset in offsets)
        total += min(len(expected), len(losses_T))
    return equal / total if total else 0.0


def _matches(got: list[float], expected: list[float], offset: int) -> int:
    pairs = [(got[i], expected[i + offset]) for i in range(len(got)) if 0 <= i + offset < len(expected)]
    # A bfloat16 model rounds logits to 8 bits; two ways through the same weights then differ in the second digit.
    return sum(abs(a - b) <= 2e-3 + 0.02 * abs(b) for a, b in pairs)


def _gradients(walk: Walk) -> list[Finding]:
    """One backward pass as in training: every parameter of the connector learns, and nothing else does."""
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
        return [_no_gradient(f"the connector's {still[0]} is frozen", still, len(names))]
    with torch.enable_grad():
        nll = walk.nll(vlm.visual(vlm.features(walk.batch)))
        if not nll.nll_N.requires_grad:
            return [_no_gradient("the loss does not depend on any trained parameter", list(names), len(names))]
        grads = torch.autograd.grad(nll.nll_N.sum(), list(names.values()), allow_unused=True)
    bad = [name for name, g in zip(names, grads, strict=True) if g is not None and not bool(torch.isfinite(g).all())]
    if bad:
        fix = "look at the loss of each sample, then try model.precision fp32"
        return [_non_finite(f"the gradient of the connector's {bad[0]}", fix)]
    none = [name for name, g in zip(names, grads, strict=True) if g is None or not bool(g.any())]
    if none:
        return [_no_gradient(f"no gradient reaches the connector's {none[0]}", none, len(names))]
    return []


@torch.no_grad()
def _company(walk: Walk) -> list[Finding]:
    """A sample's loss must not depend on who shares its batch, in which order, or on padding."""
    vlm = walk.vlm
    together = [part.float().sum() for part in walk.nll(vlm.visual(walk.features_BPV)).per_sample()]
    alone = [
        vlm.nll(single, VisualTokens((vlm.visual(features_1PV),))).nll_N.float().sum()
        for single, features_1PV in walk.alone
    ]
    loose = 0.05 if next(vlm.llm.parameters()).dtype == torch.bfloat16 else 2e-3
    apart = [
        b
        for b, (a, t) in enumerate(zip(alone, together, strict=True))
        if abs(float(a) - float(t)) > loose * max(1.0, abs(float(a)))
    ]
    if not apart:
        return []
    b = apart[0]
    return [
        finding(
            "image-order",
            f"the loss of row {walk.rows[b].sample.row} is {float(alone[b]):.4f} nats alone and "
            f"{float(together[b]):.4f} in a batch of {len(walk.rows)}: samples get what belongs to others, or padding "
            "is read",
            "keep ids, labels and images of a batch in one order, and pad on the right",
            samples=len(apart),
            of=len(walk.rows),
        )
    ]


def _unused(what: str, fix: str = _PASS_ON, **evidence: Any) -> Finding:
    return finding("pixels-unused", f"the images are not used: {what}", fix, **evidence)


def _many(count: int, of: int) -> str:
    return f"all {of}" if count == of else f"{count} of the {of}"


def _not_injected(what: str, **evidence: Any) -> Finding:
    fix = "put the visual tokens into the embeddings at the image positions, and pass these embeddings to the model"
    return finding("not-injected", f"the visual tokens do not reach the language model: {what}", fix, **evidence)


def _masked(what: str, seen: int, share: float) -> Finding:
    fix = "let the attention mask be true at image positions, and let no bias hide them"
    return finding("image-masked", f"attention cannot see the image: {what}", fix, positions_seen=seen, hidden=share)


def _non_finite(where: str, fix: str) -> Finding:
    return finding("non-finite", f"there is NaN or infinity in {where} before any training", fix, where=where)


def _no_gradient(what: str, names: list[str], of: int) -> Finding:
    which = f"{len(names)} of the connector's {of} parameter tensors" if names else "the connector"
    return finding(
        "no-gradient",
        f"{what}, so training would not move {which}",
        "keep the path from the loss to the connector differentiable: no detach, no no_grad, requires_grad on every "
        "parameter of the connector",
        parameters=names[:8],
        count=len(names),
        of=of,
    )
