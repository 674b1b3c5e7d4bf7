"""Faults of the code that converts text to ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eyechart.data.encoded import Encoded, Prompt
from eyechart.seam import IGNORE_INDEX, IntArray
from fault_edits import caption, each, with_text
from fault_site import Case, Change, Site, human_turns, swap, take_base

_PROMPT = "qwen3_vlm.data.prompt"


def _with_prompt(row: object, ids_T: IntArray, block: tuple[int, int], answer_N: IntArray | None = None) -> object:
    if not isinstance(row, Encoded):
        return row
    answer = row.answer_N if answer_N is None else answer_N.astype(np.int32)
    return replace(row, prompt=Prompt(ids_T, block), answer_N=answer)


def _encode(change: Callable[[Any, object], object]) -> Change:
    """Change every encoded row; `_with_prompt` does not change rejected rows."""

    def make(original: Any) -> Any:
        return lambda self, records: [change(self, row) for row in original(self, records)]

    return swap(f"{_PROMPT}.PromptBuilder.encode", make)


def _block_dropped(builder: Any, row: Any) -> object:
    """Remove the image block, as if a text processor had removed the unknown tag `<image>`."""
    ids_T = np.delete(row.prompt.ids_T, slice(*row.prompt.block))
    return _with_prompt(row, ids_T, (0, 0))


def _thinking(builder: Any, row: Any) -> object:
    """Add an empty thought before known answers, but not before answers to be generated, as some chat templates do."""
    (thought,) = builder._tokenise(["<think>\n\n</think>\n\n"], special=True)
    return _with_prompt(row, np.concatenate([row.prompt.ids_T, np.array(thought)]), row.prompt.block)


def _joint(builder: Any, row: Any) -> object:
    """Tokenise prompt and answer as one text, but mask as many tokens as the prompt has when tokenised alone."""
    end = row.prompt.block[1]
    text = builder._backend.decode([*row.prompt.ids_T[end:], *row.answer_N[:-1]], skip_special_tokens=False)
    (joint,) = builder._tokenise([text], special=True)
    alone = len(row.prompt.ids_T) - end
    ids_T = np.concatenate([row.prompt.ids_T[:end], np.array(joint[:alone])])
    return _with_prompt(row, ids_T, row.prompt.block, np.array([*joint[alone:], builder.ids.eos]))


def _spaced_block(original: Any) -> Any:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        (space,) = self._tokenise([" "], special=True)
        self._block = [part for token in self._block for part in (*space, token)][len(space) :]

    return init


def _one_patch_less(original: Any) -> Any:
    return lambda self, tokenizer, prompt, latents, max_seq_len: original(
        self, tokenizer, prompt, latents - 1, max_seq_len
    )


def _answers(change: Callable[[IntArray], IntArray]) -> Change:
    def make(original: Any) -> Any:
        return lambda self, captions: (change(answer_N) for answer_N in original(self, captions))

    return swap(f"{_PROMPT}.PromptBuilder._answers", make)


class _BlockLast(Encoded):
    """A row whose image block comes after the prompt text and the caption."""

    __slots__ = ()

    @property
    def ids_T(self) -> IntArray:
        return self._moved(np.concatenate([self.prompt.ids_T, self.answer_N.astype(np.int64)]))

    @property
    def labels_T(self) -> IntArray:
        unlabelled_T = np.full_like(self.prompt.ids_T, IGNORE_INDEX)
        return self._moved(np.concatenate([unlabelled_T, self.answer_N.astype(np.int64)]))

    @property
    def block(self) -> tuple[int, int]:
        start, end = self.prompt.block
        return self.full_length - (end - start), self.full_length

    def _moved(self, whole_T: IntArray) -> IntArray:
        start, end = self.prompt.block
        return np.concatenate([whole_T[:start], whole_T[end:], whole_T[start:end]])


def _block_last(builder: Any, row: object) -> object:
    return _BlockLast(row.prompt, row.answer_N, row.max_seq_len) if isinstance(row, Encoded) else row


def _captions_lowered(original: Any) -> Any:
    def answers(self: Any, captions: Sequence[str]) -> Iterator[IntArray]:
        lowered: Iterator[IntArray] = original(self, [c.lower().replace(",", "").replace(".", "") for c in captions])
        return lowered

    return answers


def _opened_by_a_turn(original: Any) -> Any:
    """Begin the image block with the first piece of `<|im_start|>`, for which this tokenizer has no single token."""

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        (pieces,) = self._tokenise(["<|im_start|>"], special=True)
        self.ids = replace(self.ids, start=pieces[0])
        self._block[0] = pieces[0]

    return init


def _space_before_answer(site: Site) -> None:
    each(lambda i, row: with_text(row, answer=caption(row)[:1].lower() + caption(row)[1:]))(site)
    site.set(prompt__template="{human}\nAnswer: ")


PROMPT = (
    Case(
        "image-tag-stripped",
        "no-placeholder",
        "the encoded prompt has lost its image block",
        change=_encode(_block_dropped),
        set_up=human_turns,
        also=("placeholder-count",),
    ),
    Case(
        "one-patch-short",
        "placeholder-count",
        "the prompt is built for one visual token less than the connector gives",
        change=swap(f"{_PROMPT}.PromptBuilder.__init__", _one_patch_less),
    ),
    Case(
        "block-joined-with-spaces",
        "placeholder-split",
        "a space token between any two tokens of the image block",
        change=swap(f"{_PROMPT}.PromptBuilder.__init__", _spaced_block),
    ),
    Case(
        "wrong-start-id",
        "token-id-mismatch",
        "the block opens with the first piece of `<|im_start|>`, which this tokenizer has no token for",
        change=swap(f"{_PROMPT}.PromptBuilder.__init__", _opened_by_a_turn),
    ),
    Case(
        "image-after-the-caption",
        "image-masked",
        "the image block is placed after the caption, where causal attention cannot see it",
        set_up=human_turns,
        change=_encode(_block_last),
        also=("template-unstable",),
    ),
    Case(
        "image-after-the-caption-when-evaluated",
        "image-masked",
        "the image block is placed after the caption, for a healthy connector",
        "evaluation",
        take_base,
        _encode(_block_last),
        also=("template-unstable",),
    ),
    Case(
        "cut-on-the-left",
        "image-truncated",
        "sequences are cut to max_seq_len on the left",
        set_up=lambda site: site.set(prompt__template="{human}\n", data__max_seq_len=26),
        change=swap(
            f"{_PROMPT}.Encoded.ids_T",
            lambda raw: property(
                lambda row: np.concatenate([row.prompt.ids_T, row.answer_N.astype(np.int64)])[-row.max_seq_len :]
            ),
        ),
    ),
    Case(
        "captions-cut-before-eos",
        "answer-truncated",
        "the tokenizer cuts captions to 8 tokens before EOS is added, so the lengths do not show it",
        change=_answers(lambda answer_N: np.concatenate([answer_N[:-1][:8], answer_N[-1:]])),
    ),
    Case(
        "eos-never-added",
        "eos-unlabelled",
        "no EOS after the captions",
        world="digits",
        change=_answers(lambda answer_N: answer_N[:-1]),
    ),
    Case(
        "captions-lowered",
        "answer-partly-labelled",
        "captions are lower-cased and stripped of commas and full stops before tokenisation",
        change=swap(f"{_PROMPT}.PromptBuilder._answers", _captions_lowered),
    ),
    Case(
        "thought-in-training-only",
        "template-unstable",
        "known answers follow `<think></think>`, answers to be generated do not",
        set_up=human_turns,
        change=_encode(_thinking),
    ),
    Case(
        "joint-tokenisation",
        "template-unstable",
        "prompt and answer are tokenised as one text and masked by the prompt's own length; the template's last space "
        "belongs to the first word of the answer",
        set_up=_space_before_answer,
        change=_encode(_joint),
        also=("answer-partly-labelled",),
    ),
)
