"""Reads the training rows of any LLaVA-format file, and selects the words that the tower learns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eyechart.data.images import ImageError, load_image
from eyechart.data.layouts import AUTO
from eyechart.data.reader import count_rows, read_rows
from eyechart.printing import out
from eyechart.progress import progress_bar
from eyechart.seam import Reject, Row
from qwen3_vlm.data.splits import draw_split
from qwen3_vlm.demo.tiny import tower
from qwen3_vlm.demo.tiny.documents import plain_words

MOST_WORDS = 256
"""Maximum number of words that the tower learns to distinguish."""
MOST_ROWS = 20_000
"""Largest number of rows that are used. Their images are held in memory (0.25 GB at 64 px)."""
MOST_PIXELS = 178_956_970
"""Images with more pixels are left out before they are decoded. The value is the default of `data.max_pixels`."""


@dataclass(frozen=True)
class Captioned:
    """Training rows with a readable image: `pixels` uint8 [N,3,side,side], in the order of `records`."""

    records: tuple[Row, ...]
    pixels: Tensor


def load_training_rows(
    file: Path,
    image_root: Path,
    *,
    layout: str = AUTO,
    side: int,
    max_samples: int | None,
    eval_ratio: float,
    seed: int,
) -> Captioned:
    """Read the rows that a run with the same settings trains on. The run's held-out rows are left out.

    Rows and images that cannot be used are counted on the terminal, and the first ones are named.

    Raises:
        ValueError: the file is missing or broken, or fewer than two rows are usable.
    """
    split = draw_split(count_rows(file, layout), max_samples, eval_ratio, seed)
    records, rejects = read_rows(file, split.train[:MOST_ROWS], image_root, layout)
    spec = tower.image_spec(side)
    kept: list[Row] = []
    pixels: list[Tensor] = []
    with progress_bar(len(records), "images", "image") as bar:
        for record in records:
            try:
                pixels.append(load_image(image_root / record.image, spec, MOST_PIXELS))
                kept.append(record)
            except ImageError as problem:
                rejects.append(Reject(record.row, problem.reason, f"{record.image}: {problem.detail}", problem.kind))
            bar.update()
    _report(len(kept), len(split.train), rejects)
    if len(kept) < 2:
        raise ValueError(
            f"expected at least 2 usable training rows in {file}, got {len(kept)} of {len(split.train)} "
            f"(images under {image_root}): check --data, --image-root and --max-samples"
        )
    return Captioned(tuple(kept), torch.stack(pixels))


def _report(kept: int, drawn: int, rejects: list[Reject]) -> None:
    lines = [f"{kept} of {drawn} training rows are usable"]
    lines += [f"  {count} left out: {reason}" for reason, count in Counter(r.reason for r in rejects).most_common()]
    lines += [f"  row {reject.row}: {reject.reason}: {reject.detail}" for reject in rejects[:5]]
    if kept + len(rejects) < drawn:
        lines.append(f"  {drawn - kept - len(rejects)} left out: tiny backbones use at most {MOST_ROWS} rows")
    for line in lines:
        out(line)


def content_words(captions: Sequence[str], most: int = MOST_WORDS) -> tuple[str, ...]:
    """Return the words that could depend on the picture, most frequent first.

    These are the words in at least 0.3% (and at least two) and at most 60% of the captions. If there are none, as in a
    small or unusual file, they are all words that are not in every caption. The result may be empty; then no word
    distinguishes pictures.
    """
    total = len(captions)
    count = Counter(word for caption in captions for word in set(plain_words(caption)))
    least = max(2, math.ceil(0.003 * total))
    usual = [word for word, times in count.most_common() if least <= times <= 0.6 * total]
    rest = [word for word, times in count.most_common() if times < total]
    return tuple((usual or rest)[:most])


def noted_words(captions: Sequence[str]) -> frozenset[str]:
    """Return the words for notes: all except those in more than 60% of the captions, which are only phrasing."""
    count = Counter(word for caption in captions for word in set(plain_words(caption)))
    return frozenset(word for word, times in count.items() if times <= max(1, 0.6 * len(captions)))
