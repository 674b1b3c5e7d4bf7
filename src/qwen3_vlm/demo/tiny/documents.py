"""What the tiny language model reads: notes about a picture, then its caption.

A document is `prompt <|vision_start|> notes <|vision_end|> prompt` and the caption; only the caption counts in the
loss. The notes are the caption's facts as single words in random order; half of the time several words share a place,
their embeddings added up, as a connector with few visual tokens will have to do it. All of this matters: a model
trained on captions alone, or on notes in a fixed order, learns to ignore what is in the image's place, and then no
connector can make it see.
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
"""Share of documents without an image block: what a caption looks like when nothing is known."""
WITHOUT_PROMPT = 0.1
TOGETHER = 0.5
PACKED = 0.5
FEWEST_SLOTS, MOST_SLOTS = 6, 10
"""Share of documents whose notes are packed into a few positions, and into how many."""
LONGEST_NOTES, LONGEST_CAPTION, LONGEST_SIDE = 24, 96, 128
"""Most words of notes, and most tokens of a caption and of the prompt on either side of the image; the rest is cut."""
SCENE_SHARE = 0.78


_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+(?:['\u2019-][^\W_{_IDEOGRAPHS}]+)*")


@dataclass(frozen=True)
class Document:
    """One training text: the human turn (with `<image>`), the notes, the caption.

    Notes are groups of words: what belongs to one thing is one group.
    """

    human: str
    notes: tuple[tuple[str, ...], ...]
    caption: str


@dataclass(frozen=True)
class Encoded:
    """A document as token ids: everything before the caption, and the caption with its end token.

    Packed notes appear as `<|image_pad|>` in `prompt`; `packed` says which tokens are added up at which of its places.
    """

    prompt: tuple[int, ...]
    caption: tuple[int, ...]
    packed: tuple[tuple[int, int], ...] = ()


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, whatever the script; Chinese and Japanese count each character."""
    return _WORD.findall(text.lower())


def facts(caption: str, known: Collection[str]) -> tuple[str, ...]:
    """The words of `caption` that are in `known`, repeated as often as the caption has them."""
    return tuple(word for word in plain_words(caption) if word in known)


def scene_documents(seed: object) -> Iterator[Document]:
    """Endless documents about scenes (78%) and digits, without a picture being drawn."""
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
    """The words of the notes in the order they are written down: shuffled altogether, or group by group.

    Half of the time words of one group stay together (groups and words within them are shuffled), which is how the
    model can learn that adjacent words belong together; in the other half this cue is missing.
    """
    if rng.random() < TOGETHER:
        return [word for group in rng.sample(groups, len(groups)) for word in rng.sample(group, len(group))]
    words = [word for group in groups for word in group]
    return rng.sample(words, len(words))


def encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], tuple[int, ...]]:
    """Text to ids without special tokens, remembering what it has seen: prompts and words repeat endlessly."""
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
    """Write a document down as the trainer writes a sample, with notes where the visual tokens will be.

    Args:
        document: what to write.
        tokenizer: for the ids of the image block and of the end.
        encode: see `encoder`.
        rng: shuffles the notes and leaves out prompt or notes now and then; None keeps everything, in order.
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
