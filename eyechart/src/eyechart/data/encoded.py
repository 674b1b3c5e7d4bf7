"""A row as token ids: the prompt with the image block, then the answer. This module decides which ids are labelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eyechart.seam import IGNORE_INDEX, IntArray

IMAGE_CUT = "image block cut by max_seq_len"
"""The reason for rejecting a row whose image block is truncated; check 2 fails if there is any such row."""


class Prompt(NamedTuple):
    """The tokens before a caption."""

    ids_T: IntArray
    block: tuple[int, int]
    """The image block is ids_T[block[0]:block[1]], delimiters included."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as token ids. The arrays are built on demand, because rows with the same human turn share one prompt."""

    prompt: Prompt
    answer_N: npt.NDArray[np.int32]
    """Caption and EOS, before truncation."""
    max_seq_len: int

    @property
    def ids_T(self) -> IntArray:
        """Token ids of prompt, caption and EOS, truncated on the right to max_seq_len."""
        return np.concatenate([self.prompt.ids_T, self.answer_N.astype(np.int64)])[: self.max_seq_len]

    @property
    def labels_T(self) -> IntArray:
        """Labels: `ids_T` after the prompt, IGNORE_INDEX in the prompt. They are not shifted."""
        labels_T = self.ids_T
        labels_T[: len(self.prompt.ids_T)] = IGNORE_INDEX
        return labels_T

    @property
    def block(self) -> tuple[int, int]:
        """Start and end of the image block in `ids_T`."""
        return self.prompt.block

    @property
    def full_length(self) -> int:
        """Number of tokens before truncation."""
        return len(self.prompt.ids_T) + len(self.answer_N)

    @property
    def wrapper_tokens(self) -> int:
        """Number of prompt tokens outside the image block."""
        return len(self.prompt.ids_T) - (self.block[1] - self.block[0])
