"""Losses of several answers after one prompt and image, from one forward pass of the prompt.

    whole     prompt, image, answer 1 | prompt, image, answer 2 | ...
    shared    prompt, image -> keys and values -> answer 1 | answer 2 | ...

What a model keeps of a prompt differs between architectures: sliding windows, linear attention, position ids of
images, experts that are chosen by length. So nothing is assumed: for every length of a prompt, the longest answer so
far is also scored in a pass of the whole sequence. If a loss differs by more than the allowed difference, or if a pass
fails, the losses after that prompt are not used, and every prompt is read again for each answer from then on.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.models.scorer import TransformersScorer
from eyechart.seam import IGNORE_INDEX, Batch, TokenNLL, VisualTokens

_ALLOWED, _ALLOWED_EXPERTS = 1e-4, 5e-4
"""Allowed difference of a token's loss in nats, for one and for several experts: those of docs/models.md."""


class Prefixes:
    """Scores answers of a model of transformers after shared prompts, as long as that changes no loss."""

    def __init__(self, scorer: TransformersScorer, rows: int) -> None:
        """Score with `scorer`, with up to `rows` answers in a forward pass."""
        self._scorer, self._rows = scorer, rows
        self._allowed = _ALLOWED_EXPERTS if _has_experts(scorer.model.config) else _ALLOWED
        self._compared: dict[int, int] = {}
        """By length of a prompt, the length of the longest sequence whose losses were compared."""
        self.why_not = ""
        """Why a prompt is read again for each of its answers; empty as long as prompts are shared."""

    @torch.no_grad()
    def nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        """Implement `PairScorer.pair_nll`.

        Args:
            batch: captions with label tokens, each after its prompt; without images.
            visual: visual tokens of the images.
            images_B: for each row of `batch`, the position of its image in `visual`.
        """
        found: dict[int, Tensor] = {}
        for prompt, places in _groups(batch, images_B):
            if not self.why_not:
                seen = visual.rows([images_B[places[0]]])
                found |= self._shared(batch, prompt, places, seen)
        rest = [place for place in range(len(batch)) if place not in found]
        for start in range(0, len(rest), self._rows):
            some = rest[start : start + self._rows]
            whole = self._scorer.nll(_narrow(batch, some), visual.rows([images_B[place] for place in some]))
            found |= dict(zip(some, whole.per_sample(), strict=True))
        losses = [found[place] for place in range(len(batch))]
        return TokenNLL(torch.cat(losses), torch.tensor([len(nll_T) for nll_T in losses]))

    def _shared(self, batch: Batch, prompt: int, places: list[int], seen: VisualTokens) -> dict[int, Tensor]:
        """Return the losses of rows that have the same image and the same first `prompt` ids; empty if they differ."""
        longest = max(places, key=lambda place: int(batch.lengths_B[place]))
        length = int(batch.lengths_B[longest])
        whole_N = None
        if length > self._compared.get(prompt, 0):
            whole_N = self._scorer.nll(_narrow(batch, [longest]), seen).nll_N
        try:
            first_K, past = self._read(batch.ids_BT[places[:1], :prompt], seen)
            found: dict[int, Tensor] = {}
            for start in range(0, len(places), self._rows):
                some = places[start : start + self._rows]
                found |= dict(zip(some, self._answers(_narrow(batch, some), prompt, first_K, past), strict=True))
        except Exception as error:  # noqa: BLE001 - an unknown model may raise any; sequences are read whole
            self.why_not = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return {}
        if whole_N is not None:
            difference = _difference(found[longest], whole_N)
            if not difference <= self._allowed:
                self.why_not = f"after a shared prompt of {prompt} tokens, a loss differs by {difference:.2g} nats"
                return {}
            self._compared[prompt] = length
        return found

    def _read(self, ids_1P: Tensor, seen: VisualTokens) -> tuple[Tensor, Any]:
        """Read a prompt with its image; return the logits [K] after its last token, and what the model keeps of it."""
        inputs = {**self._scorer.prompt_inputs(ids_1P), **self._scorer.placeholder(1), "use_cache": True}
        if self._scorer.takes("logits_to_keep"):
            inputs["logits_to_keep"] = 1
        with self._scorer.giving(inputs, seen.map(lambda layer: layer.to(self._scorer.device))) as given:
            out = self._scorer.model(**given)
        return out.logits[0, -1].float(), out.past_key_values

    def _answers(self, batch: Batch, prompt: int, first_K: Tensor, past: Any) -> list[Tensor]:
        """Return the losses [T_i] of rows whose first `prompt` ids have been read."""
        logits_BAK = first_K.expand(len(batch), 1, -1)
        # Nothing is predicted from the last position, so it is left out.
        if batch.ids_BT.shape[1] - 1 > prompt:
            kept = copy.deepcopy(past)  # a pass adds the answers of these rows to it
            kept.batch_repeat_interleave(len(batch))
            read = self._scorer.text_inputs(batch.ids_BT, batch.labels_BT, batch.lengths_B)
            # Padding is on the right, where no token sees it, so that no mask is needed. With a mask, Qwen2.5-VL makes
            # position ids for the prompt as well.
            answers = {key: value[:, prompt:-1] for key, value in read.items() if key != "attention_mask"}
            out = self._scorer.model(**answers, past_key_values=kept, use_cache=True)
            logits_BAK = torch.cat([logits_BAK, out.logits.float()], dim=1)
        targets_BA = batch.labels_BT[:, prompt:].to(logits_BAK.device)
        keep_BA = targets_BA != IGNORE_INDEX
        nll_N = F.cross_entropy(logits_BAK[keep_BA], targets_BA[keep_BA], reduction="none")
        return list(torch.split(nll_N, keep_BA.sum(dim=1).tolist()))


def _groups(batch: Batch, images_B: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Yield the length of a prompt, and the rows that have it and one image in common, if there are several."""
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    labelled_BT = batch.labels_BT != IGNORE_INDEX
    for place in range(len(batch)):
        if bool(labelled_BT[place].any()):
            prompt = int(labelled_BT[place].int().argmax())
            found[images_B[place], *batch.ids_BT[place, :prompt].tolist()].append(place)
    for (_, *prompt_ids), places in found.items():
        if prompt_ids and len(places) > 1:
            yield len(prompt_ids), places


def _narrow(batch: Batch, places: Sequence[int]) -> Batch:
    """Return some rows of a batch without the columns that are padding in all of them."""
    some = batch.rows(places)
    width = int(some.lengths_B.max())
    columns = {name: getattr(some, name)[:, :width] for name in ("ids_BT", "labels_BT", "block_BT")}
    return replace(some, **columns)


def _difference(one_N: Tensor, other_N: Tensor) -> float:
    """Return the largest difference; losses that are not numbers in both are equal."""
    both_N = one_N.isnan() & other_N.isnan()
    return float((one_N - other_N).masked_fill(both_N, 0.0).abs().max())


def _has_experts(config: Any) -> bool:
    """Return whether a configuration, or a part of it, has several experts."""
    numbers = config.to_dict() if hasattr(config, "to_dict") else {}

    def among(tree: Mapping[str, Any]) -> bool:
        return any(
            among(value)
            if isinstance(value, Mapping)
            else "experts" in str(key) and isinstance(value, int) and value > 1
            for key, value in tree.items()
        )

    return among(numbers)
