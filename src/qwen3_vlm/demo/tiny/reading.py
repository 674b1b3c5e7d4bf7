"""The reading gate: can the language model say what its notes say?

A model that cannot use words in the image's place cannot use visual tokens there either, so it is examined before any
connector is trained on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from qwen3_vlm.demo.tiny.documents import Document, plain_words
from qwen3_vlm.demo.tiny.language import complete
from qwen3_vlm.demo.worlds import digits, scenes

GATE = 0.95
"""Least reading accuracy of every gated attribute."""
GATED = ("colour", "shape", "background", "texture", "size", "count", "digit", "weight")
NOT_GATED = ("position", "binding")
"""Measured, but unordered notes do not show which of two things is where, or which colour belongs to which."""


def world_grade(written: str, true: str) -> dict[str, bool]:
    """Grade a caption of either world: a caption that names a shape is a scene's."""
    return scenes.grade(written, true) if scenes.attributes(true)["shape"] else digits.grade(written, true)


def recall(written: str, true: str) -> float:
    """Share of the true caption's distinct words that the written one has too, for data sets without attributes."""
    meant = set(plain_words(true))
    return len(meant.intersection(plain_words(written))) / max(len(meant), 1)


def examine(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[Document],
    grade: Callable[[str, str], Mapping[str, float]],
    longest: int = 30,
) -> dict[str, float]:
    """Mean mark of the greedy captions against the captions the notes were taken from, per attribute of `grade`."""
    written = complete(model, tokenizer, documents, seed=1, longest=longest)
    marks: dict[str, list[float]] = defaultdict(list)
    for caption, document in zip(written, documents, strict=True):
        for name, right in grade(caption, document.caption).items():
            marks[name].append(right)
    return {name: sum(rights) / len(rights) for name, rights in marks.items()}


def failures(marks: Mapping[str, float]) -> list[str]:
    """The gated attributes below the gate, in words."""
    return [f"{name} {marks[name]:.3f}" for name in GATED if name in marks and marks[name] < GATE]
