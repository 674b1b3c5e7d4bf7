"""Faults of code: which tokens carry a label, and what each position is made to predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fault_site import Case, Change, human_turns, swap
from qwen3_vlm.batch import IGNORE_INDEX, IntArray, TokenNLL
from qwen3_vlm.data.prompt import Encoded

_PROMPT = "qwen3_vlm.data.prompt"
_NLL = "qwen3_vlm.models.llm.LanguageModel.nll"


def labels(change: Callable[[Encoded, IntArray], IntArray]) -> Change:
    """Every row's labels, changed behind the product's own masking."""
    return swap(f"{_PROMPT}.Encoded.labels_T", lambda raw: property(lambda row: change(row, raw.fget(row))))


def _masked(where: Callable[[Encoded], slice | IntArray]) -> Callable[[Encoded, IntArray], IntArray]:
    def change(row: Encoded, labels_T: IntArray) -> IntArray:
        labels_T[where(row)] = IGNORE_INDEX
        return labels_T

    return change


def _unmasked(where: Callable[[Encoded], slice]) -> Callable[[Encoded, IntArray], IntArray]:
    def change(row: Encoded, labels_T: IntArray) -> IntArray:
        labels_T[where(row)] = row.ids_T[where(row)]
        return labels_T

    return change


def _moved(by: int) -> Callable[[Encoded, IntArray], IntArray]:
    def change(row: Encoded, labels_T: IntArray) -> IntArray:
        moved_T = np.roll(labels_T, by)
        moved_T[: max(by, 0)] = IGNORE_INDEX
        moved_T[len(moved_T) + min(by, 0) :] = IGNORE_INDEX
        return moved_T

    return change


def _marker_not_found(row: Encoded, labels_T: IntArray) -> IntArray:
    """A collator that searches for the answer's first tokens, and masks the row where it does not find them."""
    if int(row.answer_N.sum()) % 5 == 0:
        labels_T[:] = IGNORE_INDEX
    return labels_T


def _whole_prompt_but_image(row: Encoded, labels_T: IntArray) -> IntArray:
    start, end = row.block
    labels_T[1:start] = row.ids_T[1:start]
    labels_T[end:] = row.ids_T[end:]
    return labels_T


def _nll(hidden_from: int, labels_from: int) -> Change:
    """The language model's loss with hidden states and targets paired at other positions than one apart."""

    def nll(self: Any, embeds_BTE: Tensor, labels_BT: Tensor, behind: Any = None) -> TokenNLL:
        read = self.model.model(inputs_embeds=embeds_BTE, past_key_values=behind, use_cache=behind is not None)
        hidden_BTE = read.last_hidden_state
        targets_BT = labels_BT[:, labels_from:]
        hidden_BTE = hidden_BTE[:, hidden_from : hidden_from + targets_BT.shape[1]]
        keep_BT = targets_BT != IGNORE_INDEX
        logits_NK = self.model.lm_head(hidden_BTE[keep_BT]).float()
        nll_N = F.cross_entropy(logits_NK, targets_BT[keep_BT], reduction="none")
        return TokenNLL(nll_N, keep_BT.sum(dim=1))

    return swap(_NLL, lambda original: nll)


def _everything_visible(original: Any) -> Any:
    """A mask of zeros: attention over the whole sequence instead of what stands before."""

    def mask(**options: Any) -> Tensor:
        embeds_BTE = options.get("inputs_embeds", options.get("input_embeds"))
        cache = options.get("past_key_values")
        before = cache.get_seq_length() if cache is not None else 0
        batch, length, _ = embeds_BTE.shape
        everything_B1TT: Tensor = embeds_BTE.new_zeros(batch, 1, length, before + length)
        return everything_B1TT

    return mask


def _packed(original: Any) -> Any:
    """The batch as one sequence, without a border between the samples: each sees all before it."""

    def nll(self: Any, embeds_BTE: Tensor, labels_BT: Tensor, behind: Any = None) -> TokenNLL:
        if behind is not None:
            result: TokenNLL = original(self, embeds_BTE, labels_BT, behind)
            return result
        joined = original(self, embeds_BTE.flatten(0, 1)[None], labels_BT.flatten()[None])
        return TokenNLL(joined.nll_N, (labels_BT != IGNORE_INDEX).sum(dim=1))

    return nll


LABELS = (
    Case(
        "all-labels-masked",
        "no-labels",
        "every label is masked: the loss is 0",
        change=labels(_masked(lambda row: slice(None))),
    ),
    Case(
        "marker-not-found",
        "no-labels",
        "one row in five is masked entirely",
        change=labels(_marker_not_found),
    ),
    Case(
        "eos-masked-as-pad",
        "eos-unlabelled",
        "labels equal to the pad id are masked, and pad is EOS",
        change=labels(_masked(lambda row: np.flatnonzero(row.ids_T == row.answer_N[-1]))),
    ),
    Case(
        "prompt-not-masked",
        "prompt-labelled",
        "the whole text prompt carries labels, the image does not",
        set_up=human_turns,
        change=labels(_whole_prompt_but_image),
    ),
    Case(
        "text-behind-image-labelled",
        "prompt-labelled",
        "the mask ends at the image block",
        world="digits",
        change=labels(_unmasked(lambda row: slice(row.block[1], None))),
    ),
    Case(
        "image-not-masked",
        "image-labelled",
        "the patch positions carry labels",
        change=labels(_unmasked(lambda row: slice(row.block[0] + 1, row.block[1] - 1))),
    ),
    Case(
        "labels-are-the-ids",
        "image-labelled",
        "labels are a copy of the ids, prompt and image included",
        set_up=human_turns,
        change=labels(_unmasked(lambda row: slice(1, None))),
        also=("prompt-labelled",),
    ),
    Case(
        "first-three-masked",
        "answer-partly-labelled",
        "the mask reaches three tokens into the answer",
        change=labels(_masked(lambda row: slice(len(row.prompt.ids_T), len(row.prompt.ids_T) + 3))),
    ),
    Case(
        "first-token-masked",
        "answer-partly-labelled",
        "the mask is one token too long",
        world="digits",
        change=labels(_masked(lambda row: slice(len(row.prompt.ids_T), len(row.prompt.ids_T) + 1))),
    ),
    Case(
        "not-shifted-in-loss", "labels-unshifted", "the loss pairs each position with its own token", change=_nll(0, 0)
    ),
    Case(
        "labels-moved-right",
        "labels-unshifted",
        "labels are shifted right in the data: with the shift in the loss, each token is predicted from itself",
        change=labels(_moved(1)),
    ),
    Case(
        "shifted-twice",
        "labels-shifted",
        "labels are shifted left in the data, and again in the loss",
        change=labels(_moved(-1)),
        set_up=human_turns,
    ),
    Case(
        "two-ahead", "labels-shifted", "the loss pairs each position with the token behind the next", change=_nll(0, 2)
    ),
    Case(
        "attention-both-ways",
        "leak",
        "the language model's attention is not causal: each position sees the answer behind it",
        change=swap("transformers.models.qwen3.modeling_qwen3.create_causal_mask", _everything_visible),
        also=("labels-unshifted",),
    ),
    Case(
        "packed-without-borders",
        "batch-dependent",
        "the samples of a batch are packed into one sequence, and attention is not reset between them",
        change=swap(_NLL, _packed),
        also=("leak",),
    ),
)
