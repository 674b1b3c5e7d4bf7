"""Makes the training texts (documents) of the tiny language model: notes about a picture, then the picture's caption.

A document has the form `prompt <|vision_start|> notes <|vision_end|> prompt`, followed by the caption. The loss counts
only the caption's tokens. The notes list the caption's facts as single words in random order, where the visual tokens
will be later. In half of the documents with notes, the notes are packed: several words share one position, and their
embeddings are added. A connector with few visual tokens also has to put several facts into one token.

Notes in random order are necessary. A model that is trained on captions alone, or on notes in a fixed order, learns to
ignore the image positions. No connector can then pass information about the image to such a model.
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
"""Share of documents without notes and image block, from which the model learns to write captions without a picture."""
WITHOUT_PROMPT = 0.1
TOGETHER = 0.5
PACKED = 0.5
FEWEST_SLOTS, MOST_SLOTS = 6, 10
"""Smallest and largest number of positions for packed notes. `PACKED` is the probability of packing."""
LONGEST_NOTES, LONGEST_CAPTION, LONGEST_SIDE = 24, 96, 128
"""Maximum number of words in the notes, of tokens in the caption, and of prompt tokens on each side of the image.
Longer texts are truncated."""
SCENE_SHARE = 0.78


_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+(?:['\u2019-][^\W_{_IDEOGRAPHS}]+)*")


@dataclass(frozen=True)
class Document:
    """One training text: the human turn (with `<image>`), the notes, and the caption.

    The notes are groups of words; each group describes one thing in the picture.
    """

    human: str
    notes: tuple[tuple[str, ...], ...]
    caption: str


@dataclass(frozen=True)
class Encoded:
    """A document as token ids: `prompt` is everything before the caption, and `caption` is the caption with EOS.

    If the notes are packed, `prompt` has `<|image_pad|>` at their positions, and `packed` lists pairs (position in
    `prompt`, token id). The input embedding of such a position is made from the sum of the embeddings of its tokens
    (see `language.embed`).
    """

    prompt: tuple[int, ...]
    caption: tuple[int, ...]
    packed: tuple[tuple[int, int], ...] = ()


def plain_words(text: str) -> list[str]:
    """Return the words of a text in lower case, for any script. Every Chinese or Japanese character is one word."""
    return _WORD.findall(text.lower())


def facts(caption: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the words of `caption` that are in `known`, in their order in the caption and with repetitions."""
    return tuple(word for word in plain_words(caption) if word in known)


def scene_documents(seed: object) -> Iterator[Document]:
    """Yield an endless stream of documents: 78% about scenes and 22% about digits. No pictures are drawn."""
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
    """Return the words of the notes in random order.

    In half of the cases, the words of a group remain adjacent: the groups are shuffled, and the words within each
    group. From these notes, the model can learn that adjacent words describe the same thing. In the other half, all
    words are shuffled together.
    """
    if rng.random() < TOGETHER:
        return [word for group in rng.sample(groups, len(groups)) for word in rng.sample(group, len(group))]
    words = [word for group in groups for word in group]
    return rng.sample(words, len(words))


def encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], tuple[int, ...]]:
    """Return a function that encodes a text without adding special tokens, and caches the ids because texts repeat."""
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
    """Encode a document in the same format as a training sample, with notes in place of the visual tokens.

    Args:
        document: the document.
        tokenizer: the tokenizer for the caption; it also provides the ids of the image block and of EOS.
        encode: the cached function that `encoder` returns, used for the prompt and the notes.
        rng: random generator that shuffles the notes, packs some of them, and sometimes omits the prompt or the notes.
            If it is None, the document is encoded complete, unpacked and in the given order.
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
