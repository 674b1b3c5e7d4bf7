"""Digits, a world of real images: scikit-learn's bundled handwritten digits with captions, in the layout of scenes.

    from qwen3_vlm.demo.worlds import digits
    digits.ensure(Path("data/digits"))        # digits_train.json (1,500) and digits_eval.json (297)

The 8 x 8 scans are enlarged to 64 px and show dark ink on light paper. A caption names the digit and the weight of its
strokes (the mean ink, in thirds of the training digits). No download is needed, because the scans are part of
scikit-learn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from qwen3_vlm.demo.worlds import _files

TRAIN_FILE, EVAL_FILE = "digits_train.json", "digits_eval.json"
SIDE = 64
"""Side of a picture in pixels."""
TRAIN_COUNT = 1500
SEED = 2024
VERSION = 1
"""Version number, which is increased whenever the same seed would give other pictures, captions or halves."""

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WEIGHTS = ("thin", "medium", "bold")
_INSTRUCTIONS = ("Which digit is this?", "Describe the picture.", "Read the number.", "What is in this image?")


@dataclass(frozen=True)
class Digit:
    """One scan: its `value` 0-9, stroke `weight` 0-2 (an index into WEIGHTS) and `picture` (RGB, 64 px)."""

    value: int
    weight: int
    picture: Image.Image


@cache
def load() -> tuple[tuple[Digit, ...], tuple[Digit, ...]]:
    """Return the digits as (1,500 for training, 297 held out). The two parts are always the same.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            "the digits world needs scikit-learn's bundled scans, which is not installed: "
            "pip install 'qwen3-vlm[worlds]'"
        ) from None
    bundle = load_digits()
    order = list(range(len(bundle.target)))
    random.Random(f"digits-{VERSION}-{SEED}").shuffle(order)
    ink = bundle.images.mean(axis=(1, 2))
    borders = np.quantile(ink[order[:TRAIN_COUNT]], (1 / 3, 2 / 3))
    digits = [
        Digit(int(bundle.target[i]), int(np.searchsorted(borders, ink[i])), _picture(bundle.images[i])) for i in order
    ]
    return tuple(digits[:TRAIN_COUNT]), tuple(digits[TRAIN_COUNT:])


def _picture(scan: np.ndarray) -> Image.Image:
    paper = np.clip(255 - scan * (255 / 16), 0, 255).astype(np.uint8)
    return Image.fromarray(paper).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")


def caption(digit: Digit, rng: random.Random) -> str:
    """Name the digit and the weight of its strokes in one of several ways."""
    return caption_of(digit.value, digit.weight, rng)


def caption_of(value: int, weight_index: int, rng: random.Random) -> str:
    """Return a caption for any `value` 0-9 and any weight 0-2, whether or not there is such a scan."""
    name, weight = NAMES[value], WEIGHTS[weight_index]
    ways = (
        f"A handwritten {name} in {weight} strokes.",
        f"The digit {name}, {weight} strokes.",
        f"This is a {weight} {name}.",
        f"{weight.capitalize()} strokes form the number {name}.",
    )
    return rng.choice(ways)


def instruction(rng: random.Random) -> str:
    """Return a human turn with `<image>` before or after the words."""
    return _files.instruction(rng, _INSTRUCTIONS)


def grade(written: str, true: str) -> dict[str, bool]:
    """Return whether the written caption names the same `digit` and the same stroke `weight` as the true one."""
    said, meant = (set(text.lower().replace(".", " ").replace(",", " ").split()) for text in (written, true))
    return {"digit": said & set(NAMES) == meant & set(NAMES), "weight": said & set(WEIGHTS) == meant & set(WEIGHTS)}


def write(folder: Path) -> tuple[Path, Path]:
    """Write both parts to `folder` if they do not exist yet.

    Returns:
        The paths of `digits_train.json` and `digits_eval.json`; image paths in them are relative to `folder`.

    Raises:
        ValueError: scikit-learn is not installed, or `folder` has other content.
    """
    stamp = {"world": "digits", "version": VERSION, "seed": SEED}

    def fill(draft: Path) -> None:
        start = 0
        for digits, file in zip(load(), (TRAIN_FILE, EVAL_FILE), strict=True):
            rows: list[_files.Row] = []
            for index, digit in enumerate(digits, start):
                rng, name = random.Random(f"digits-{VERSION}-{SEED}-{index}"), _files.image_name(index)
                _files.save_png(digit.picture, draft, name)
                human = instruction(rng)
                rows.append(_files.row(f"{index:09d}", name, human, caption(digit, rng)))
            _files.save_rows(rows, draft / file)
            start += len(digits)

    _files.write_whole(folder, stamp, fill)
    return folder / TRAIN_FILE, folder / EVAL_FILE


def ensure(folder: Path) -> Path:
    """Make both parts if they do not exist yet, and return the path of `digits_train.json`."""
    return write(folder)[0]
