"""`check_batch` on the batches of TRL's own collator; skipped where TRL is not installed."""

from __future__ import annotations

from typing import Any

import pytest

import eyechart
from batches import ANSWER, FAMILIES, QUESTION, SIZES, made, picture
from eyechart.api.check_batch import BatchCheck
from saved_models import Saved, saved

collators = pytest.importorskip("trl.trainer.sft_trainer")

__all__ = ["saved"]


def rows(kind: str) -> list[dict[str, Any]]:
    """Rows in TRL's layouts: `messages`, `prompt` and `completion`, several turns or images, or some without images."""
    found = []
    for i in range(4):
        request = [{"role": "user", "content": f"{QUESTION} {i}"}]
        answer = [{"role": "assistant", "content": ANSWER}]
        images = [picture(i, SIZES[i % len(SIZES)])]
        if kind == "completion":
            found.append({"images": images, "prompt": request, "completion": answer})
            continue
        more = [{"role": "user", "content": "And now?"}, *answer] if kind == "turns" else []
        images += [picture(i + 9)] if kind == "images" else []
        found.append({"images": [] if kind == "mixed" and i % 2 else images, "messages": request + answer + more})
    return found


def check(name: str, saved: Saved, kind: str, **options: Any) -> BatchCheck:
    one = made(saved, name)
    batch = collators.DataCollatorForVisionLanguageModeling(one.processor, **options)(rows(kind))
    return eyechart.check_batch(batch, one.processor, one.config)


def others(result: BatchCheck, *expected: str) -> list[str]:
    """Findings beside the expected ones; LLaVA's template ends no answer, which is a warning."""
    return [found.code for found in result if found.code not in (*expected, "eos-unlabelled")]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["messages", "turns", "images", "mixed", "completion"])
def test_the_default_is_a_warning_and_answers_are_found(name: str, kind: str, saved: Saved) -> None:
    result = check(name, saved, kind)
    assert not result.errors and not others(result, "image-labelled", "prompt-labelled")
    answers = 8 if kind == "turns" else 4
    words = 3 if name == "llava" else 4  # LLaVA has no token after an answer, but its space may be one
    assert result.facts.answer_tokens in (answers * words, answers * (words + 1))


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_of_completions_only_are_fine(name: str, saved: Saved) -> None:
    assert not others(check(name, saved, "completion", completion_only_loss=True))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3"])
def test_a_length_that_cuts_all_answers_is_an_error(name: str, saved: Saved) -> None:
    first = check(name, saved, "messages", max_length=20).findings[0]
    assert (first.code, first.severity) == ("answer-truncated", "error")


def test_a_template_without_generation_marks_gives_no_labels(saved: Saved) -> None:
    assert check("qwen2_5_vl", saved, "messages", assistant_only_loss=True).findings[0].code == "no-labels"
