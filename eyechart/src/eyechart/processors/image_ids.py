"""Finds the token id of image positions: from the config, the processor, token types, or the ids of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from eyechart.processors.arrays import AnyArray, matrix_of

_OF_CONFIG = ("image_token_id", "image_token_index", "image_patch_id")
_SHORTEST_RUN = 4
"""Minimum length of a run of equal ids that counts as image positions if nothing else identifies them."""


class IdSource(Enum):
    """Where the id of image positions was found."""

    CONFIG = "the model's config"
    PROCESSOR = "the processor"
    TOKEN_TYPES = "the token types of the batch"
    RUNS = "the longest run of equal ids in the batch"
    NONE = "nowhere"


@dataclass(frozen=True)
class ImageId:
    """The token id of an image position."""

    id: int | None
    """The id; None if it could not be found."""
    source: IdSource
    """Where it was found."""


def find_image_id(
    ids_BT: AnyArray, attended_BT: AnyArray, batch: Mapping[str, Any], processor: Any, config: Any
) -> ImageId:
    """Return the id of image positions.

    If config and processor name several ids, the first one that occurs in the batch is used, or simply the first if
    none does: Gemma 3's processor first names the id that precedes an image. If neither names an id, a batch with
    images is searched by its token types, then by its longest run of equal ids.

    Args:
        ids_BT: token ids, [B, T].
        attended_BT: positions that are not padding, [B, T].
        batch: the batch.
        processor: the processor or tokenizer, or None.
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
    """Return the ids that config and processor name as image positions, without repetition; both may be None."""
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
    """Return the id of most positions of type 1; None if no id has most, as in PaliGemma, where it marks answers."""
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
