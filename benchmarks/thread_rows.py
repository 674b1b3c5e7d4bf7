"""Rows for the trainings of `threads.py`: pictures of two colours, and answers that only the picture tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from batches import SIZES, Item, picture

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "white": (240, 240, 240)}
QUESTION = "What is this?"


def item(index: int, scale: int = 1) -> Item:
    """A picture of two colours in noise, `scale` times the usual sizes; the answer names both colours."""
    names = list(COLOURS)
    upper, lower = names[index % 4], names[(index // 4) % 4]
    height, width = (scale * side for side in SIZES[index % len(SIZES)])
    image = picture(index, (height, width))
    image.paste(COLOURS[upper], (2, 2, width - 2, height // 2))
    image.paste(COLOURS[lower], (2, height // 2, width - 2, height - 2))
    return Item((image,), (QUESTION, f"a {upper} circle on a {lower} ground"))


def items_of(count: int, seed: int, scale: int = 1) -> list[Item]:
    """Rows that differ between seeds in their noise and their order."""
    return [item(1000 * seed + index, scale) for index in range(count)]


def flags(count: int) -> list[Item]:
    """Pictures without noise, each once wide and once tall with the same bytes; the answer tells which."""
    found = []
    for index in range(count):
        upper, lower = list(COLOURS.values())[(index // 2) % 2], list(COLOURS.values())[2 + (index // 4) % 2]
        size, kind = [((28, 40), "circle"), ((40, 28), "square")][index % 2]
        half = size[0] * size[1] // 2
        image = Image.frombytes("RGB", (size[1], size[0]), bytes(upper) * half + bytes(lower) * half)
        found.append(Item((image,), (QUESTION, f"a {kind}")))
    return found


def trl_rows(items: Sequence[Item], layout: str = "messages") -> list[dict[str, Any]]:
    """The same rows in one of TRL's layouts, `messages` or `completion`."""
    found = []
    for one in items:
        turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(one.texts)]
        row: dict[str, Any] = {"images": list(one.images)}
        found.append(
            row | ({"messages": turns} if layout == "messages" else {"prompt": turns[:1], "completion": turns[1:]})
        )
    return found
