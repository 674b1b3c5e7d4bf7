"""What a model writes for itself about a picture: greedy, through its own `generate`, behind the row's own prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from eyechart.models.loading import Foreign
from eyechart.seam import IGNORE_INDEX, Sample


@torch.no_grad()
def write_captions(foreign: Foreign, samples: Sequence[Sample], batch_size: int, max_new_tokens: int = 64) -> list[str]:
    """Captions of samples with pixels, in their order.

    Samples with equally long prompts go together, so that nothing is padded: models differ in what padding does to
    their positions.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[int((sample.labels_T == IGNORE_INDEX).sum())].append(index)
    written: dict[int, str] = {}
    for indices in groups.values():
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            written |= dict(zip(part, _write(foreign, [samples[i] for i in part], max_new_tokens), strict=True))
    return [written[index] for index in range(len(samples))]


def _write(foreign: Foreign, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
    scorer, end_id = foreign.scorer, foreign.prompts.ending.end_id
    ids_BT = torch.stack([torch.from_numpy(sample.ids_T[sample.labels_T == IGNORE_INDEX]) for sample in samples])
    pixels_BCHW = torch.stack([sample.pixels_CHW for sample in samples if sample.pixels_CHW is not None])
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end_id, pad_token_id=foreign.prompts.begin_id
    )
    model: Any = scorer.model
    out_BT = model.generate(**scorer.prompt_inputs(ids_BT), **scorer.pixels(pixels_BCHW), generation_config=settings)
    new = [row[: row.index(end_id)] if end_id in row else row for row in out_BT[:, ids_BT.shape[1] :].tolist()]
    return [str(foreign.processor.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in new]
