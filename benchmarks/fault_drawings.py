"""Data sets like those of users, for healthy set-ups: drawn by this module in LLaVA's layout, and unlike the worlds."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from fault_edits import in_turn, settings
from fault_site import HELD_OUT, TRAINED, Site, human_turns

_RGB = {
    "red": (214, 40, 40),
    "green": (46, 150, 62),
    "blue": (42, 78, 204),
    "yellow": (240, 212, 40),
    "purple": (132, 52, 166),
    "orange": (242, 132, 28),
}
_GROUND = {"white": (245, 245, 245), "grey": (150, 150, 150), "beige": (225, 210, 175), "cyan": (150, 225, 230)}
_TOPS = {"small": 92, "medium": 60, "large": 18}
_PLACES = (("top left", "top", "top right"), ("left", "middle", "right"), ("bottom left", "bottom", "bottom right"))
_REQUESTS = ("What is in this image?\n<image>", "<image>\nDescribe the picture.", "Write a short caption.\n<image>")


def own_pictures(
    draw: Callable[[random.Random], tuple[Image.Image, str]], count: int = TRAINED + HELD_OUT
) -> Callable[[Site], None]:
    """Return a set-up with `count` drawings, by default as many as in the short runs of the worlds, and five epochs.

    Args:
        draw: returns picture and caption.
        count: number of rows, of which about 100 are held out.
    """

    def set_up(site: Site) -> None:
        root, rows, chance = site.folder / "own", [], random.Random(2024)
        for i in range(count):
            image, answer = draw(chance)
            path = root / f"{i // 500:02d}" / f"item_{i:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            turns = [{"from": "human", "value": chance.choice(_REQUESTS)}, {"from": "gpt", "value": answer}]
            rows.append({"id": path.stem, "image": str(path.relative_to(root)), "conversations": turns})
        site.write_rows(rows)
        site.set(data__image_root=str(root), data__world="none", train__epochs=5, data__eval_ratio=HELD_OUT / count)

    return set_up


def _shade(chance: random.Random, rgb: tuple[int, int, int], by: int = 14) -> tuple[int, int, int]:
    """Vary a colour; otherwise drawings of the same facts would be the same picture on both sides of the split."""
    red, green, blue = (min(255, max(0, part + chance.randint(-by, by))) for part in rgb)
    return red, green, blue


def _bar_chart(chance: random.Random) -> tuple[Image.Image, str]:
    """Draw three bars of different colours, each small, medium or large."""
    ground, colours = chance.choice(list(_GROUND)), chance.sample(list(_RGB), 3)
    sizes = [chance.choice(list(_TOPS)) for _ in colours]
    image = Image.new("RGB", (160, 120), _shade(chance, _GROUND[ground], 9))
    pen = ImageDraw.Draw(image)
    for place, (colour, size) in enumerate(zip(colours, sizes, strict=True)):
        top, left = _TOPS[size] + chance.randint(-7, 7), 12 + 50 * place + chance.randint(-5, 5)
        pen.rectangle((left, top, left + chance.randint(26, 38), 112), fill=_shade(chance, _RGB[colour]))
    pen.line((4, 113, 156, 113), fill=(20, 20, 20), width=2)
    a, b, c = (f"{size} {colour}" for size, colour in zip(sizes, colours, strict=True))
    captions = (
        f"On {ground}: {a} at the left, {b} in the middle, {c} at the right",
        f"Three shapes on {ground}, left {a}, middle {b}, right {c}",
        f"The left one is {a}, the middle one is {b} and the right one is {c}, on {ground}",
    )
    return image, chance.choice(captions)


def _grey_spot(chance: random.Random) -> tuple[Image.Image, str]:
    """Draw one bright spot in noise, as in X-rays. There are 18 different captions for its size and position."""
    row, column, size = chance.randrange(3), chance.randrange(3), chance.choice(("small", "large"))
    canvas_HW = np.random.default_rng(chance.randrange(2**32)).normal(105, 9, (128, 128))
    y, x = 22 + 42 * row + chance.randint(-10, 10), 22 + 42 * column + chance.randint(-10, 10)
    radius = chance.randint(6, 9) if size == "small" else chance.randint(14, 20)
    down_HW, across_HW = np.mgrid[0:128, 0:128]
    canvas_HW[(down_HW - y) ** 2 + (across_HW - x) ** 2 < radius**2] += chance.randint(40, 80)
    image = Image.fromarray(canvas_HW.clip(0, 255).astype(np.uint8))
    return image, f"A {size} white circle at the {_PLACES[row][column]} on grey"


bar_charts = in_turn(own_pictures(_bar_chart), human_turns, settings(data__max_seq_len=160))
"""A set-up with bar charts, each with one of three human turns and one of three wordings of the caption."""
grey_spots = own_pictures(_grey_spot)
