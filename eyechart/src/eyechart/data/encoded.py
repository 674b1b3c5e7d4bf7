"""Represents a row as token ids (first the prompt with the image block, then the answer) and sets its labels.

The image block consists of the ids that an image occupies in the prompt: its start and end tokens, and one id for each
visual token. The labels that this module sets decide which tokens count in the loss.

Dimension suffixes: T positions of the sequence, N tokens of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eyechart.seam import IGNORE_INDEX, IntArray

IMAGE_CUT = "image block cut by max_seq_len"
"""The reason for rejecting a row whose image block is truncated.

Check 2 (truncation and labels) fails if any row is rejected for this reason.
"""


class Prompt(NamedTuple):
    """The tokens before a caption, including the image block."""

    ids_T: IntArray
    block: tuple[int, int]
    """The image block is ids_T[block[0]:block[1]], including its start and end tokens."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as token ids.

    Rows with the same human turn share one `Prompt` object. To save memory, the arrays of the whole row are only built
    when they are used.
    """

    prompt: Prompt
    answer_N: npt.NDArray[np.int32]
    """The ids of the caption and EOS, before truncation."""
    max_seq_len: int

    @property
    def ids_T(self) -> IntArray:
        """The token ids of prompt, caption and EOS, truncated on the right to max_seq_len."""
        return np.concatenate([self.prompt.ids_T, self.answer_N.astype(np.int64)])[: self.max_seq_len]

    @property
    def labels_T(self) -> IntArray:
        """The labels, not shifted: IGNORE_INDEX for the prompt, and the ids themselves for caption and EOS."""
        labels_T = self.ids_T
        labels_T[: len(self.prompt.ids_T)] = IGNORE_INDEX
        return labels_T

    @property
    def block(self) -> tuple[int, int]:
        """The start and end of the image block in `ids_T`."""
        return self.prompt.block

    @property
    def full_length(self) -> int:
        """The number of tokens before truncation."""
        return len(self.prompt.ids_T) + len(self.answer_N)

    @property
    def wrapper_tokens(self) -> int:
        """The number of prompt tokens outside the image block."""
        return len(self.prompt.ids_T) - (self.block[1] - self.block[0])
