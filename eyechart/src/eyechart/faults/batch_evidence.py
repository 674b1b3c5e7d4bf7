"""The input of the batch detectors, and the reasons why a detector could not check a batch.

Suffixes of array names give their dimensions: B rows, T token positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import numpy as np

from eyechart.processors.answers import Answers, Way, find_answers
from eyechart.processors.arrays import AnyArray
from eyechart.processors.geometry import Geometry, read_geometry
from eyechart.processors.pixel_entries import PIXEL_KEYS

# size: names shown
_SHOWN = 6
"""Maximum number of rows that a message lists."""


class Check(Enum):
    """The properties of a batch that `check_batch` checks."""

    PLACEHOLDERS = "placeholders"
    VISUAL_TOKENS = "visual-tokens"
    ANSWERS = "answers"
    LABELS = "labels"
    PADDING = "padding"
    POSITIONS = "positions"
    IDS = "ids"
    PIXELS = "pixels"
    NORMALISATION = "normalisation"
    RESOLUTION = "resolution"


class Why(Enum):
    """The reasons why a property of a batch could not be checked."""

    NO_PROCESSOR = "no-processor"
    NO_MODEL = "no-model"
    NO_IMAGES = "no-images"
    NO_TEMPLATE = "no-template"
    NOT_IN_BATCH = "not-in-batch"
    NOT_ASSIGNED = "not-assigned"
    UNKNOWN_FORM = "unknown-form"
    COARSE = "coarse"
    """The pixel values match no known normalisation settings, as with augmented images, or their precision is too
    low."""


@dataclass(frozen=True)
class Unchecked:
    """A property of a batch that was not checked, or only partly."""

    check: Check
    """The property."""
    why: Why
    """The reason why it was not checked."""


@dataclass
class BatchEvidence:
    """A batch, together with everything that can be derived from it without a forward pass."""

    batch: Mapping[str, Any]
    """The batch as it was given."""
    geometry: Geometry
    """The image positions of each row, and the pixels that belong to them."""
    answers: Answers
    """The answer tokens and the labels of each row."""
    processor: Any
    """The processor or tokenizer, or None."""
    config: Any
    """The model's config, or None."""
    accepted: frozenset[str] | None
    """Argument names that the model's forward pass accepts; None if they are not known or any name is accepted."""
    unchecked: list[Unchecked] = field(default_factory=list)
    """What could not be checked; the detectors append to this list."""

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, or the processor itself if it is a tokenizer; None if there is no processor."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def rows(self) -> int:
        """B, the number of rows."""
        return self.geometry.rows

    @property
    def labelled_BT(self) -> AnyArray | None:
        """Which positions have a label other than -100, bool [B, T]; None if the batch has no labels."""
        labels_BT = self.answers.labels_BT
        return None if labels_BT is None else np.asarray(labels_BT != -100)

    @property
    def pixels_named(self) -> bool:
        """Whether the keys of the batch include pixels or precomputed image features."""
        words = ("embeds", "features", "mm_encoder", "image_patches")
        named = [str(key) for key in self.batch if self.batch[key] is not None]
        features = any(word in key for key in named for word in words)
        return features or any(key in PIXEL_KEYS for key in named)

    @property
    def unanswered(self) -> list[int]:
        """Rows in which no answer was found with the chat template; empty if there is no chat template."""
        if self.answers.turns is None:
            return []
        found = self.answers.way is Way.TEMPLATE
        return [row for row, spans in enumerate(self.answers.spans) if not (found and spans)]

    def skip(self, check: Check, why: Why) -> None:
        """Record which property of the batch could not be checked, and why."""
        if Unchecked(check, why) not in self.unchecked:
            self.unchecked.append(Unchecked(check, why))


def gather(batch: Mapping[str, Any], processor: Any, config: Any, accepted: frozenset[str] | None) -> BatchEvidence:
    """Collect everything that the detectors need to know about a batch.

    Raises:
        InputError: `batch` is not a batch dict, or the shapes of its arrays do not match each other.
    """
    geometry = read_geometry(batch, processor, config)
    return BatchEvidence(
        batch=batch,
        geometry=geometry,
        answers=find_answers(batch, geometry, processor),
        processor=processor,
        config=config,
        accepted=accepted,
    )


def by_share(affected: int, rows: int) -> Literal["error", "warning"]:
    """Return the severity of a fault that affects `affected` of the `rows` rows of a batch.

    The fault is an error if there are several rows and more than half of them are affected. Otherwise it is a warning.
    """
    return "error" if rows > 1 and 2 * affected > rows else "warning"


def rows_in_words(rows: Sequence[int]) -> str:
    """Return row numbers in words for a message, such as `row 3` or `rows 0, 1, 2 and 9 others`."""
    shown = ", ".join(map(str, rows[:_SHOWN]))
    more = f" and {len(rows) - _SHOWN} others" if len(rows) > _SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"
