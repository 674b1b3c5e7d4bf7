"""Tests whether the tiny language model can read: whether its captions agree with the notes in its prompt.

The notes are single words that describe a picture, at the positions where visual tokens will be later. A model that
cannot use words at these positions cannot use visual tokens there either. The model must therefore pass this test (the
reading gate) before a connector is trained with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from qwen3_vlm.demo.tiny.documents import Document, plain_words
from qwen3_vlm.demo.tiny.language import complete
from qwen3_vlm.demo.worlds import digits, scenes

GATE = 0.95
"""The accuracy that the captions must reach for each attribute in `GATED`."""
GATED = ("colour", "shape", "background", "texture", "size", "count", "digit", "weight")
NOT_GATED = ("position", "binding")
"""Attributes that are measured but not part of the gate: notes in random order do not always show which of two things
has which position or colour."""


def world_grade(written: str, true: str) -> dict[str, bool]:
    """Grade a caption of a scene or a digit. The picture is a scene if the true caption names a shape."""
    return scenes.grade(written, true) if scenes.attributes(true)["shape"] else digits.grade(written, true)


def recall(written: str, true: str) -> float:
    """Return the share of the true caption's distinct words that the written caption also contains.

    This grade is used for data sets whose captions have no known attributes.
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
    """Generate a caption greedily for the notes of each document, and compare it with the document's own caption.

    Returns:
        The mean of each mark that `grade` returns, over the documents that have this mark.
    """
    written = complete(model, tokenizer, documents, seed=1, longest=longest)
    marks: dict[str, list[float]] = defaultdict(list)
    for caption, document in zip(written, documents, strict=True):
        for name, right in grade(caption, document.caption).items():
            marks[name].append(right)
    return {name: sum(rights) / len(rights) for name, rights in marks.items()}


def failures(marks: Mapping[str, float]) -> list[str]:
    """Return the name and the mean mark of each attribute in `GATED` whose mark is below `GATE`, as text."""
    return [f"{name} {marks[name]:.3f}" for name in GATED if name in marks and marks[name] < GATE]
