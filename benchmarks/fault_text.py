"""Faults for check 0: captions that the language model cannot read, although a connector is trained on them."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fault_edits import caption, each, human, in_turn, settings, with_text
from fault_site import TRAINED, Case, Row, Site, checkpoint_alone, edit_json, edit_tensors, swap, take_base
from qwen3_vlm.build import prepare_inputs
from qwen3_vlm.demo.tiny import documents, language, vocabulary
from qwen3_vlm.demo.tiny.captions import noted_words

_SENTENCE = (
    ". The picture was drawn by a small program, saved as a file, and described by another one; "
    "nothing else can be seen"
)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_STEPS = 200
"""Training steps of a language model for another world. They take about ten seconds and suffice to read that world."""
_DIGITS = Path("data/digits/digits_train.json")
_GERMAN = dict(
    a="ein", on="auf", in_="im", at="am", the="der", and_="und", left="links", right="rechts", top="oben",
    bottom="unten", middle="Mitte", small="kleiner", large="grosser", circle="Kreis", square="Quadrat",
    triangle="Dreieck", cross="Kreuz", ring="Reif", red="rot", green="gruen", blue="blau", yellow="gelb",
    purple="lila", orange="orangefarben", white="weiss", grey="grau", pink="rosa", beige="sandfarben", cyan="tuerkis",
    plain="einfarbig", striped="gestreift", dotted="gepunktet",
)  # fmt: skip
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_CIPHER = str.maketrans(_ALPHABET + _ALPHABET.upper(), (_ALPHABET[13:] + _ALPHABET[:13]) * 2)


def _tokenizer_permuted(site: Site) -> None:
    """Exchange the ids of ordinary tokens at random; special tokens keep their ids."""

    def edit(tree: dict[str, Any]) -> None:
        special = {token["content"] for token in tree["added_tokens"]}
        known = tree["model"]["vocab"]
        words = [word for word in known if word not in special]
        ids = [known[word] for word in words]
        random.Random(3).shuffle(ids)
        known.update(zip(words, ids, strict=True))

    edit_json(site.own_backbone("llm") / "tokenizer.json", edit)


def _embeddings_permuted(site: Site) -> None:
    """Reorder the rows of the embedding table, which is also the head, except those of special tokens."""
    special = set(prepare_inputs(site.config()).tokenizer.all_special_ids)

    def edit(tensors: dict[str, Any]) -> None:
        table = tensors["model.embed_tokens.weight"]
        ordinary = [row for row in range(len(table)) if row not in special]
        drawn = np.random.default_rng(3).permutation(ordinary).tolist()
        table[ordinary] = table[drawn].clone()

    edit_tensors(site.own_backbone("llm") / "model.safetensors", edit)


def _of_another_world(site: Site) -> None:
    """Use a tokenizer and weights that belong together but were trained only on digits."""
    rows: list[Row] = json.loads(_DIGITS.read_text(encoding="utf-8"))
    _learn(site, rows)


def upper_cased_and_read(site: Site) -> None:
    """All captions in upper case, and a language model that has learnt such captions."""
    rows = [_upper(i, row) for i, row in enumerate(site.rows)]
    site.write_rows(rows)
    _learn(site, rows)


def _learn(site: Site, rows: list[Row]) -> None:
    """A language model and a tokenizer trained on these rows alone."""
    known = noted_words([caption(row) for row in rows])
    pool = [documents.Document(human(row), (documents.facts(caption(row), known),), caption(row)) for row in rows]
    tokenizer = vocabulary.train((document.caption for document in pool), 700)
    draw = random.Random(3)

    def forever() -> Iterator[documents.Document]:
        return itertools.chain.from_iterable(draw.sample(pool, len(pool)) for _ in itertools.count())

    model, _ = language.train(tokenizer, forever(), _STEPS)
    language.save(model, tokenizer, site.folder / "llm")
    site.set(model__llm=str(site.folder / "llm"))


def _enciphered(i: int, row: Row) -> Row:
    return with_text(row, answer=caption(row).translate(_CIPHER))


def _digit_alone(i: int, row: Row) -> Row:
    return with_text(row, answer=next(word for word in _NUMBERS if word in caption(row).lower()))


def _upper(i: int, row: Row) -> Row:
    return with_text(row, answer=caption(row).upper())


def _german(i: int, row: Row) -> Row:
    words = re.findall(r"\w+|\W+", caption(row))
    return with_text(row, answer="".join(_GERMAN.get(word.lower().replace("and", "and_"), word) for word in words))


def _held_out(change: Callable[[int, Row], Row]) -> Callable[[Site], None]:
    """A held-out file of the world's own last rows, with other captions."""

    def set_up(site: Site) -> None:
        rows = site.rows
        site.write_rows(rows[:TRAINED], [change(i, row) for i, row in enumerate(rows[TRAINED:])])

    return set_up


def _evaluated_alone(change: Callable[[int, Row], Row]) -> Callable[[Site], None]:
    """The healthy run's `.pt` without the other files of its folder, scored on a data file with other captions."""
    return in_turn(checkpoint_alone, each(change))


def _answers_upper(original: Any) -> Any:
    return lambda self, captions: original(self, [caption.upper() for caption in captions])


TEXT = (
    Case(
        "captions-upper-cased",
        "captions-unread",
        "all captions in upper case, which the language model never met",
        set_up=in_turn(each(_upper), settings(data__max_seq_len=256)),
    ),
    Case(
        "held-out-upper-cased",
        "held-out-differs",
        "held-out captions in upper case, training captions as they were",
        set_up=in_turn(_held_out(_upper), settings(data__max_seq_len=256)),
    ),
    Case(
        "held-out-in-german",
        "held-out-differs",
        "held-out captions in German, training captions in English",
        set_up=in_turn(_held_out(_german), settings(data__max_seq_len=256)),
    ),
    Case(
        "data-upper-cased-later",
        "captions-unread",
        "a healthy `.pt` alone is scored on its rows with captions in upper case",
        "evaluation",
        in_turn(_evaluated_alone(_upper), settings(data__max_seq_len=256)),
        also=("data-changed", "held-out-differs"),
    ),
    Case(
        "data-in-german-later",
        "captions-unread",
        "a healthy `.pt` alone is scored on its rows with captions in German",
        "evaluation",
        in_turn(_evaluated_alone(_german), settings(data__max_seq_len=256)),
        also=("data-changed", "held-out-differs"),
    ),
    Case(
        "captions-upper-cased-when-evaluated",
        "answer-partly-labelled",
        "code changes captions to upper case before they are tokenised, for a healthy connector",
        "evaluation",
        in_turn(take_base, settings(data__max_seq_len=256)),
        swap("qwen3_vlm.data.prompt.PromptBuilder._answers", _answers_upper),
    ),
    Case(
        "tokenizer-permuted",
        "captions-unread",
        "ordinary tokens in tokenizer.json have each other's ids at random, in training and scoring",
        set_up=_tokenizer_permuted,
        also=("token-id-mismatch",),
    ),
    Case(
        "embeddings-permuted",
        "captions-unread",
        "rows of the embedding table, which is the head too, are in another order in the file",
        set_up=_embeddings_permuted,
        also=("token-id-mismatch",),
    ),
    Case(
        "language-model-of-another-world",
        "captions-unread",
        "a sound language model with its own tokenizer, which was trained on digits alone",
        set_up=_of_another_world,
        also=("token-id-mismatch",),
    ),
    Case(
        "captions-enciphered",
        "captions-unread",
        "captions in a language that the language model never met (each letter moved by 13)",
        set_up=in_turn(each(_enciphered), settings(data__max_seq_len=256)),
        also=("token-id-mismatch",),
    ),
    Case(
        "long-unknown-sentence",
        "captions-unread",
        "after every caption one long sentence, always the same, of words that the language model never met",
        set_up=in_turn(
            each(lambda i, row: with_text(row, answer=caption(row) + _SENTENCE)), settings(data__max_seq_len=192)
        ),
        also=("token-id-mismatch",),
    ),
    Case(
        "unknown-pieces",
        "captions-unread",
        "the caption is the number alone, as `f` `our`: the language model knows ` four`, and no such beginning",
        set_up=each(_digit_alone),
        world="digits",
    ),
)
