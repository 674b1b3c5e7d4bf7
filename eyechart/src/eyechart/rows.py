"""Defines the types for a row of a data set, for the sample or `Reject` made from it, and for the counts of check 2.

Check 2 counts truncated samples and samples without labels. Dimension suffixes: see `eyechart.seam`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from eyechart.stored import opened

if TYPE_CHECKING:
    from torch import Tensor

IGNORE_INDEX = -100
"""The label of a position that the loss ignores (the default of `ignore_index` in PyTorch's `F.cross_entropy`)."""

PLACEHOLDER = "<image>"
"""The text that marks the position of an image in a turn."""

IntArray = npt.NDArray[np.int64]
Grid = tuple[tuple[int, ...], ...]
"""For each image of a sample, the shape of its grid of visual tokens; the product of the shape is the number of
tokens."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    parts: tuple[str | int, ...]
    """The parts in order: a string is text, and an integer is the index of an image in `Row.images`."""

    @property
    def text(self) -> str:
        """The turn as text, with `<image>` at the position of each image."""
        return "".join(part if isinstance(part, str) else PLACEHOLDER for part in self.parts)


def parts_of(text: str, first: int = 0) -> tuple[str | int, ...]:
    """Split text at `<image>` into the parts of a turn.

    White space next to an image is removed, because it differs between data layouts and chat templates add their own.

    Args:
        text: the text, in which `<image>` may occur any number of times.
        first: the index that the first image in the text gets.
    """
    pieces = text.split(PLACEHOLDER)
    if len(pieces) == 1:
        return (text,) if text else ()
    parts: list[str | int] = []
    for index, piece in enumerate(pieces):
        parts += [first + index - 1] if index else []
        parts += [piece.strip()] if piece.strip() else []
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set, as read from the file and without any model's processing: a conversation with its images.

    Most rows have one image, one question and one answer, stored in `image`, `human` and `caption`. Other rows store
    their turns in `conversation`; only `data.reader.open_rows` returns such rows. `turns` and `images` describe rows of
    both kinds.
    """

    row: int
    """The index of the row in the data set, from 0, which identifies it in results. Blank lines of JSON Lines do not
    count."""
    id: str
    """The id that the data set gives the row, as text, or the row index if there is no id. Ids need not be unique."""
    image: str
    """The path of the first image relative to `image_root`, or its address inside a table or archive
    (`eyechart.stored`); empty if the row has no image."""
    human: str
    """The human turn, with `<image>` at the position of the image."""
    caption: str
    """The last answer, which is the text that is scored. It is stripped of white space and not empty."""
    image_root: str = ""
    """The folder to which `image` is relative; if empty, the working directory."""
    conversation: tuple[Turn, ...] = ()
    """All turns; empty if the row is one question, with at most one image, and one answer."""
    more_images: tuple[str, ...] = ()
    """The images after the first, in the same form as `image`."""

    @property
    def path(self) -> Path:
        """The path of the first image, or its address inside a table or archive. To open it with Pillow, use `file`."""
        return Path(self.image_root) / self.image

    @property
    def file(self) -> Path | BytesIO:
        """The first image as `PIL.Image.open` accepts it: its path, or its bytes if it is inside a table or archive.

        Raises:
            OSError: the image cannot be read from the table or archive.
        """
        return opened(self.path)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns in order."""
        return self.conversation or (Turn("user", parts_of(self.human)), Turn("assistant", (self.caption,)))

    @property
    def images(self) -> tuple[str, ...]:
        """All images in order, relative to `image_root`."""
        return (self.image, *self.more_images) if self.image else ()


class RejectKind(StrEnum):
    """The kind of fault of a rejected row. Code uses this value and never interprets the text of `Reject.reason`."""

    OTHER = "other"
    """The kind of fault was not specified."""
    LAYOUT = "layout"
    """The row does not match the data layout: it is not an object, not UTF-8, or has a missing turn or a wrong type."""
    NO_CAPTION = "no-caption"
    """The caption is blank or not text."""
    SEVERAL_EXCHANGES = "several-exchanges"
    """The row is valid, but has several questions and answers, or a system turn, which the code that uses the rows does
    not support."""
    NO_PLACEHOLDER = "no-placeholder"
    """The row has an image, but no placeholder for it in the text."""
    IMAGE_COUNT = "image-count"
    """The row has no image, several images, or more placeholders than images."""
    SPECIAL_TOKEN = "special-token"
    """The human turn contains the string of a special token."""
    IMAGE_IN_CAPTION = "image-in-caption"
    """The caption contains a string or a token id that represents an image."""
    IMAGE_CUT = "image-cut"
    """The limit on the number of tokens would cut off part of the image block (the image positions of the prompt)."""
    NO_FILE = "no-file"
    """The image file is missing or has 0 bytes."""
    UNUSABLE_FILE = "unusable-file"
    """The image file is outside the image root, cannot be read, is damaged, has an invalid size, or is not an image."""
    VISUAL_TOKENS = "visual-tokens"
    """The number of visual tokens of the image differs from that of the other images."""


@dataclass(frozen=True)
class Reject:
    """A row of the data file that cannot be used, with the reason. It is counted and named; no row replaces it."""

    row: int
    """The index of the row in the data file, from 0."""
    reason: str
    """A short reason, such as `image missing` or `caption blank`; rows with the same reason are counted together."""
    detail: str
    """A one-line explanation: the file, what was expected, and what was found."""
    kind: RejectKind = RejectKind.OTHER
    """The kind of fault, for use in code."""


@dataclass(frozen=True)
class Sample:
    """One image-caption pair, ready to be batched.

    Either `pixels_CHW` or `features_PV` is set. If only the text is needed, as in the audit of a data set, neither is
    set.
    """

    row: int
    """The index of the row in the data file, from 0, which identifies the sample in splits, logs and results."""
    id: str
    image: str
    """The path as written in the data file, relative to the image root."""
    caption: str
    """The answer as text, before truncation to max_seq_len."""
    ids_T: IntArray
    """The token ids: the prompt including the image block, then the answer and EOS; truncated to max_seq_len."""
    labels_T: IntArray
    """The token id at answer positions, IGNORE_INDEX elsewhere. Not shifted: the label at t is predicted from position
    t-1."""
    block: tuple[int, int]
    """Start and end of the image block, which is ids_T[block[0]:block[1]] and includes its start and end tokens."""
    full_length: int
    """The number of tokens before truncation to max_seq_len."""
    image_hash: str = ""
    """The hash of the decoded, resized pixels: images with equal hashes are the same input for the vision tower. If
    empty, the hash is computed from the pixels when the sample is scored; without pixels, the path of the image is
    used."""
    pixels_CHW: Tensor | None = None
    """uint8 [3,H,W], not normalised, because pixels are normalised on the device."""
    features_PV: Tensor | None = None
    """The cached output of the frozen vision tower for this image."""
    grid: Grid = ()
    """The grid of visual tokens of each image, such as ((4, 6),) for one image of 24 tokens. Samples with a grid may
    have different numbers of visual tokens. Empty if all images have the same grid."""

    @classmethod
    def of(
        cls,
        row: Row,
        prompt: Sequence[int],
        answer: Sequence[int],
        block: tuple[int, int] = (0, 0),
        pixels_CHW: Tensor | None = None,
    ) -> Sample:
        """Make a sample from a row: answer tokens get labels, prompt tokens do not, as in `data.encoded.Encoded`.

        Args:
            row: the row.
            prompt: the token ids before the answer, including the image block.
            answer: the token ids that are scored, including the end token.
            block: start and end of the image block, prompt[block[0]:block[1]]; by default there is no block and no
                image.
            pixels_CHW: uint8 [3,H,W].
        """
        ids = [*prompt, *answer]
        return cls(
            row=row.row,
            id=row.id,
            image=row.image,
            caption=row.caption,
            ids_T=np.array(ids, dtype=np.int64),
            labels_T=np.array([IGNORE_INDEX] * len(prompt) + list(answer), dtype=np.int64),
            block=block,
            full_length=len(ids),
            pixels_CHW=pixels_CHW,
        )

    @property
    def has_image(self) -> bool:
        """Whether the sequence has image positions."""
        return self.block[1] > self.block[0]

    @property
    def label_tokens(self) -> int:
        """The number of positions that count in the loss."""
        return int((self.labels_T != IGNORE_INDEX).sum())

    @property
    def truncated(self) -> bool:
        """Whether truncation to max_seq_len has removed tokens."""
        return self.full_length > len(self.ids_T)


@dataclass(frozen=True)
class CollateStats:
    """The counts of check 2 for a set of samples, made by the collator. Counts of two sets can be added with `+`."""

    samples: int = 0
    truncated: int = 0
    """The number of samples from which truncation to max_seq_len removed at least one token."""
    zero_label: int = 0
    """The number of samples without any label token; a model learns nothing from them."""
    label_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """A histogram of the sequence lengths before truncation, in tokens."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> CollateStats:
        """Make the counts for `samples`."""
        return cls(
            samples=len(samples),
            truncated=sum(s.truncated for s in samples),
            zero_label=sum(s.label_tokens == 0 for s in samples),
            label_tokens=sum(s.label_tokens for s in samples),
            lengths=Counter(s.full_length for s in samples),
        )

    def __add__(self, other: CollateStats) -> CollateStats:
        """Add the counts of two sets of samples."""
        return CollateStats(
            self.samples + other.samples,
            self.truncated + other.truncated,
            self.zero_label + other.zero_label,
            self.label_tokens + other.label_tokens,
            self.lengths + other.lengths,
        )

    @property
    def truncated_pct(self) -> float:
        """The share of truncated samples, in percent; 0 if there are no samples."""
        return 100.0 * self.truncated / self.samples if self.samples else 0.0

    @property
    def zero_label_pct(self) -> float:
        """The share of samples without label tokens, in percent; 0 if there are no samples."""
        return 100.0 * self.zero_label / self.samples if self.samples else 0.0

    @property
    def avg_label_tokens(self) -> float:
        """The average number of label tokens per sample, including EOS; 0 if there are no samples."""
        return self.label_tokens / self.samples if self.samples else 0.0
