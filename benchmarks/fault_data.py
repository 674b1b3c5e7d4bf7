"""Faults of data and config: rows, captions, images, splits, settings. Nothing here patches code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fault_site import HELD_OUT, TRAINED, Case, Row, Site, human_turns, replace_image
from qwen3_vlm.build import prepare_data


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
    """A set-up that rewrites the JSON as a whole."""

    def set_up(site: Site) -> None:
        held_out = site.held_out_rows
        site.write_rows(change(site.rows), None if held_out is None else change(held_out))

    return set_up


def settings(**values: object) -> Callable[[Site], None]:
    """A set-up that overrides config fields."""
    return lambda site: site.set(**values)


def rolled(rows: list[Row], first: int = 0) -> list[Row]:
    """From row `first` on, each caption with the next row's image."""
    images = [row["image"] for row in rows]
    moved = [*images[:first], *images[first + 1 :], images[first]]
    return [{**row, "image": image} for row, image in zip(rows, moved, strict=True)]


def captions_rolled(rows: list[Row]) -> list[Row]:
    """Each image, with its id, under the next row's caption."""
    answers = [caption(row) for row in rows]
    return [with_text(row, answer=answer) for row, answer in zip(rows, answers[1:] + answers[:1], strict=True)]


def _sorted_apart(rows: list[Row]) -> list[Row]:
    answers = sorted(caption(row) for row in rows)
    return [with_text(row, answer=answer) for row, answer in zip(rows, answers, strict=True)]


def _train_rolled_score_true(site: Site) -> None:
    site.write_rows(captions_rolled(site.rows[:TRAINED]), site.rows[TRAINED:])


def _all_cut(site: Site) -> None:
    """A max_seq_len that cuts about nine sequences in ten."""
    lengths = np.array(prepare_data(site.config()).train.lengths)
    site.set(data__max_seq_len=int(np.quantile(lengths, 0.1)))


def _few_cut(site: Site) -> None:
    """One caption in 70 is several times as long as the others, and longer than max_seq_len."""
    tail = ", which has been described before and will be described again, at length and to no purpose"
    each(lambda i, row: with_text(row, answer=caption(row) + tail) if i % 70 == 5 else row)(site)
    site.set(data__max_seq_len=48)


def _image_cut(site: Site) -> None:
    """Every second request is so long that the image behind it does not fit any more."""
    request = (
        "Look at this picture closely, from left to right, and then say in one short sentence what it shows.\n<image>"
    )
    each(lambda i, row: with_text(row, request if i % 2 else "<image>"))(site)
    human_turns(site)
    site.set(data__max_seq_len=36)


def _damage(share: float, damage: Callable[[Path], object], accept: float | None = None) -> Callable[[Site], None]:
    """Damage about this share of the image files, spread evenly over the rows."""

    def set_up(site: Site) -> None:
        rows, root = site.rows, site.own_images()
        for row in rows[:: round(1 / share)]:
            path = root / row["image"]
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
            damage(path)
        if accept is not None:
            site.set(data__max_rejected=accept)

    return set_up


def _thin(path: Path) -> None:
    with Image.open(path) as image:
        thin = image.convert("RGB").resize((image.width, 1))
    thin.save(path)


def _paint(choose: Callable[[int], bool], colour: str) -> Callable[[Site], None]:
    """Replace the images of the chosen rows by one flat picture."""

    def set_up(site: Site) -> None:
        rows, root = site.rows, site.own_images()
        for i, row in enumerate(rows):
            if choose(i):
                replace_image(root / row["image"], Image.new("RGB", (64, 64), colour))

    return set_up


def _leak_by_copies(site: Site) -> None:
    """Every third row again, under another id and file name: copies fall on both sides of the split."""
    rows, root = site.rows, site.own_images()
    copies = []
    for i, row in enumerate(rows[::3]):
        name = f"copy/{i:06d}.png"
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy((root / row["image"]).resolve(), root / name)
        copies.append({**row, "id": f"copy-{i}", "image": name})
    site.write_rows([*rows, *copies])
    site.set(data__eval_ratio=2 * HELD_OUT / (len(rows) + len(copies)))


def _leak_by_file(site: Site) -> None:
    """The held-out file was cut from rows that are trained on."""
    site.write_rows(site.rows[:TRAINED], site.rows[TRAINED - HELD_OUT : TRAINED])


def _few_held_out(site: Site) -> None:
    site.write_rows(site.rows[:TRAINED], site.rows[TRAINED : TRAINED + 8])
    site.set(train__epochs=1, train__lr=4e-4)


def _ids(change: Callable[[int, Row], str]) -> Callable[[Site], None]:
    return each(lambda i, row: {**row, "id": change(i, row)})


DATA = (
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
    Case("pairs-rolled", "pairs-mismatched", "each caption with the next row's image", set_up=whole(rolled)),
    Case(
        "captions-rolled",
        "pairs-mismatched",
        "each image, with its id, under the next row's caption",
        set_up=whole(captions_rolled),
        world="digits",
    ),
    Case(
        "captions-sorted",
        "pairs-mismatched",
        "captions sorted by text, images left in file order",
        set_up=whole(_sorted_apart),
    ),
    Case(
        "pairs-rolled-in-training",
        "pairs-mismatched",
        "each training image, with its id, under the next row's caption; held-out pairs are right",
        "training",
        set_up=_train_rolled_score_true,
    ),
    Case(
        "line-lost",
        "pairs-mismatched",
        "one line of the image list was lost: from row 250 on, pairs are off by one",
        set_up=whole(lambda rows: rolled(rows, 250)),
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
        "images-blank",
        "images-degenerate",
        "every image is black, as a failed download script leaves them",
        set_up=_paint(lambda i: True, "black"),
    ),
    Case(
        "images-not-available",
        "images-degenerate",
        "three images in five are one grey `not available` picture",
        set_up=_paint(lambda i: i % 5 < 3, "#c8c8c8"),
    ),
    Case(
        "images-cut-off",
        "images-unreadable",
        "every twentieth image file ends after 60 bytes",
        set_up=_damage(1 / 20, lambda path: path.write_bytes(path.read_bytes()[:60])),
    ),
    Case(
        "few-images-missing",
        "images-unreadable",
        "one image file in 160 is missing",
        set_up=_damage(1 / 160, lambda path: path.unlink()),
    ),
    Case(
        "images-empty",
        "images-unreadable",
        "every eighth image file has 0 bytes, and data.max_rejected is 0.1",
        set_up=_damage(1 / 8, lambda path: path.write_bytes(b""), accept=0.1),
    ),
    Case(
        "few-images-thin",
        "images-unreadable",
        "one image in 160 is one pixel high",
        set_up=_damage(1 / 160, _thin),
    ),
    Case(
        "split-leak-copies",
        "split-leak",
        "every third row again under another id and file name",
        set_up=_leak_by_copies,
    ),
    Case("split-leak-file", "split-leak", "data.eval_json holds rows that are trained on", set_up=_leak_by_file),
    Case(
        "eight-held-out",
        "eval-too-small",
        "8 held-out samples and a short training",
        set_up=_few_held_out,
        also=("under-trained",),
    ),
    Case(
        "stopped-early",
        "under-trained",
        "240 training samples, one pass",
        set_up=lambda site: (
            site.write_rows(site.rows[: 240 + HELD_OUT]),
            site.set(data__eval_ratio=HELD_OUT / (240 + HELD_OUT), train__epochs=1),
        ),
    ),
    Case(
        "learning-rate-low",
        "under-trained",
        "train.lr 2e-5, a hundredth of what this world needs",
        set_up=settings(train__lr=2e-5),
    ),
    Case("ids-all-equal", "duplicate-ids", "every row has the id `0`", set_up=_ids(lambda i, row: "0")),
    Case(
        "ids-from-two-shards",
        "duplicate-ids",
        "two shards were joined whose ids both begin at 0",
        set_up=_ids(lambda i, row: f"{i % 650:09d}"),
        world="digits",
    ),
    Case(
        "caption-in-the-request",
        "leak",
        "every human turn ends with the caption that is to be written",
        set_up=lambda site: (
            each(lambda i, row: with_text(row, f"{human(row)}\nCaption: {caption(row)}"))(site),
            human_turns(site),
        ),
    ),
    Case(
        "scored-behind-another-prompt",
        "loss-not-reproduced",
        "a healthy connector is scored with another prompt.template than it was trained with",
        "evaluation",
        lambda site: (site.take_base(), site.set(prompt__template="Text: <image> Blue: ")),
    ),
)
