"""Records to token ids and labels: text only, with the image block spliced in as ids.

    text before the image | <|vision_start|> <|image_pad|> x Q <|vision_end|> | text after it | caption | EOS
    `--------------------------- prompt, no label ----------------------------'   `----- labelled ----'

The three pieces of text are tokenised separately, so that no token crosses a boundary: the block always takes Q + 2
tokens, and the caption's tokens are the same whatever precedes them.
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
from eyechart.data.llava import IMAGE_STRINGS, PLACEHOLDER
from eyechart.exits import NamedInputError
from eyechart.seam import Reject, RejectKind, Row
from qwen3_vlm.config import PromptConfig

START, PATCH, END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
_CHUNK = 1000
"""Captions per call of the tokenizer: one call per caption is twenty times slower."""


@dataclass(frozen=True)
class TokenIds:
    """The ids that have a meaning in the code."""

    start: int
    """Opens the image block; with `image_block: legacy`, EOS."""
    patch: int
    """An image position."""
    end: int
    """Closes the image block; with `image_block: legacy`, EOS."""
    eos: int
    """Ends every caption, and is labelled. Qwen3-Base pads with it too: never compare ids to the pad id."""


class PromptBuilder:
    """Turns records into ids for one tokenizer, template and number of visual tokens."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, prompt: PromptConfig, latents: int, max_seq_len: int
    ) -> None:
        """Look up the ids and lay out the image block.

        Args:
            tokenizer: a fast tokenizer; it is copied, not changed.
            prompt: template and form of the image block.
            latents: Q, visual tokens per image.
            max_seq_len: tokens per sequence.

        Raises:
            ValueError: no EOS, or one of the block's strings is not exactly one id.
        """
        self._name = tokenizer.name_or_path or "the tokenizer"
        self._template = prompt.template
        self._max_seq_len = max_seq_len
        # A copy: a saved tokenizer may carry padding and truncation, which would silently change every length.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{self._name}: has no EOS token; captions need one to end with (set eos_token)")
        eos = int(tokenizer.eos_token_id)
        special = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        self._special = re.compile("|".join(map(re.escape, sorted(special | set(IMAGE_STRINGS[1:])))))
        if prompt.image_block == "legacy":
            # The added delimiters of the older format were frozen copies of EOS: for the language model they are EOS.
            self.ids = TokenIds(start=eos, patch=self._one_id(PATCH), end=eos, eos=eos)
            space = [self._one_id(" ")]
        else:
            self.ids = TokenIds(self._one_id(START), self._one_id(PATCH), self._one_id(END), eos)
            space = []
        tokens = [self.ids.start, *[self.ids.patch] * latents, self.ids.end]
        self._block = [part for token in tokens for part in (*space, token)][len(space) :]

    def prompt(self, human: str) -> Prompt:
        """The prompt of a human turn, for generation: ids and where the image block is.

        Raises:
            ValueError: not exactly one `<image>`, or a special token's string in `human`.
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

        Special tokens in the template become their ids (ChatML). Their strings in a caption stay ordinary text, so that
        no caption ends early or refers to an image; in a human turn they are rejected.

        Returns:
            One entry per record: a Reject if max_seq_len cuts the image block, or if the human turn contains a special
            token's string.

        Raises:
            ValueError: max_seq_len leaves no label token in any row.
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
        """A special token's string in the part of the prompt that comes from the row, if there is one."""
        found = self._special.search(human) if "{human}" in self._template else None
        return found[0] if found else None

    def _answers(self, captions: Sequence[str]) -> Iterator[npt.NDArray[np.int32]]:
        for start in range(0, len(captions), _CHUNK):
            for ids in self._tokenise(captions[start : start + _CHUNK], special=False):
                yield np.array([*ids, self.ids.eos], dtype=np.int32)

    def _tokenise(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        """Token ids of each text; with `special`, special tokens' strings become their one id."""
        # In the library, "encode special tokens" means as if they were ordinary words.
        self._backend.encode_special_tokens = not special
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def _one_id(self, text: str) -> int:
        (ids,) = self._tokenise([text], special=True)
        if len(ids) != 1:
            raise NamedInputError(
                "placeholder-split",
                f"{self._name}: this tokenizer encodes {text!r} as {len(ids)} ids, beginning {ids[:3]}, "
                "where it must be one",
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
        """The shortest length, in tokens, that leaves at least 99% of these records whole."""
        usable = [record for record in records if record.human in prompts]
        answers = self._answers([record.caption for record in usable])
        lengths = sorted(len(prompts[r.human].ids_T) + len(a_N) for r, a_N in zip(usable, answers, strict=True))
        return lengths[-1 - len(lengths) // 100]
