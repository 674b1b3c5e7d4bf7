"""Building blocks of the set-ups: functions that rewrite rows, repaint images, change settings and patch code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from fault_site import Change, Row, Site, replace_image, swap

SetUp = Callable[[Site], object]


def human(row: Row) -> str:
    """Return the human turn of a row."""
    text: str = row["conversations"][0]["value"]
    return text


def caption(row: Row) -> str:
    """Return the caption of a row."""
    text: str = row["conversations"][1]["value"]
    return text


def with_text(row: Row, human_turn: str | None = None, answer: str | None = None) -> Row:
    """Return a copy of a row with a new human turn or caption."""
    turns = [dict(turn) for turn in row["conversations"]]
    turns[0]["value"] = turns[0]["value"] if human_turn is None else human_turn
    turns[1]["value"] = turns[1]["value"] if answer is None else answer
    return {**row, "conversations": turns}


def each(change: Callable[[int, Row], Row]) -> Callable[[Site], None]:
    """Return a set-up that rewrites the JSON file row by row, and also the fixed held-out file if there is one."""

    def set_up(site: Site) -> None:
        held_out = site.held_out_rows
        site.write_rows(
            [change(i, row) for i, row in enumerate(site.rows)],
            None if held_out is None else [change(i, row) for i, row in enumerate(held_out)],
        )

    return set_up


def whole(change: Callable[[list[Row]], list[Row]]) -> Callable[[Site], None]:
    """Return a set-up that rewrites the JSON file as a whole, and also the fixed held-out file if there is one."""

    def set_up(site: Site) -> None:
        held_out = site.held_out_rows
        site.write_rows(change(site.rows), None if held_out is None else change(held_out))

    return set_up


def repainted(change: Callable[[int, Image.Image], Image.Image], **options: Any) -> Callable[[Site], None]:
    """Return a set-up that saves every image again.

    `change` gets the row's index and RGB image and returns the new image; `options` are passed to Pillow's `save`.
    """

    def set_up(site: Site) -> None:
        rows, root = site.rows, site.own_images()
        for i, row in enumerate([*rows, *(site.held_out_rows or ())]):
            with Image.open(root / row["image"]) as image:
                changed = change(i, image.convert("RGB"))
            replace_image(root / row["image"], changed, **options)

    return set_up


def settings(**values: object) -> Callable[[Site], None]:
    """Return a set-up that overrides config fields."""
    return lambda site: site.set(**values)


def in_turn(*steps: SetUp) -> Callable[[Site], None]:
    """Return a set-up that runs several set-ups one after the other."""

    def set_up(site: Site) -> None:
        for step in steps:
            step(site)

    return set_up


def built(change: Callable[[Any], object]) -> Change:
    """Change the model as soon as it is built."""

    def make(original: Any) -> Any:
        def build(config: Any, inputs: Any) -> Any:
            vlm = original(config, inputs)
            change(vlm)
            return vlm

        return build

    return swap("qwen3_vlm.build.build_model", make)
