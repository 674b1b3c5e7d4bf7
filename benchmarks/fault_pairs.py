"""Faults of pairing in the data file: captions paired with the image of another row."""

from __future__ import annotations

import random
from collections.abc import Callable

from fault_edits import caption, whole, with_text
from fault_site import TRAINED, Case, Row, Site


def _images_rolled(rows: list[Row], first: int = 0) -> list[Row]:
    """Pair each caption with the next row's image, starting at row `first`."""
    images = [row["image"] for row in rows]
    moved = [*images[:first], *images[first + 1 :], images[first]]
    return [{**row, "image": image} for row, image in zip(rows, moved, strict=True)]


def _with_captions(rows: list[Row], answers: list[str]) -> list[Row]:
    return [with_text(row, answer=answer) for row, answer in zip(rows, answers, strict=True)]


def _captions_rolled(rows: list[Row]) -> list[Row]:
    """Pair each image and its id with the next row's caption."""
    answers = [caption(row) for row in rows]
    return _with_captions(rows, answers[1:] + answers[:1])


def _captions_sorted(rows: list[Row]) -> list[Row]:
    return _with_captions(rows, sorted(caption(row) for row in rows))


def _captions_of_three(rows: list[Row]) -> list[Row]:
    """Rotate captions among every three neighbouring rows, as a loader with several workers may do."""
    answers = [caption(row) for row in rows]
    whole_threes = len(rows) - len(rows) % 3
    moved = [answers[i - i % 3 + (i + 1) % 3] for i in range(whole_threes)]
    return _with_captions(rows, moved + answers[whole_threes:])


def _sorted_as_text(rows: list[Row]) -> list[Row]:
    """Sort images and their ids as text, as a folder lists unpadded numbers: 0, 1, 10, 100, 1000, ..."""
    order = sorted(range(len(rows)), key=str)
    return [{**row, "image": rows[j]["image"], "id": rows[j]["id"]} for row, j in zip(rows, order, strict=True)]


def _last_quarter_rolled(rows: list[Row]) -> list[Row]:
    first = 3 * len(rows) // 4
    return [*rows[:first], *_captions_rolled(rows[first:])]


def _by_truncated_key(rows: list[Row]) -> list[Row]:
    """Give every ten rows the caption of the last of them."""
    last = {row["id"][:-1]: caption(row) for row in rows}
    return [with_text(row, answer=last[row["id"][:-1]]) for row in rows]


def _some_mismatched(share: float) -> Callable[[Site], None]:
    """Exchange about this share of the captions, drawn at random, among each other."""

    def change(rows: list[Row]) -> list[Row]:
        draw = random.Random(5)
        chosen = [i for i in range(len(rows)) if draw.random() < share]
        moved = dict(zip(chosen, _captions_rolled([rows[i] for i in chosen]), strict=True))
        return [moved.get(i, row) for i, row in enumerate(rows)]

    return whole(change)


def _train_rolled_score_true(site: Site) -> None:
    site.write_rows(_captions_rolled(site.rows[:TRAINED]), site.rows[TRAINED:])


def _train_true_score_rolled(site: Site) -> None:
    site.write_rows(site.rows[:TRAINED], _captions_rolled(site.rows[TRAINED:]))


PAIRS = (
    Case("pairs-rolled", "pairs-mismatched", "each caption with the next row's image", set_up=whole(_images_rolled)),
    Case(
        "captions-rolled",
        "pairs-mismatched",
        "each image, with its id, under the next row's caption",
        set_up=whole(_captions_rolled),
        world="digits",
    ),
    Case(
        "captions-sorted",
        "pairs-mismatched",
        "captions sorted by text, images left in file order",
        set_up=whole(_captions_sorted),
    ),
    Case(
        "captions-moved-by-three",
        "pairs-mismatched",
        "captions go round among each three neighbouring rows",
        set_up=whole(_captions_of_three),
    ),
    Case(
        "pairs-rolled-in-training",
        "pairs-mismatched",
        "each training image, with its id, under the next row's caption; held-out pairs are right",
        "training",
        set_up=_train_rolled_score_true,
    ),
    Case(
        "held-out-rolled",
        "pairs-mismatched",
        "held-out captions off by one, training right",
        set_up=_train_true_score_rolled,
    ),
    Case(
        "line-lost",
        "pairs-mismatched",
        "one line of the image list was lost: from row 250 on, pairs are off by one",
        set_up=whole(lambda rows: _images_rolled(rows, 250)),
    ),
    Case(
        "last-quarter-off",
        "pairs-mismatched",
        "captions of the last quarter (second shard) off by one",
        set_up=whole(_last_quarter_rolled),
    ),
    Case(
        "images-sorted-as-text",
        "pairs-mismatched",
        "images (with ids) listed by unpadded number as text",
        set_up=whole(_sorted_as_text),
    ),
    Case(
        "captions-by-truncated-key",
        "pairs-mismatched",
        "captions were joined on the id without its last digit: ten neighbours share one caption",
        set_up=whole(_by_truncated_key),
    ),
    Case(
        "two-in-five-mismatched",
        "pairs-mismatched",
        "two captions in five at random belong to other images",
        set_up=_some_mismatched(0.4),
    ),
)
