"""Turns records into token ids and labels. Only the text is tokenised; the image block is inserted as token ids.

    text before the image | <|vision_start|> <|image_pad|> x Q <|vision_end|> | text after it | caption | EOS
    `--------------------------- prompt, no label ----------------------------'   `----- labelled ----'

The text before the image, the text after the image and the caption are tokenised separately, so that no token spans two
of them. The image block therefore always has Q + 2 tokens, where Q is the number of visual tokens per image, and the
caption's tokens do not depend on the prompt.
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
"""Number of captions per call of the tokenizer. Calling it for one caption at a time is twenty times slower."""


@dataclass(frozen=True)
class TokenIds:
    """The ids of the special tokens that this code uses."""

    start: int
    """Id of the token at which the image block starts. With `image_block: legacy`, this is the id of EOS."""
    patch: int
    """Id of the placeholder token, whose embedding is replaced by a visual token."""
    end: int
    """Id of the token at which the image block ends. With `image_block: legacy`, this is the id of EOS."""
    eos: int
    """Id of EOS, the labelled token at the end of every caption. Qwen3-Base also uses EOS as the padding token, so
    padding cannot be recognised by its id."""


class PromptBuilder:
    """Turns records into token ids, with one tokenizer, one prompt template and a fixed number of visual tokens."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, prompt: PromptConfig, latents: int, max_seq_len: int
    ) -> None:
        """Look up the ids of the special tokens, and build the image block from them.

        Args:
            tokenizer: a fast tokenizer. The builder copies it and does not change the original.
            prompt: the prompt template and the format of the image block.
            latents: Q, the number of visual tokens per image.
            max_seq_len: the maximum number of tokens per sequence.

        Raises:
            ValueError: the tokenizer has no EOS token, or it does not encode each token string of the image block as
                exactly one id.
        """
        self._name = tokenizer.name_or_path or "the tokenizer"
        self._template = prompt.template
        self._max_seq_len = max_seq_len
        # A saved tokenizer may have padding or truncation enabled, which would silently change the lengths of texts.
        # Both are disabled here, in a copy.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{self._name}: has no EOS token; captions need one to end with (set eos_token)")
        eos = int(tokenizer.eos_token_id)
        special = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        self._special = re.compile("|".join(map(re.escape, sorted(special | set(IMAGE_STRINGS[1:])))))
        if prompt.image_block == "legacy":
            # The older format added two delimiter tokens, whose frozen embeddings were copies of the EOS embedding. The
            # EOS id gives the language model the same input.
            self.ids = TokenIds(start=eos, patch=self._one_id(PATCH), end=eos, eos=eos)
            space = [self._one_id(" ")]
        else:
            self.ids = TokenIds(self._one_id(START), self._one_id(PATCH), self._one_id(END), eos)
            space = []
        tokens = [self.ids.start, *[self.ids.patch] * latents, self.ids.end]
        self._block = [part for token in tokens for part in (*space, token)][len(space) :]

    def prompt(self, human: str) -> Prompt:
        """Return the prompt of a human turn, as used for generation: its ids and the position of the image block.

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
        """Encode records, in the given order.

        If the template contains the string of a special token (as ChatML templates do), the string is encoded as that
        token. If a caption contains such a string, it is tokenised as ordinary text, so that a caption cannot contain
        EOS or an image placeholder. A row whose human turn contains such a string is rejected.

        Returns:
            One entry per record. The entry is a Reject if truncation to max_seq_len would remove part of the image
            block, or if the human turn contains the string of a special token.

        Raises:
            ValueError: max_seq_len is so small that no row would have a label token.
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
        """Return the first special-token string in the human turn; None if there is none.

        The result is also None if the template does not contain `{human}`, because the turn is then not used.
        """
        found = self._special.search(human) if "{human}" in self._template else None
        return found[0] if found else None

    def _answers(self, captions: Sequence[str]) -> Iterator[npt.NDArray[np.int32]]:
        for start in range(0, len(captions), _CHUNK):
            for ids in self._tokenise(captions[start : start + _CHUNK], special=False):
                yield np.array([*ids, self.ids.eos], dtype=np.int32)

    def _tokenise(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        """Return the token ids of each text. If `special` is true, the string of a special token becomes its one id."""
        # In the tokenizers library, `encode_special_tokens = True` means that the strings of special tokens are encoded
        # as ordinary text.
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
        """Return the smallest max_seq_len that truncates at most 1% of the records with a usable prompt."""
        usable = [record for record in records if record.human in prompts]
        answers = self._answers([record.caption for record in usable])
        lengths = sorted(len(prompts[r.human].ids_T) + len(a_N) for r, a_N in zip(usable, answers, strict=True))
        return lengths[-1 - len(lengths) // 100]
