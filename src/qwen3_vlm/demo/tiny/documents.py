"""The training texts of the tiny language model: notes about a picture, then its caption.

A document is `prompt <|vision_start|> notes <|vision_end|> prompt`, followed by the caption. Only the caption counts in
the loss. The notes are the caption's facts as single words in random order. In half of the documents, several words
share a position and their embeddings are added, because a connector with few visual tokens will have to do the same.
All of this is necessary: a model trained on captions alone, or on notes in a fixed order, learns to ignore the
positions of the image, and then no connector can give it information about the image.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from qwen3_vlm.demo.tiny.vocabulary import PATCH, START, STOP
from qwen3_vlm.demo.worlds import digits, scenes

IMAGE = "<image>"
WITHOUT_NOTES = 0.15
"""Share of documents without an image block, from which the model learns captions of unknown pictures."""
WITHOUT_PROMPT = 0.1
TOGETHER = 0.5
PACKED = 0.5
FEWEST_SLOTS, MOST_SLOTS = 6, 10
"""Share of documents whose notes are packed into a few positions, and the smallest and largest number of positions."""
LONGEST_NOTES, LONGEST_CAPTION, LONGEST_SIDE = 24, 96, 128
"""Largest number of words in notes, of tokens in a caption, and of tokens in the prompt on either side of the image.
The rest is cut off."""
SCENE_SHARE = 0.78


_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+(?:['\u2019-][^\W_{_IDEOGRAPHS}]+)*")


@dataclass(frozen=True)
class Document:
    """One training text: the human turn (with `<image>`), the notes, and the caption.

    Notes are groups of words. The words about one thing form one group.
    """

    human: str
    notes: tuple[tuple[str, ...], ...]
    caption: str


@dataclass(frozen=True)
class Encoded:
    """A document as token ids: everything before the caption, and the caption with its end token.

    Packed notes appear as `<|image_pad|>` in `prompt`. `packed` contains pairs (position in `prompt`, token): the
    embeddings of all tokens with the same position are added.
    """

    prompt: tuple[int, ...]
    caption: tuple[int, ...]
    packed: tuple[tuple[int, int], ...] = ()


def plain_words(text: str) -> list[str]:
    """Return the words of a text of any script in lower case. In Chinese and Japanese, each character is a word."""
    return _WORD.findall(text.lower())


def facts(caption: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the words of `caption` that are in `known`, repeated as often as in the caption."""
    return tuple(word for word in plain_words(caption) if word in known)


def scene_documents(seed: object) -> Iterator[Document]:
    """Yield an endless series of documents about scenes (78%) and digits. No pictures are drawn."""
    rng = random.Random(f"tiny-documents-{seed}")
    while True:
        if rng.random() < SCENE_SHARE:
            scene = scenes.sample(rng)
            things = tuple((t.size, t.colour, t.shape, *t.place.split()) for t in scene.things)
            notes = (*things, (scene.texture, scene.background))
            yield Document(scenes.instruction(rng), notes, scenes.caption(scene, rng))
        else:
            value, weight = rng.randrange(10), rng.randrange(3)
            notes = ((digits.NAMES[value], digits.WEIGHTS[weight]),)
            yield Document(digits.instruction(rng), notes, digits.caption_of(value, weight, rng))


def noted(groups: Sequence[Sequence[str]], rng: random.Random) -> list[str]:
    """Return the words of the notes in random order: shuffled altogether, or group by group.

    In half of the cases, the words of one group stay together (the groups and the words in each group are shuffled), so
    that the model can learn that adjacent words belong together. In the other half, this cue is missing.
    """
    if rng.random() < TOGETHER:
        return [word for group in rng.sample(groups, len(groups)) for word in rng.sample(group, len(group))]
    words = [word for group in groups for word in group]
    return rng.sample(words, len(words))


def encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], tuple[int, ...]]:
    """Return a function from text to ids without special tokens. It caches results, because texts repeat very often."""
    seen: dict[str, tuple[int, ...]] = {}

    def encode(text: str) -> tuple[int, ...]:
        if text not in seen:
            seen[text] = tuple(tokenizer.encode(text, add_special_tokens=False))
        return seen[text]

    return encode


def encode_document(
    document: Document,
    tokenizer: PreTrainedTokenizerFast,
    encode: Callable[[str], tuple[int, ...]],
    rng: random.Random | None,
) -> Encoded:
    """Encode a document as the trainer encodes a sample, with notes at the positions of the visual tokens.

    Args:
        document: the document.
        tokenizer: the tokenizer, which gives the ids of the image block and of EOS.
        encode: see `encoder`.
        rng: shuffles and packs the notes, and sometimes leaves out prompt or notes. With None, everything is kept in
            order.
    """
    before, _, after = document.human.partition(IMAGE)
    notes = [word for group in document.notes for word in group]
    with_notes = True
    if rng is not None:
        notes = noted(document.notes, rng)
        with_notes = rng.random() >= WITHOUT_NOTES
        if rng.random() < WITHOUT_PROMPT:
            before, after = "", ""
    left, right = encode(before)[-LONGEST_SIDE:], encode(f"{after}\n")[-LONGEST_SIDE:]
    caption = tokenizer.encode(document.caption, add_special_tokens=False)[:LONGEST_CAPTION]
    said = (*caption, tokenizer.eos_token_id)
    if not with_notes:
        return Encoded((*left, *right), said)
    start, patch, stop = tokenizer.convert_tokens_to_ids([START, PATCH, STOP])
    tokens = [token for word in notes[:LONGEST_NOTES] for token in encode(f" {word}")]
    if rng is None or rng.random() >= PACKED:
        return Encoded((*left, start, *tokens, stop, *right), said)
    slots = rng.randint(FEWEST_SLOTS, MOST_SLOTS)
    places = sorted(rng.randrange(slots) for _ in tokens)
    packed = tuple((len(left) + 1 + place, token) for place, token in zip(places, tokens, strict=True))
    return Encoded((*left, start, *[patch] * slots, stop, *right), said, packed)
