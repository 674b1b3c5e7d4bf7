"""Converts rows to token ids with a model's own chat template: prompt with image positions, caption, end of turn.

    template up to the answer, image positions expanded | caption | the token that ends a turn
    `-------------------- no label --------------------'  `----------- labelled ----------'

The caption is tokenised separately, but as if it followed a line break. Strings of special tokens in it are treated as
ordinary text. Spaces at the end of a templated prompt become part of the caption's first token, because training
tokenises prompt and answer together. If a processor has no chat template, the prompt is the image, the row's text and a
line break.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from eyechart.data.encoded import IMAGE_CUT, Encoded, Prompt
from eyechart.rows import PLACEHOLDER
from eyechart.seam import IntArray, Reject, RejectKind, Row

if TYPE_CHECKING:
    from transformers import BatchFeature, ProcessorMixin

_PROBE = "zebra"
"""A placeholder caption, used to find out what the template writes before and after an answer."""
_ANCHOR = "\n"
"""Text before a caption when it is tokenised, because some tokenizers add a space at the beginning of a text."""
IMAGE_IN_CAPTION = "image token in caption"
SPECIAL_IN_HUMAN = "special token in the human turn"


@dataclass(frozen=True)
class Ending:
    """The text and tokens that the template writes around an answer."""

    lead: str
    """White space between prompt and answer, including spaces at the end of the templated prompt."""
    end_id: int
    """The token that ends the turn, or EOS if the template writes none. It has a label."""
    end: str
    """The text of this token."""


class PromptWriter:
    """Converts rows to token ids for one processor."""

    def __init__(
        self,
        name: str,
        processor: ProcessorMixin,
        options: dict[str, bool],
        image: Image.Image,
        image_id: int,
        max_seq_len: int,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Find out what the template writes before and after an answer.

        Args:
            name: name of the model, for messages.
            processor: the model's processor.
            options: arguments for the image processor (`one_view`).
            image: any image at the common size; it determines how many image positions a prompt has.
            image_id: token id of an image position.
            max_seq_len: maximum number of tokens per sequence.
            template_kwargs: variables of the chat template, such as `enable_thinking`.

        Raises:
            ValueError: the templated prompt with an answer does not begin with the templated prompt alone, or there is
                no EOS token or no fast tokenizer.
        """
        self._name, self._processor, self.options, self._image = name, processor, options, image
        self.image_id, self._max_seq_len = image_id, max_seq_len
        self._template_kwargs, self._flat = dict(template_kwargs or {}), False
        tokenizer = processor.tokenizer
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ValueError(f"MODEL: {name} has no fast tokenizer (tokenizer.json), which is needed to score captions")
        self._tokenizer = tokenizer
        self._plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.no_padding()
        self._plain.no_truncation()
        # With this attribute, the library encodes the strings of special tokens as ordinary text.
        self._plain.encode_special_tokens = True
        special = {token.content for token in self._plain.get_added_tokens_decoder().values() if token.special}
        self._special = re.compile("|".join(map(re.escape, sorted(special)))) if special else None
        self.has_template = bool(getattr(processor, "chat_template", None))
        self.ending = self._ending()
        self.begin_id = int(self.ending.end_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
        """Id used for padding, and before a caption if its prompt consists only of the image."""
        self._known: dict[str, Prompt] = {}

    def prompt(self, human: str) -> Prompt:
        """Return the ids of a human turn with one `<image>`, and the position of its image block.

        The block contains everything that the template writes for the image: image positions and delimiters.

        Raises:
            ValueError: there is no image position in the ids, or not exactly one `<image>` in `human`.
        """
        if human not in self._known:
            if human.count(PLACEHOLDER) != 1:
                raise ValueError(f"--prompt: expected one {PLACEHOLDER}, got {human.count(PLACEHOLDER)} in {human!r}")
            text = self.text(human)
            ids_T = self._ids(text)
            positions = np.flatnonzero(ids_T == self.image_id)
            if not len(positions):
                raise ValueError(f"MODEL: {self._name}: its prompt {text[:120]!r} has no image position")
            block = self._block(ids_T, human) or (int(positions[0]), int(positions[-1]) + 1)
            if not block[0] <= positions[0] <= positions[-1] < block[1]:
                block = (int(positions[0]), int(positions[-1]) + 1)
            self._known[human] = Prompt(ids_T, block)
        return self._known[human]

    def encode(self, records: Sequence[Row], request: str | None) -> list[Encoded | Reject]:
        """Return the token ids of rows, in their order, each with its own human turn or, if given, with `request`."""
        answers = self._answers([record.caption for record in records])
        return [
            self._encode(record, request or record.human, answer_N)
            for record, answer_N in zip(records, answers, strict=True)
        ]

    def text(self, human: str, image: bool = True) -> str:
        """Return the prompt as text up to the beginning of the answer; with `image` False, it has no image."""
        before, after = (part.strip() for part in human.split(PLACEHOLDER))
        if not self.has_template:
            marked = image and not self._adds_image
            placeholder = str(getattr(self._processor, "image_token", PLACEHOLDER)) if marked else ""
            return f"{placeholder}{' '.join(part for part in (before, after) if part)}"
        return self._render([self._turn(before, after, image)], True).rstrip(" ")

    def inputs(self, texts: Sequence[str], images: Sequence[Image.Image]) -> BatchFeature:
        """Return the processor's output for prompts with one image each, padded on the right."""
        options = {
            "return_tensors": "pt",
            "padding": True,
            "padding_side": "right",
            "add_special_tokens": self._adds_special(texts[0]),
            **self.options,
        }
        nested = [[image] for image in images]
        if self._flat:
            return self._processor(text=list(texts), images=list(images), **options)
        try:
            return self._processor(text=list(texts), images=nested, **options)
        except (TypeError, ValueError, AttributeError):
            # Some processors, such as that of GOT-OCR 2, accept one image per text and no list of images.
            made = self._processor(text=list(texts), images=list(images), **options)
            self._flat = True
            return made

    @property
    def image_settings(self) -> str:
        """Everything that decides what the processor makes of an image, as text."""
        return f"{self.options} {vars(self._processor.image_processor)}"

    def _encode(self, record: Row, human: str, answer_N: npt.NDArray[np.int32]) -> Encoded | Reject:
        found = self._special.search(human.replace(PLACEHOLDER, "")) if self._special else None
        if found:
            detail = f"{found[0]} found in {human[:80]!r}: remove it"
            return Reject(record.row, SPECIAL_IN_HUMAN, detail, RejectKind.SPECIAL_TOKEN)
        if (answer_N == self.image_id).any():
            detail = f"the caption {record.caption[:80]!r} contains an image position"
            return Reject(record.row, IMAGE_IN_CAPTION, detail, RejectKind.IMAGE_IN_CAPTION)
        prompt = self.prompt(human)
        if len(prompt.ids_T) >= self._max_seq_len:
            detail = f"the prompt has {len(prompt.ids_T)} tokens, but max_seq_len is {self._max_seq_len}"
            return Reject(record.row, IMAGE_CUT, detail, RejectKind.IMAGE_CUT)
        return Encoded(prompt, answer_N, self._max_seq_len)

    def _answers(self, captions: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        def ids_of(texts: Sequence[str]) -> list[list[int]]:
            return [encoding.ids for encoding in self._plain.encode_batch(texts, add_special_tokens=False)]

        (anchor,) = ids_of([_ANCHOR])
        anchored = ids_of([_ANCHOR + self.ending.lead + caption for caption in captions])
        alone = ids_of([self.ending.lead + caption for caption in captions])
        whole = [b[len(anchor) :] if b[: len(anchor)] == anchor else a for b, a in zip(anchored, alone, strict=True)]
        return [np.array([*ids, self.ending.end_id], dtype=np.int32) for ids in whole]

    @cached_property
    def _adds_image(self) -> bool:
        """Whether the processor adds image positions before a text that has none, as that of BLIP-2 does."""
        try:
            ids_T = self.inputs([_PROBE], [self._image])["input_ids"][0]
        except Exception:  # noqa: BLE001 - a processor may raise anything if a text has no place for the image
            return False
        return bool((ids_T == self.image_id).any())

    def _ids(self, text: str) -> IntArray:
        """Return the ids of a prompt with an image.

        Without a chat template, the prompt ends with a line break; it is added here if the processor does not add it.
        """
        ids_T: IntArray = self.inputs([text], [self._image])["input_ids"][0].numpy().astype(np.int64)
        if not self.has_template and not self._tokenizer.decode(ids_T[-1:]).endswith("\n"):
            (newline,) = [e.ids for e in self._plain.encode_batch([_ANCHOR], add_special_tokens=False)]
            ids_T = np.concatenate([ids_T, np.array(newline, dtype=np.int64)])
        return ids_T

    def _block(self, ids_T: IntArray, human: str) -> tuple[int, int] | None:
        """Return the range of ids missing from the same prompt without an image; None if it is not contiguous."""
        if not self.has_template:
            return None
        text = self.text(human, image=False)
        bare_T = np.array(self._tokenizer(text, add_special_tokens=self._adds_special(text))["input_ids"])
        if len(bare_T) >= len(ids_T):
            return None
        differs = np.flatnonzero(ids_T[: len(bare_T)] != bare_T)
        start = int(differs[0]) if len(differs) else len(bare_T)
        stop = len(ids_T) - (len(bare_T) - start)
        return (start, stop) if np.array_equal(ids_T[stop:], bare_T[start:]) else None

    def _ending(self) -> Ending:
        eos = self._tokenizer.eos_token_id
        lead, rest = ("", "") if not self.has_template else self._around_answer()
        first = self._special.match(rest.lstrip()) if self._special else None
        end_id = self._tokenizer.convert_tokens_to_ids(first[0]) if first else eos
        if end_id is None:
            raise ValueError(f"MODEL: {self._name} has neither an end of turn in its chat template nor an EOS token")
        return Ending(lead, int(end_id), str(self._tokenizer.convert_ids_to_tokens(int(end_id))))

    def _around_answer(self) -> tuple[str, str]:
        """Return the white space before an answer, and the text after it.

        Raises:
            ValueError: the text of prompt and answer does not begin with the text of the prompt alone.
        """
        turn = self._turn("", _PROBE, True)
        prompt = self._render([turn], True)
        spaces = prompt[len(prompt.rstrip(" ")) :]
        answer = {"role": "assistant", "content": [{"type": "text", "text": _PROBE}]}
        whole = self._render([turn, answer], False)
        lead, found, rest = whole.removeprefix(prompt).partition(_PROBE)
        if not whole.startswith(prompt) or not found or lead.strip():
            raise ValueError(
                f"MODEL: {self._name}: template-unstable: the chat template writes a prompt differently if an answer "
                f"follows (alone, the prompt ends in {prompt[-40:]!r}; with an answer, the text there is "
                f"{whole[len(prompt) - 40 :][:80]!r}), so it is unclear which tokens are the caption; give the model a "
                "template that writes the same prompt in both cases, or variables that do (--chat-template-kwargs)"
            )
        return spaces + lead, rest

    def _render(self, turns: list[dict[str, Any]], prompt: bool) -> str:
        return str(
            self._processor.apply_chat_template(
                turns, add_generation_prompt=prompt, tokenize=False, **self._template_kwargs
            )
        )

    def _turn(self, before: str, after: str, image: bool) -> dict[str, Any]:
        parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
        kept = [p for p in parts if (image if p["type"] == "image" else p["text"])]
        return {"role": "user", "content": kept}

    def _adds_special(self, text: str) -> bool:
        """Return whether the tokenizer must add its beginning-of-text token because the template does not write it."""
        bos = getattr(self._tokenizer, "bos_token", None)
        return not (self.has_template and bos and text.startswith(bos))
