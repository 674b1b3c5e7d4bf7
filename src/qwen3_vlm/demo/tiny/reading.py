"""The reading gate: tests whether the language model writes captions that agree with its notes.

A model that cannot use words at the positions of the image cannot use visual tokens there either. It is therefore
tested before any connector is trained with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from qwen3_vlm.demo.tiny.documents import Document, plain_words
from qwen3_vlm.demo.tiny.language import complete
from qwen3_vlm.demo.worlds import digits, scenes

GATE = 0.95
"""Smallest accepted reading accuracy of each gated attribute."""
GATED = ("colour", "shape", "background", "texture", "size", "count", "digit", "weight")
NOT_GATED = ("position", "binding")
"""Attributes that are measured but not gated. Unordered notes do not show which of two things has which place or
colour."""


def world_grade(written: str, true: str) -> dict[str, bool]:
    """Grade a caption of either world. A true caption that names a shape belongs to the scenes."""
    return scenes.grade(written, true) if scenes.attributes(true)["shape"] else digits.grade(written, true)


def recall(written: str, true: str) -> float:
    """Return the share of the true caption's distinct words that the written caption also contains.

    This is the grade for data sets without attributes.
    """
    meant = set(plain_words(true))
    return len(meant.intersection(plain_words(written))) / max(len(meant), 1)


def examine(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[Document],
    grade: Callable[[str, str], Mapping[str, float]],
    longest: int = 30,
) -> dict[str, float]:
    """Grade greedy captions against the captions that the notes were made from.

    Returns:
        The mean mark for each attribute of `grade`.
    """
    written = complete(model, tokenizer, documents, seed=1, longest=longest)
    marks: dict[str, list[float]] = defaultdict(list)
    for caption, document in zip(written, documents, strict=True):
        for name, right in grade(caption, document.caption).items():
            marks[name].append(right)
    return {name: sum(rights) / len(rights) for name, rights in marks.items()}


def failures(marks: Mapping[str, float]) -> list[str]:
    """Return text about each gated attribute whose mark is below the gate."""
    return [f"{name} {marks[name]:.3f}" for name in GATED if name in marks and marks[name] < GATE]
