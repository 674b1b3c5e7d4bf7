"""Rows with different pictures have different pixels, or a finding says which rows share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from batches import Item, Made, made, picture
from eyechart.faults.served import Served, pictures_in, served_of, wrongly_served
from eyechart.results import Finding
from saved_models import Saved, saved

__all__ = ["saved"]

RED, BLUE = (220, 30, 30), (40, 60, 220)


def flag(height: int, width: int) -> Image.Image:
    """Two colours; all flags of one area have the same bytes, whatever their shape."""
    half = height * width // 2
    return Image.frombytes("RGB", (width, height), bytes(RED) * half + bytes(BLUE) * half)


def found(made: Made, pictures: Sequence[Image.Image], served: Sequence[Image.Image]) -> Finding | None:
    """What is found if rows with these pictures are collated with others."""
    rows = [{"images": [one], "messages": []} for one in pictures]
    batch = made.batch([Item((one,)) for one in served])
    return wrongly_served(served_of(range(len(rows)), rows, batch, made.processor, made.config))


def test_a_cache_keyed_by_bytes_without_size_is_named_with_its_rows(saved: Saved) -> None:
    wide, tall = flag(28, 40), flag(40, 28)
    assert wide.tobytes() == tall.tobytes()
    one = found(made(saved, "qwen2_5_vl"), [wide, tall, picture(1)], [wide, wide, picture(1)])
    assert one is not None and one.code == "image-order" and one.evidence["pairs"] == [[0, 1]]


def test_one_picture_for_all_rows_is_named_where_the_processor_crops_to_one_size(saved: Saved) -> None:
    pictures = [picture(seed) for seed in range(3)]
    one = found(made(saved, "llava"), pictures, [pictures[0]] * 3)
    assert one is not None and one.evidence["pairs"] == [[0, 1], [0, 2]]


def test_rows_that_share_a_picture_are_left_alone(saved: Saved) -> None:
    shared = [flag(28, 40), flag(28, 40), flag(40, 28)]
    assert found(made(saved, "qwen2_5_vl"), shared, shared) is None


def test_pictures_that_the_processor_itself_makes_equal_are_left_alone(saved: Saved) -> None:
    grey = [Image.new("RGB", size, (128, 128, 128)) for size in ((28, 40), (40, 28))]
    assert found(made(saved, "llava"), grey, grey) is None


def test_nearly_equal_pictures_are_left_alone() -> None:
    one, other = picture(0), picture(0)
    other.putpixel((0, 0), (0, 0, 0))
    assert wrongly_served([Served(0, (one,), "a", True), Served(1, (other,), "a", True)]) is None


def test_pictures_are_found_in_rows_of_any_form() -> None:
    one = picture(0)
    parts: list[Any] = [{"type": "image", "image": one}, {"type": "text", "text": "What is this?"}]
    rows = [{"images": [one]}, {"image": one}, {"messages": [{"role": "user", "content": parts}]}, Item((one,)), (one,)]
    assert [list(pictures_in(row)) for row in rows] == [[one]] * len(rows)
    assert not list(pictures_in({"image": "a.jpg", "pixel_values": [0.0]}))
