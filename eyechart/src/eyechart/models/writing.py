"""Generates captions with a model's own `generate` method, by greedy decoding after the prompt of each row."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from eyechart.models.scorer import TransformersScorer
from eyechart.seam import IGNORE_INDEX, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def write_captions(
    scorer: TransformersScorer, tokenizer: PreTrainedTokenizerBase, batch: Batch, max_new_tokens: int = 64
) -> list[str]:
    """Return one generated caption for each sample of a batch with pixels, in the order of the samples.

    Only prompts of equal length are put into one batch. They need no padding, which affects position ids differently in
    different models.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for index, sample in enumerate(batch.samples):
        groups[int((sample.labels_T == IGNORE_INDEX).sum())].append(index)
    written: dict[int, str] = {}
    for places in groups.values():
        written |= dict(zip(places, _write(scorer, tokenizer, batch.rows(places), max_new_tokens), strict=True))
    return [written[index] for index in range(len(batch))]


def _write(
    scorer: TransformersScorer, tokenizer: PreTrainedTokenizerBase, batch: Batch, max_new_tokens: int
) -> list[str]:
    assert batch.pixels_BCHW is not None, "a text-only batch has no images to write about"
    end_id = scorer.prompts.ending.end_id
    prompts = [torch.from_numpy(sample.ids_T[sample.labels_T == IGNORE_INDEX]) for sample in batch.samples]
    ids_BT = torch.stack(prompts)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end_id, pad_token_id=scorer.prompts.begin_id
    )
    model: Any = scorer.model
    inputs = scorer.prompt_inputs(ids_BT) | scorer.pixels(batch.pixels_BCHW)
    out_BT = model.generate(**inputs, generation_config=settings)
    new = [row[: row.index(end_id)] if end_id in row else row for row in out_BT[:, ids_BT.shape[1] :].tolist()]
    return [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in new]
