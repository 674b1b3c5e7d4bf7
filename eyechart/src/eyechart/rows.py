"""The types for one row of a data set, for the sample or the Reject made from it, and for the counts of check 2.

Dimension suffixes: see `eyechart.seam`.
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
"""The label of a position that does not count in the loss (PyTorch's own default in `F.cross_entropy`)."""

PLACEHOLDER = "<image>"
"""The text that marks the position of an image in a turn."""

IntArray = npt.NDArray[np.int64]
Grid = tuple[tuple[int, ...], ...]
"""For each image of a sample, the dimensions of its grid of visual tokens; their product is the number of tokens."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    parts: tuple[str | int, ...]
    """Texts, and for each image its index in `Row.images`."""

    @property
    def text(self) -> str:
        """The turn as text, with `<image>` at the place of each image."""
        return "".join(part if isinstance(part, str) else PLACEHOLDER for part in self.parts)


def parts_of(text: str, first: int = 0) -> tuple[str | int, ...]:
    """Split text at `<image>` into the parts of a turn.

    White space next to an image is removed: it differs between layouts, and chat templates write their own.

    Args:
        text: text with any number of `<image>`.
        first: index of the first image.
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
    """One row of a data set, before any model has seen it: a conversation with its images.

    Most rows are one image, one question and one answer: `image`, `human` and `caption`. `turns` and `images` describe
    every row. Rows of other kinds (`conversation` is not empty) are only returned by `data.reader.open_rows`.
    """

    row: int
    """Row index in the data set, from 0, used to identify it in results. Blank lines of JSON Lines do not count."""
    id: str
    """The row's own id as text; the row index if it has none. Not necessarily unique."""
    image: str
    """Path of the first image relative to `image_root`, or its address inside a file (`eyechart.stored`); empty if the
    row has no image."""
    human: str
    """The human turn, with `<image>` at the position of the image."""
    caption: str
    """The last answer, which is scored; it is stripped and not empty."""
    image_root: str = ""
    """Folder that `image` is relative to; the working directory if empty."""
    conversation: tuple[Turn, ...] = ()
    """All turns, if they are not one question with at most one image and one answer; otherwise empty."""
    more_images: tuple[str, ...] = ()
    """The images after the first, like `image`."""

    @property
    def path(self) -> Path:
        """Path of the image file, or address of the image inside a file; to open it with Pillow, use `file`."""
        return Path(self.image_root) / self.image

    @property
    def file(self) -> Path | BytesIO:
        """The argument of `PIL.Image.open` for the first image: its path, or its bytes if it is inside a file.

        Raises:
            OSError: the image inside a file cannot be read.
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
    """What is wrong with a rejected row, for use in code, which never interprets the text of `reason`."""

    OTHER = "other"
    """Not specified."""
    LAYOUT = "layout"
    """The row does not have the expected layout: not an object, not UTF-8, a missing turn or a wrong type."""
    NO_CAPTION = "no-caption"
    """The caption is blank or not text."""
    SEVERAL_EXCHANGES = "several-exchanges"
    """A valid row with more than one question and answer, or with a system turn, which the reader of the rows does not
    support."""
    NO_PLACEHOLDER = "no-placeholder"
    """An image without a placeholder in the text."""
    IMAGE_COUNT = "image-count"
    """No image, several images, or more placeholders than images."""
    SPECIAL_TOKEN = "special-token"
    """The human turn contains the string of a special token."""
    IMAGE_IN_CAPTION = "image-in-caption"
    """The caption contains a string or an id that represents an image."""
    IMAGE_CUT = "image-cut"
    """The limit on tokens cuts into the image block."""
    NO_FILE = "no-file"
    """The image file is missing or has 0 bytes."""
    UNUSABLE_FILE = "unusable-file"
    """The image file is outside the image root, cannot be read, is damaged, has an invalid size, or is not an image."""
    VISUAL_TOKENS = "visual-tokens"
    """The number of visual tokens of the image differs from that of all others."""


@dataclass(frozen=True)
class Reject:
    """A row of the data file that cannot be used, and why. It is counted and named, never replaced by another row."""

    row: int
    """Row index in the data file, from 0."""
    reason: str
    """A short reason that can be counted, such as `image missing` or `caption blank`."""
    detail: str
    """One readable line with the file, what was expected, and what was found."""
    kind: RejectKind = RejectKind.OTHER
    """The kind of fault, for use in code."""


@dataclass(frozen=True)
class Sample:
    """One image-caption pair, ready to be batched.

    Exactly one of `pixels_CHW` and `features_PV` is set, or neither if only the text is needed (the audit).
    """

    row: int
    """Row index in the data file, from 0, used to identify the sample in splits, logs and results."""
    id: str
    image: str
    """Path as written in the data file, relative to the image root."""
    caption: str
    """The answer as text, before truncation to max_seq_len."""
    ids_T: IntArray
    """Token ids: the prompt including the image block, then the answer and EOS; truncated to max_seq_len."""
    labels_T: IntArray
    """`ids_T` at answer positions, IGNORE_INDEX elsewhere. Not shifted: position t is predicted from t-1."""
    block: tuple[int, int]
    """The image block is ids_T[block[0]:block[1]], start and end token included."""
    full_length: int
    """Number of tokens before truncation to max_seq_len."""
    image_hash: str = ""
    """Hash of the decoded, resized pixels: if hashes are equal, the tower cannot distinguish the images. If empty, it
    is computed from the pixels or features when the sample is scored."""
    pixels_CHW: Tensor | None = None
    """uint8 [3,H,W], not normalised, because pixels are normalised on the device."""
    features_PV: Tensor | None = None
    """Cached output of the frozen tower for this image."""
    grid: Grid = ()
    """Grid of the visual tokens of each of its images, such as ((4, 6),) for one image of 24 tokens. Samples with a
    grid may have different numbers of visual tokens. Empty if all images have the same grid."""

    @classmethod
    def of(
        cls,
        row: Row,
        prompt: Sequence[int],
        answer: Sequence[int],
        block: tuple[int, int] = (0, 0),
        pixels_CHW: Tensor | None = None,
    ) -> Sample:
        """Make a sample from a row: the answer has labels and the prompt has none, as in `data.encoded.Encoded`.

        Args:
            row: the row.
            prompt: token ids before the answer, image block included.
            answer: token ids that are scored, including the end token.
            block: the image block is prompt[block[0]:block[1]]; by default there is no block and no image.
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
        """Number of positions that count in the loss."""
        return int((self.labels_T != IGNORE_INDEX).sum())

    @property
    def truncated(self) -> bool:
        """Whether tokens were removed by max_seq_len."""
        return self.full_length > len(self.ids_T)


@dataclass(frozen=True)
class CollateStats:
    """The counts of check 2, made by the collator. Two counts can be added with `+`."""

    samples: int = 0
    truncated: int = 0
    """Number of samples from which max_seq_len removed at least one token."""
    zero_label: int = 0
    """Number of samples without any label token; a model learns nothing from them."""
    label_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Histogram of sequence lengths before truncation, in tokens."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> CollateStats:
        """Count `samples`."""
        return cls(
            samples=len(samples),
            truncated=sum(s.truncated for s in samples),
            zero_label=sum(s.label_tokens == 0 for s in samples),
            label_tokens=sum(s.label_tokens for s in samples),
            lengths=Counter(s.full_length for s in samples),
        )

    def __add__(self, other: CollateStats) -> CollateStats:
        """Merge two counts."""
        return CollateStats(
            self.samples + other.samples,
            self.truncated + other.truncated,
            self.zero_label + other.zero_label,
            self.label_tokens + other.label_tokens,
            self.lengths + other.lengths,
        )

    @property
    def truncated_pct(self) -> float:
        """Share of truncated samples in percent; 0 if there are no samples."""
        return 100.0 * self.truncated / self.samples if self.samples else 0.0

    @property
    def zero_label_pct(self) -> float:
        """Share of samples without label tokens in percent."""
        return 100.0 * self.zero_label / self.samples if self.samples else 0.0

    @property
    def avg_label_tokens(self) -> float:
        """Average number of label tokens per sample, including EOS."""
        return self.label_tokens / self.samples if self.samples else 0.0
