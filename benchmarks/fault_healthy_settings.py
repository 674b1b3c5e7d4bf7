"""Healthy set-ups whose captions, prompt, split or settings differ from the trial's within what is reasonable."""

from __future__ import annotations

from fault_edits import caption, each, in_turn, settings, with_text
from fault_resuming import half_a_run
from fault_site import TRAINED, Case, Row, Site, World


def _lower(i: int, row: Row) -> Row:
    return with_text(row, answer=caption(row).lower())


def _full_stop(i: int, row: Row) -> Row:
    return with_text(row, answer=f"{caption(row)}.")


def _unicode(i: int, row: Row) -> Row:
    """Typographic quotes, a dash and letters outside ASCII in one caption of four."""
    return row if i % 4 else with_text(row, answer=f"«{caption(row)}» — café №{i % 7}")


def _lengths_mixed(i: int, row: Row) -> Row:
    """Captions of one to three sentences."""
    return with_text(row, answer=". ".join([caption(row)] * (1 + i % 3)))


def _own_requests(i: int, row: Row) -> Row:
    """Requests of many lengths, the image before, after or inside the text."""
    requests = (
        "<image>\nWhat is this?",
        "Describe the picture below in one short sentence, naming colours and shapes.\n<image>",
        "Look at <image> and write a caption.",
        "<image>",
    )
    return with_text(row, requests[i % len(requests)])


def _fixed_file(site: Site) -> None:
    site.write_rows(site.rows[:TRAINED], site.rows[TRAINED:])


def _few_held_out(site: Site) -> None:
    site.write_rows(site.rows[:TRAINED], site.rows[TRAINED : TRAINED + 40])


def _many_held_out(site: Site) -> None:
    site.write_rows(site.rows[:900], site.rows[900:])


def _set(name: str, how: str, world: World = "scenes", **overrides: object) -> Case:
    return Case(name, "", how, world=world, set_up=settings(**overrides))


HEALTHY_SETTINGS = (
    Case("captions-lower-case", "", "every caption in lower case", set_up=each(_lower)),
    Case("captions-with-full-stop", "", "every caption ends in a full stop", set_up=each(_full_stop), world="digits"),
    Case("captions-unicode", "", "quotes, dashes and accents in one caption of four", set_up=each(_unicode)),
    Case(
        "captions-of-mixed-length",
        "",
        "captions of one to three sentences",
        set_up=in_turn(each(_lengths_mixed), settings(data__max_seq_len=192)),
    ),
    Case(
        "requests-mixed",
        "",
        "requests of many lengths, the image before, after or inside the text",
        set_up=in_turn(each(_own_requests), settings(prompt__template="{human}\n", data__max_seq_len=128)),
    ),
    Case("fixed-held-out-file", "", "data.eval_json with 100 rows", set_up=_fixed_file),
    Case("few-held-out", "", "40 rows held out", set_up=_few_held_out),
    Case("many-held-out", "", "400 rows held out of 1,300", set_up=_many_held_out),
    Case("resumed-digits", "", "interrupted inside an epoch and resumed rightly", "resume", half_a_run, world="digits"),
    _set("max-samples-500", "500 of the rows, a fifth held out", data__max_samples=500, data__eval_ratio=0.2),
    _set("latents-1", "1 visual token", "digits", connector__latents=1),
    _set("depth-3", "three resampler layers", connector__depth=3),
    _set(
        "latents-1-free-scale",
        "1 visual token, output_norm off, trained LayerNorm on the features",
        connector__latents=1,
        connector__output_norm=False,
        connector__vision_ln=True,
    ),
    _set(
        "free-scale-64",
        "64 visual tokens, output_norm and key_positions off",
        connector__latents=64,
        connector__output_norm=False,
        connector__key_positions=False,
        data__max_seq_len=160,
    ),
    _set("legacy-block", "the older image block", "digits", prompt__image_block="legacy"),
    _set("text-around-image", "text before and after the image", prompt__template="Here: <image>\nIt shows: "),
    _set("batch-1", "batches of 1, accumulation 16", train__batch_size=1, train__accumulation=16, train__epochs=1),
    _set("batch-16", "batches of 16, no accumulation", "digits", train__batch_size=16, train__accumulation=1),
    _set("bf16-free-scale", "bf16, output_norm off", model__precision="bf16", connector__output_norm=False),
    _set("two-workers", "two processes read images ahead", data__workers=2, data__cache_features="off"),
    _set("rate-doubled", "twice the learning rate", train__lr=4e-3),
    _set("rate-quartered", "a quarter of the learning rate, three epochs", train__lr=5e-4, train__epochs=3),
    _set("linear-warmup", "linear schedule, a fifth of it warm-up", train__schedule="linear", train__warmup_ratio=0.2),
    _set(
        "constant-rate",
        "constant learning rate without warm-up, clipped at 0.3",
        "digits",
        train__schedule="constant",
        train__warmup_ratio=0.0,
        train__lr=1e-3,
        train__clip=0.3,
    ),
)
