"""Faults of the code for the loss: what each position predicts, which tokens it sees, and how its loss is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.seam import IGNORE_INDEX, TokenNLL
from fault_site import Case, Change, swap, take_base

_NLL = "qwen3_vlm.models.llm.LanguageModel.nll"


def _paired(hidden_from: int, labels_from: int) -> Change:
    """Pair hidden states and targets in the language model's loss with an offset other than 1."""

    def nll(self: Any, embeds_BTE: Tensor, labels_BT: Tensor, past: Any = None) -> TokenNLL:
        read = self.model.model(inputs_embeds=embeds_BTE, past_key_values=past, use_cache=past is not None)
        hidden_BTE = read.last_hidden_state
        targets_BT = labels_BT[:, labels_from:]
        hidden_BTE = hidden_BTE[:, hidden_from : hidden_from + targets_BT.shape[1]]
        keep_BT = targets_BT != IGNORE_INDEX
        logits_NK = self.model.lm_head(hidden_BTE[keep_BT]).float()
        nll_N = F.cross_entropy(logits_NK, targets_BT[keep_BT], reduction="none")
        return TokenNLL(nll_N, keep_BT.sum(dim=1))

    return swap(_NLL, lambda original: nll)


def _judged(loss: Callable[[Tensor, Tensor], Tensor]) -> Change:
    """Pair positions correctly, but compute a different loss, `loss(logits_NK, targets_N)`."""

    def nll(self: Any, embeds_BTE: Tensor, labels_BT: Tensor, past: Any = None) -> TokenNLL:
        read = self.model.model(inputs_embeds=embeds_BTE[:, :-1], past_key_values=past, use_cache=past is not None)
        targets_BT = labels_BT[:, 1:]
        keep_BT = targets_BT != IGNORE_INDEX
        logits_NK = self.model.lm_head(read.last_hidden_state[keep_BT]).float()
        return TokenNLL(loss(logits_NK, targets_BT[keep_BT]), keep_BT.sum(dim=1))

    return swap(_NLL, lambda original: nll)


def _focal(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    nll_N = F.cross_entropy(logits_NK, targets_N, reduction="none")
    return nll_N * (1 - torch.exp(-nll_N)) ** 2


def _seeing_ahead(tokens: int) -> Change:
    """Use an attention mask with which each position also sees this many later tokens."""

    def mask(**options: Any) -> Tensor:
        embeds_BTE: Tensor = options["inputs_embeds" if "inputs_embeds" in options else "input_embeds"]
        cache = options.get("past_key_values")
        before = cache.get_seq_length() if cache is not None else 0
        batch, length, _ = embeds_BTE.shape
        hidden_TT = torch.ones(length, before + length, dtype=torch.bool).triu(before + tokens + 1)
        mask_TT = torch.zeros(hidden_TT.shape, dtype=embeds_BTE.dtype).masked_fill(hidden_TT, -torch.inf)
        whole_B1TT: Tensor = mask_TT.expand(batch, 1, -1, -1)
        return whole_B1TT

    return swap("transformers.models.qwen3.modeling_qwen3.create_causal_mask", lambda original: mask)


LOSS = (
    Case(
        "not-shifted-in-loss",
        "labels-unshifted",
        "the loss pairs each position with its own token",
        change=_paired(0, 0),
    ),
    Case(
        "two-ahead",
        "labels-shifted",
        "the loss pairs each position with the token after the next",
        change=_paired(0, 2),
    ),
    Case(
        "label-smoothing",
        "loss-altered",
        "the loss has label smoothing 0.2",
        change=_judged(
            lambda logits_NK, targets_N: F.cross_entropy(logits_NK, targets_N, reduction="none", label_smoothing=0.2)
        ),
    ),
    Case(
        "focal-loss",
        "loss-altered",
        "a focal loss in training: tokens that are known weigh next to nothing; scoring is plain",
        "training",
        change=_judged(_focal),
    ),
    Case(
        "temperature",
        "loss-altered",
        "logits are halved before the loss, by a temperature that was left over from generation",
        "evaluation",
        take_base,
        _judged(lambda logits_NK, targets_N: F.cross_entropy(logits_NK / 2, targets_N, reduction="none")),
        also=("loss-not-reproduced",),
    ),
    Case(
        "one-token-ahead",
        "labels-unshifted",
        "the causal mask is off by one: the next token is visible",
        "evaluation",
        take_base,
        _seeing_ahead(1),
        also=("leak",),
    ),
    Case(
        "attention-both-ways",
        "leak",
        "the language model's attention is not causal: each position sees the answer after it",
        change=_seeing_ahead(1_000_000),
        also=("labels-unshifted",),
    ),
)
