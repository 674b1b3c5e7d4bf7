"""Makes the tiny backbones that the command `python -m qwen3_vlm.demo.tiny` asks for."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from eyechart.data.reader import folder_of
from eyechart.exits import MOST_THREADS
from eyechart.printing import out
from eyechart.run_folder import RESULTS, Kinds, writing
from eyechart.settings import MOST_SEED, CoverageSettings, require_count, shortened
from qwen3_vlm.demo.tiny import card, documents, language, reading, tower, tower_captions, tower_worlds, vocabulary
from qwen3_vlm.demo.tiny.captions import content_words, load_training_rows, noted_words

WORLD_TOKENS, FILE_TOKENS = 700, 4000
MOST_SIDE = 4096
"""Largest side of an image, in pixels, as for `image_size` of a score."""


@dataclass(frozen=True)
class Options:
    """What to make, and the data to make it from."""

    output: Path | None = None
    """Folder for `llm/`, `vision/` and the model card, with --data also `config.yaml`. The default is assets/tiny, or
    outputs/tiny_NAME for a data file NAME.json."""
    data: Path | None = None
    """Rows in any layout of docs/data.md; without it the backbones are made for the embedded worlds."""
    layout: str = "auto"
    """Layout of --data, as `data.layout` of a run."""
    image_root: Path | None = None
    """Folder that the rows' image paths are relative to; the file's own folder if left out."""
    steps: int = 1600
    """Optimiser steps of the tower, and of the language model."""
    seed: int = 42
    """Draws the subset and the held-out rows of --data: the same number as the run that will use the backbones."""
    max_samples: int | None = 5000
    """Rows drawn from --data, training and held-out together."""
    eval_ratio: float = 0.02
    """Share of the drawn rows that is held out, and that the backbones never see."""
    image_size: int = 64
    """Side of the images for --data, in pixels; a multiple of 8."""
    threads: int = 2
    """CPU threads."""


def _is_of_earlier_version(path: Path) -> bool:
    """Whether a file is in a folder of backbones, which its model card shows."""
    folder = path.parent.parent if path.parent.name in ("llm", "vision") else path.parent
    readme = folder / "README.md"
    return readme.is_file() and readme.read_bytes()[:64].startswith(b"# Tiny backbones for ")


TINY_FILES = Kinds(re.compile(r"README\.md|config\.yaml|(?:llm|vision)/[^/]+"), _is_of_earlier_version)


def make(options: Options) -> None:
    """Make the backbones that `options` describe.

    Raises:
        ValueError: an option is out of range, the data is unusable, the language model fails the reading gate, or the
            output folder has a file of a user that would be replaced.
    """
    require_count("--steps", options.steps)
    require_count("--threads", options.threads, MOST_THREADS)
    require_count("--max-samples", options.max_samples)
    if not 0 <= options.seed <= MOST_SEED:
        raise ValueError(f"--seed: expected a number from 0 to {MOST_SEED}, got {shortened(options.seed)}")
    if not 0 <= options.eval_ratio < 1:
        raise ValueError(f"--eval-ratio: expected a number from 0 to below 1, got {options.eval_ratio}")
    if not tower.PATCH <= options.image_size <= MOST_SIDE or options.image_size % tower.PATCH:
        raise ValueError(
            f"--image-size: expected a multiple of {tower.PATCH} up to {MOST_SIDE}, got {shortened(options.image_size)}"
        )
    torch.set_num_threads(options.threads)
    named = "assets/tiny" if options.data is None else f"outputs/tiny_{options.data.name.split('.')[0]}"
    output = options.output or Path(named)
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: expected a folder, {output} is a file; name another")
    with writing(output, TINY_FILES) as opened:
        opened.require_ours()
        if options.data is None:
            make_for_worlds(output, options.steps)
        else:
            make_for_file(options, options.data, options.image_root or folder_of(options.data), output)


def make_for_worlds(output: Path, steps: int, exam_size: int = 1000) -> None:
    """Make backbones for scenes and digits, from attribute labels.

    The language model must pass the reading gate before anything is written.

    Raises:
        ValueError: the reading accuracy of the language model is below the gate; nothing is written.
    """
    texts = itertools.islice(documents.scene_documents("vocabulary"), 6000)
    tokenizer = vocabulary.train(_texts(texts), WORLD_TOKENS)
    model, loss = language.train(tokenizer, documents.scene_documents("train"), steps)
    exam = list(itertools.islice(documents.scene_documents("exam"), exam_size))
    read = reading.examine(model, tokenizer, exam, reading.world_grade)
    _report("reads its notes right", read)
    if missed := reading.failures(read):
        raise ValueError(
            f"the language model reads below {reading.GATE}: {', '.join(missed)}; nothing was written. "
            "No connector can give it information about the image: raise --steps"
        )
    eye, seen = tower_worlds.train(steps)
    _report("patches classified right", seen)
    with writing(output, TINY_FILES) as opened, opened.together(RESULTS) as folder:
        language.save(model, tokenizer, folder / "llm")
        tower.save(eye, folder / "vision")
        text = card.for_worlds(steps=steps, loss=loss, read=read, seen=seen, folder=folder)
        (folder / "README.md").write_text(text, encoding="utf-8")
    _say(f"wrote {output} ({card.size_of(output) / 1e6:.2f} MB)")


def make_for_file(options: Options, data: Path, image_root: Path, output: Path) -> None:
    """Make backbones for any LLaVA-format file, from the captions of its training rows.

    Raises:
        ValueError: the file has no usable rows.
    """
    rows = load_training_rows(
        data, image_root, layout=options.layout, side=options.image_size, max_samples=options.max_samples,
        eval_ratio=options.eval_ratio, seed=options.seed,
    )  # fmt: skip
    captions = [record.caption for record in rows.records]
    known = noted_words(captions)
    pool = [documents.Document(r.human, (documents.facts(r.caption, known),), r.caption) for r in rows.records]
    tokenizer = vocabulary.train(_texts(pool), FILE_TOKENS)
    lengths = card.lengths_of(rows.records, tokenizer)
    rng = random.Random(options.seed)
    rng.shuffle(pool)
    # A few documents are set aside for the exam if there are enough; otherwise the exam uses the training documents.
    exam, training = (pool[: len(pool) // 10][:200], pool[len(pool) // 10 :]) if len(pool) >= 50 else (pool, pool)
    model, loss = language.train(tokenizer, _forever(training, rng), options.steps)
    read = reading.examine(
        model, tokenizer, exam, lambda w, t: {"words": reading.recall(w, t)}, documents.LONGEST_CAPTION
    )
    _report("words of the caption written when the notes name them", read)
    words = content_words(captions)
    if not words:
        _say("no word distinguishes these captions: the tower keeps random layers and will carry little information")
    eye, seen = tower_captions.train(rows.pixels, captions, words, options.steps)
    _report(f"words of the caption recognised by the tower ({len(words)} learnt)", seen)
    section = {
        "json_file": str(data), "layout": options.layout, "image_root": str(image_root),
        "max_samples": options.max_samples, "eval_ratio": options.eval_ratio, "max_seq_len": card.room_for(lengths),
    }  # fmt: skip
    with writing(output, TINY_FILES) as opened, opened.together(RESULTS) as folder:
        language.save(model, tokenizer, folder / "llm")
        tower.save(eye, folder / "vision")
        text = card.for_file(data, rows=len(pool), words=len(words), steps=options.steps, loss=loss, marks=read | seen)
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / "config.yaml").write_text(card.config_for_file(output, options.seed, section), encoding="utf-8")
    _say(f"wrote {output} ({card.size_of(output) / 1e6:.2f} MB)")
    if too_long := sum(length > language.POSITIONS for length in lengths):
        _say(
            f"{too_long} of {len(lengths)} rows are longer than the {language.POSITIONS:,} tokens that this language "
            f"model has positions for: a run truncates them, and stops above {CoverageSettings().truncated_fail:g}%; "
            "shorten their captions"
        )
    _say(f"next: qwen3-vlm train --config {output / 'config.yaml'}")


def _texts(pool: Iterator[documents.Document] | list[documents.Document]) -> Iterator[str]:
    for document in pool:
        yield document.human.replace(documents.IMAGE, "") + "\n"
        yield document.caption
        yield "".join(f" {word}" for group in document.notes for word in group)


def _forever(pool: list[documents.Document], rng: random.Random) -> Iterator[documents.Document]:
    while True:
        yield from rng.sample(pool, len(pool))


def _report(title: str, marks: dict[str, float]) -> None:
    _say(f"{title}: " + (", ".join(f"{name} {value:.3f}" for name, value in marks.items()) or "not measured"))


def _say(line: str) -> None:
    out(line)
