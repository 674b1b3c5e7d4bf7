"""Faults of the rows of a data file: placeholders, turns, captions, ids, and texts that are too long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fault_edits import caption, each, human, in_turn, settings, with_text
from fault_site import Case, Row, Site, human_turns, take_base
from qwen3_vlm.build import prepare_data


def _turns_swapped(i: int, row: Row) -> Row:
    return with_text(row, caption(row), human(row))


def _all_cut(site: Site) -> None:
    """Set a max_seq_len that truncates about nine sequences in ten."""
    lengths = np.array(prepare_data(site.config()).train.lengths)
    site.set(data__max_seq_len=int(np.quantile(lengths, 0.1)))


def _few_cut(site: Site) -> None:
    """Make one caption in 70 several times as long as the others, and longer than max_seq_len."""
    tail = ", which has been described before and will be described again, at length and to no purpose"
    each(lambda i, row: with_text(row, answer=caption(row) + tail) if i % 70 == 5 else row)(site)
    site.set(data__max_seq_len=48)


def _image_cut(site: Site) -> None:
    """Make every second request so long that the image after it no longer fits."""
    request = (
        "Look at this picture closely, from left to right, and then say in one short sentence what it shows.\n<image>"
    )
    each(lambda i, row: with_text(row, request if i % 2 else "<image>"))(site)
    human_turns(site)
    site.set(data__max_seq_len=36)


def _ids(change: Callable[[int], str]) -> Callable[[Site], None]:
    return each(lambda i, row: {**row, "id": change(i)})


def _requests(change: Callable[[int, Row], str]) -> Callable[[Site], None]:
    """Use the rows' own human turns, and replace them by the result of `change`."""
    return in_turn(each(lambda i, row: with_text(row, change(i, row))), human_turns)


ROWS = (
    Case(
        "placeholder-missing-everywhere",
        "no-placeholder",
        "`<image>` removed from every human turn in the JSON",
        set_up=each(lambda i, row: with_text(row, human(row).replace("<image>", "").strip())),
    ),
    Case(
        "placeholder-missing-in-some-rows",
        "no-placeholder",
        "`<image>` removed from one row in 150",
        set_up=each(lambda i, row: with_text(row, "Describe it.") if i % 150 == 7 else row),
    ),
    Case(
        "placeholder-twice",
        "placeholder-count",
        "a conversion script has put a second `<image>` into every human turn",
        set_up=each(lambda i, row: with_text(row, "<image>\n" + human(row))),
        world="digits",
    ),
    Case(
        "placeholder-in-many-captions",
        "placeholder-in-caption",
        "`<image>` in front of two captions in five",
        set_up=each(lambda i, row: with_text(row, answer="<image>\n" + caption(row)) if i % 5 < 2 else row),
    ),
    Case(
        "patch-token-in-few-captions",
        "placeholder-in-caption",
        "`<|image_pad|>` inside one caption in 200",
        set_up=each(lambda i, row: with_text(row, answer=caption(row) + " <|image_pad|>") if i % 200 == 3 else row),
    ),
    Case(
        "turns-swapped",
        "placeholder-in-caption",
        "human and gpt values exchanged",
        set_up=each(_turns_swapped),
        also=("no-placeholder",),
    ),
    Case(
        "image-block-cut",
        "image-truncated",
        "every second row has a long request before its image, and data.max_seq_len ends inside the image block",
        set_up=_image_cut,
    ),
    Case(
        "captions-cut",
        "answer-truncated",
        "data.max_seq_len cuts nine captions in ten",
        set_up=_all_cut,
    ),
    Case(
        "few-captions-cut",
        "answer-truncated",
        "one caption in 70 is longer than data.max_seq_len",
        set_up=_few_cut,
    ),
    Case(
        "shorter-when-evaluated",
        "answer-truncated",
        "data.max_seq_len is lower than in training",
        "evaluation",
        in_turn(take_base, settings(data__max_seq_len=20)),
    ),
    Case(
        "one-caption",
        "captions-degenerate",
        "the same caption for every image",
        set_up=each(lambda i, row: with_text(row, answer="A picture of an object")),
    ),
    Case(
        "filler-captions",
        "captions-degenerate",
        "nine captions in ten are `No description available.`",
        set_up=each(lambda i, row: row if i % 10 == 0 else with_text(row, answer="No description available.")),
    ),
    Case(
        "captions-numbered",
        "captions-degenerate",
        "captions are `Image 17 of the collection`: nothing in them depends on the image",
        set_up=each(lambda i, row: with_text(row, answer=f"Image {i} of the collection")),
        also=("constant-prompt",),
    ),
    Case(
        "caption-in-the-request",
        "leak",
        "every human turn ends with the caption that is to be written",
        set_up=_requests(lambda i, row: f"{human(row)}\nCaption: {caption(row)}"),
    ),
    Case(
        "words-in-the-request",
        "leak",
        "the request lists the caption's words in alphabetical order",
        set_up=_requests(lambda i, row: f"<image>\n{' '.join(sorted(caption(row).split()))}"),
    ),
    Case("ids-all-equal", "duplicate-ids", "every row has the id `0`", set_up=_ids(lambda i: "0")),
)
