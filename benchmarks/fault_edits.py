"""What set-ups of many cases are made of: rows that are rewritten, images that are painted anew, settings, patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from fault_site import Change, Row, Site, replace_image, swap

SetUp = Callable[[Site], object]


def human(row: Row) -> str:
    """The human turn."""
    text: str = row["conversations"][0]["value"]
    return text


def caption(row: Row) -> str:
    """The caption."""
    text: str = row["conversations"][1]["value"]
    return text


def with_text(row: Row, human_turn: str | None = None, answer: str | None = None) -> Row:
    """A copy of a row with another human turn or caption."""
    turns = [dict(turn) for turn in row["conversations"]]
    turns[0]["value"] = turns[0]["value"] if human_turn is None else human_turn
    turns[1]["value"] = turns[1]["value"] if answer is None else answer
    return {**row, "conversations": turns}


def each(change: Callable[[int, Row], Row]) -> Callable[[Site], None]:
    """A set-up that rewrites the JSON row by row; with a fixed held-out file, that one alike."""

    def set_up(site: Site) -> None:
        held_out = site.held_out_rows
        site.write_rows(
            [change(i, row) for i, row in enumerate(site.rows)],
            None if held_out is None else [change(i, row) for i, row in enumerate(held_out)],
        )

    return set_up


def whole(change: Callable[[list[Row]], list[Row]]) -> Callable[[Site], None]:
    """A set-up that rewrites the JSON as a whole; with a fixed held-out file, that one alike."""

    def set_up(site: Site) -> None:
        held_out = site.held_out_rows
        site.write_rows(change(site.rows), None if held_out is None else change(held_out))

    return set_up


def repainted(change: Callable[[int, Image.Image], Image.Image], **options: Any) -> Callable[[Site], None]:
    """A set-up that saves every image file anew, with Pillow's `options`; `change` gets the row's place and RGB."""

    def set_up(site: Site) -> None:
        rows, root = site.rows, site.own_images()
        for i, row in enumerate([*rows, *(site.held_out_rows or ())]):
            with Image.open(root / row["image"]) as image:
                changed = change(i, image.convert("RGB"))
            replace_image(root / row["image"], changed, **options)

    return set_up


def settings(**values: object) -> Callable[[Site], None]:
    """A set-up that overrides config fields."""
    return lambda site: site.set(**values)


def in_turn(*steps: SetUp) -> Callable[[Site], None]:
    """A set-up of several, one after the other."""

    def set_up(site: Site) -> None:
        for step in steps:
            step(site)

    return set_up


def built(change: Callable[[Any], object]) -> Change:
    """The model, changed as soon as it is built."""

    def make(original: Any) -> Any:
        def build(config: Any, inputs: Any) -> Any:
            vlm = original(config, inputs)
            change(vlm)
            return vlm

        return build

    return swap("qwen3_vlm.build.build_model", make)
