"""Finds the token id at image positions, the positions of a sequence at which the model inserts visual tokens.

The id comes from the model's config, the processor, the token types of the batch, or the token ids of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from eyechart.processors.arrays import AnyArray, matrix_of

_OF_CONFIG = ("image_token_id", "image_token_index", "image_patch_id")
_SHORTEST_RUN = 4
"""The minimum length of a run of equal ids that is taken for image positions if nothing else identifies them."""


class IdSource(Enum):
    """The places where the token id at image positions can be found."""

    CONFIG = "the model's config"
    PROCESSOR = "the processor"
    TOKEN_TYPES = "the token types of the batch"
    RUNS = "the longest run of equal ids in the batch"
    NONE = "nowhere"


@dataclass(frozen=True)
class ImageId:
    """The token id at image positions, and where it was found."""

    id: int | None
    """The token id; None if it was not found."""
    source: IdSource
    """Where the id was found."""


def find_image_id(
    ids_BT: AnyArray, attended_BT: AnyArray, batch: Mapping[str, Any], processor: Any, config: Any
) -> ImageId:
    """Return the token id at image positions.

    If config and processor name several ids, the first one that occurs in the batch is used. (Gemma 3's processor, for
    example, first names the id of the token that precedes an image.) If none of the ids occurs in the batch, the first
    one is used. If neither config nor processor names an id and the batch has images, the id is found by the token
    types, or otherwise by the longest run of equal ids.

    Args:
        ids_BT: the token ids, [B, T].
        attended_BT: True at positions that are not padding, [B, T].
        batch: the batch as the collator returns it.
        processor: the model's processor or tokenizer, or None.
        config: the model's config, or None.
    """
    named = [*_of_config(config), *_of_processor(processor)]
    present = [found for found in named if found.id is not None and (ids_BT == found.id).any()]
    if named:
        return (present or named)[0]
    if not any(str(key).startswith("pixel_values") and batch[key] is not None for key in batch):
        return ImageId(None, IdSource.NONE)
    return _of_types(ids_BT, batch) or _of_runs(ids_BT, attended_BT) or ImageId(None, IdSource.NONE)


def image_ids_of(processor: Any, config: Any) -> list[int]:
    """Return the distinct ids that config and processor name for image positions; both arguments may be None."""
    return list(
        dict.fromkeys(found.id for found in (*_of_config(config), *_of_processor(processor)) if found.id is not None)
    )


def _of_config(config: Any) -> Iterator[ImageId]:
    for name in _OF_CONFIG:
        value = getattr(config, name, None)
        if isinstance(value, int) and value >= 0:
            yield ImageId(value, IdSource.CONFIG)


def _of_processor(processor: Any) -> Iterator[ImageId]:
    tokenizer = getattr(processor, "tokenizer", processor)
    several = getattr(processor, "image_token_ids", None)
    values = [*several] if isinstance(several, list | tuple) else []
    values += [getattr(owner, "image_token_id", None) for owner in (tokenizer, processor)]
    token = getattr(processor, "image_token", None)
    if isinstance(token, str) and hasattr(tokenizer, "get_vocab"):
        values.append(tokenizer.get_vocab().get(token))
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            yield ImageId(value, IdSource.PROCESSOR)


def _of_types(ids_BT: AnyArray, batch: Mapping[str, Any]) -> ImageId | None:
    """Return the id at more than half of the positions with token type 1; None if there is no such id.

    There is none in PaliGemma, for example, because its type 1 marks answers.
    """
    for key in ("mm_token_type_ids", "token_type_ids"):
        types_BT = matrix_of(batch, key)
        if types_BT is None or types_BT.shape != ids_BT.shape or not (types_BT == 1).any():
            continue
        ids, counts = np.unique(ids_BT[types_BT == 1], return_counts=True)
        if counts.max() * 2 > counts.sum():
            return ImageId(int(ids[counts.argmax()]), IdSource.TOKEN_TYPES)
    return None


def _of_runs(ids_BT: AnyArray, attended_BT: AnyArray) -> ImageId | None:
    longest: dict[int, int] = {}
    for ids_T, attended_T in zip(ids_BT, attended_BT, strict=True):
        kept = ids_T[attended_T]
        if not len(kept):
            continue
        starts = np.flatnonzero(np.r_[True, kept[1:] != kept[:-1]])
        for start, stop in zip(starts, np.r_[starts[1:], len(kept)], strict=True):
            longest[int(kept[start])] = max(longest.get(int(kept[start]), 0), int(stop - start))
    if not longest or max(longest.values()) < _SHORTEST_RUN:
        return None
    return ImageId(max(longest, key=lambda token: longest[token]), IdSource.RUNS)
