"""Turns records into token ids and labels. Only text is tokenised; the image block is inserted as ids.

    text before the image | <|vision_start|> <|image_pad|> x Q <|vision_end|> | text after it | caption | EOS
    `--------------------------- prompt, no label ----------------------------'   `----- labelled ----'

The three pieces of text are tokenised separately, so that no token crosses a boundary. The block therefore always has
Q + 2 tokens, and the tokens of the caption do not depend on the text before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from eyechart.data.encoded import IMAGE_CUT, Encoded, Prompt
from eyechart.data.turns import IMAGE_STRINGS
from eyechart.exits import NamedInputError
from eyechart.rows import PLACEHOLDER
from eyechart.seam import Reject, RejectKind, Row
from qwen3_vlm.config import PromptConfig

START, PATCH, END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
_CHUNK = 1000
"""Number of captions per call of the tokenizer. One call per caption would be twenty times slower."""


@dataclass(frozen=True)
class TokenIds:
    """Token ids that have a special meaning in the code."""

    start: int
    """Id of the start of the image block; with `image_block: legacy`, it is EOS."""
    patch: int
    """Id of an image position."""
    end: int
    """Id of the end of the image block; with `image_block: legacy`, it is EOS."""
    eos: int
    """Id of the end of every caption, which is labelled. Qwen3-Base also uses it as padding, so padding must not be
    found by its id."""


class PromptBuilder:
    """Turns records into ids for one tokenizer, template and number of visual tokens."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, prompt: PromptConfig, latents: int, max_seq_len: int
    ) -> None:
        """Look up the ids and lay out the image block.

        Args:
            tokenizer: a fast tokenizer; it is copied, not changed.
            prompt: template and form of the image block.
            latents: Q, the number of visual tokens per image.
            max_seq_len: largest number of tokens per sequence.

        Raises:
            ValueError: the tokenizer has no EOS, or one of the block's strings is not exactly one id.
        """
        self._name = tokenizer.name_or_path or "the tokenizer"
        self._template = prompt.template
        self._max_seq_len = max_seq_len
        # Use a copy, because a saved tokenizer may enable padding and truncation, which would silently change lengths.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{self._name}: has no EOS token; captions need one to end with (set eos_token)")
        eos = int(tokenizer.eos_token_id)
        special = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        self._special = re.compile("|".join(map(re.escape, sorted(special | set(IMAGE_STRINGS[1:])))))
        if prompt.image_block == "legacy":
            # The delimiters that the older format added were frozen copies of EOS, so the language model reads EOS.
            self.ids = TokenIds(start=eos, patch=self._one_id(PATCH), end=eos, eos=eos)
            space = [self._one_id(" ")]
        else:
            self.ids = TokenIds(self._one_id(START), self._one_id(PATCH), self._one_id(END), eos)
            space = []
        tokens = [self.ids.start, *[self.ids.patch] * latents, self.ids.end]
        self._block = [part for token in tokens for part in (*space, token)][len(space) :]

    def prompt(self, human: str) -> Prompt:
        """Return the prompt of a human turn for generation: its ids and the position of the image block.

        Raises:
            ValueError: `human` does not contain exactly one `<image>`, or it contains the string of a special token.
        """
        text = self._template.replace("{human}", human)
        special = self._special_token(human)
        if text.count(PLACEHOLDER) != 1 or special:
            got = f"the special token {special}" if special else f"{text.count(PLACEHOLDER)} {PLACEHOLDER}"
            raise ValueError(
                f"expected a human turn with {PLACEHOLDER} once and no special token, got {got} in {human!r}"
            )
        before, after = self._tokenise(text.split(PLACEHOLDER), special=True)
        ids_T = np.array([*before, *self._block, *after], dtype=np.int64)
        return Prompt(ids_T, (len(before), len(before) + len(self._block)))

    def encode(self, records: Sequence[Row]) -> list[Encoded | Reject]:
        """Encode records, in their order.

        Special tokens in the template become their ids (ChatML). In a caption, their strings are treated as ordinary
        text, so that no caption ends early or refers to an image. A row whose human turn contains one of them is
        rejected.

        Returns:
            One entry per record. It is a Reject if max_seq_len would cut the image block, or if the human turn contains
            the string of a special token.

        Raises:
            ValueError: no row would have a label token with this max_seq_len.
        """
        special = {record.human: self._special_token(record.human) for record in records}
        prompts = {human: self.prompt(human) for human, found in special.items() if not found}
        self._require_labels(records, prompts)
        encoded: list[Encoded | Reject] = []
        for record, answer_N in zip(records, self._answers([r.caption for r in records]), strict=True):
            found = special[record.human]
            if found:
                detail = f"{found} found in {record.human[:80]!r}: remove it"
                reason = "special token in the human turn"
                encoded.append(Reject(record.row, reason, detail, RejectKind.SPECIAL_TOKEN))
            elif prompts[record.human].block[1] > self._max_seq_len:
                detail = f"the block ends at token {prompts[record.human].block[1]}, max_seq_len is {self._max_seq_len}"
                encoded.append(Reject(record.row, IMAGE_CUT, detail, RejectKind.IMAGE_CUT))
            else:
                encoded.append(Encoded(prompts[record.human], answer_N, self._max_seq_len))
        return encoded

    def _special_token(self, human: str) -> str | None:
        """Return the string of a special token in the part of the prompt that comes from the row; None without one."""
        found = self._special.search(human) if "{human}" in self._template else None
        return found[0] if found else None

    def _answers(self, captions: Sequence[str]) -> Iterator[npt.NDArray[np.int32]]:
        for start in range(0, len(captions), _CHUNK):
            for ids in self._tokenise(captions[start : start + _CHUNK], special=False):
                yield np.array([*ids, self.ids.eos], dtype=np.int32)

    def _tokenise(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        """Return the token ids of each text. With `special`, the string of a special token becomes its single id."""
        # In the library, "encode special tokens" means to encode them as if they were ordinary words.
        self._backend.encode_special_tokens = not special
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def _one_id(self, text: str) -> int:
        (ids,) = self._tokenise([text], special=True)
        if len(ids) != 1:
            raise NamedInputError(
                "placeholder-split",
                f"{self._name}: this tokenizer encodes {text!r} as {len(ids)} ids, beginning {ids[:3]}, "
                "but it must be one",
                "set model.llm to a model with the tokenizer of Qwen3, whose vocabulary has the image block's tokens, "
                "and all files of that tokenizer",
            )
        return ids[0]

    def _require_labels(self, records: Sequence[Row], prompts: Mapping[str, Prompt]) -> None:
        shortest = min((len(prompt.ids_T) for prompt in prompts.values()), default=0)
        if prompts and shortest + 1 > self._max_seq_len:
            cut = all(prompt.block[1] > self._max_seq_len for prompt in prompts.values())
            what = "cuts into the image block" if cut else "has no room for captions"
            keeps = "its image and its caption" if cut else "a token of its caption"
            raise NamedInputError(
                "image-truncated" if cut else "no-labels",
                f"data.max_seq_len {self._max_seq_len} {what}: the shortest prompt takes {shortest} tokens, "
                f"{len(self._block)} of them the image block, so no row keeps {keeps}",
                f"set data.max_seq_len to at least {self._roomy(records, prompts)}, which leaves 99% of captions "
                "whole; a shorter prompt.template and fewer connector.latents need less",
            )

    def _roomy(self, records: Sequence[Row], prompts: Mapping[str, Prompt]) -> int:
        """Return the smallest length, in tokens, at which at least 99% of these records are not truncated."""
        usable = [record for record in records if record.human in prompts]
        answers = self._answers([record.caption for record in usable])
        lengths = sorted(len(prompts[r.human].ids_T) + len(a_N) for r, a_N in zip(usable, answers, strict=True))
        return lengths[-1 - len(lengths) // 100]
