"""Healthy set-ups, for which no fault may be reported. They are trained and evaluated without an injected fault."""

from __future__ import annotations

import re

import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from fault_backbones import weights_edited
from fault_connector import visual_changed
from fault_drawings import bar_charts, grey_spots
from fault_edits import built, caption, each, in_turn, repainted, settings, with_text
from fault_pixels import TURNED, sixteen_bit, turned, with_palette
from fault_resuming import half_a_run
from fault_site import HELD_OUT, TRAINED, Case, Row, Site, World, edit_tensors
from fault_splits import copies_drawn
from fault_text import upper_cased_and_read
from qwen3_vlm.build import prepare_inputs

_CHATML = (
    "<|im_start|>system\nYou describe pictures.<|im_end|>\n<|im_start|>user\n{human}<|im_end|>\n<|im_start|>assistant\n"
)


def _near_white(i: int, image: Image.Image) -> Image.Image:
    return Image.blend(image, Image.new("RGB", image.size, "white"), 0.6)


def _of_many_sizes(i: int, image: Image.Image) -> Image.Image:
    return image.resize((40 + (i * 37) % 400, 40 + (i * 53) % 300), Image.Resampling.BICUBIC)


def _palette_or_alpha(i: int, image: Image.Image) -> Image.Image:
    return image.convert("RGBA") if i % 2 else with_palette(i, image)


def _two_captions_each(site: Site) -> None:
    """Use each training image twice with different captions, as in data sets with several captions per image."""
    rows, held_out = site.rows[: TRAINED // 2], site.rows[TRAINED:]
    seconds = [
        with_text({**row, "id": f"{row['id']}-b"}, answer=f"Seen here: {caption(row)[0].lower()}{caption(row)[1:]}")
        for row in rows
    ]
    site.write_rows([*rows, *seconds], held_out)


def _few_rows(site: Site) -> None:
    site.write_rows(site.rows[:160], site.rows[TRAINED : TRAINED + 64])
    site.set(train__epochs=12)


def _few_updates(site: Site) -> None:
    site.write_rows(site.rows[:240], site.rows[TRAINED:])
    site.set(train__epochs=1)


def _two_zero(visual_BQE: Tensor) -> Tensor:
    return torch.cat([visual_BQE[:, :-2], torch.zeros_like(visual_BQE[:, -2:])], dim=1)


def _nearer_delimiters(site: Site, tensors: dict[str, Tensor]) -> None:
    tokenizer, table = prepare_inputs(site.config()).tokenizer, tensors["model.embed_tokens.weight"]
    start, end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    table[end] = (table[end] + table[start]) / 2


def _background_alone(i: int, row: Row) -> Row:
    """Reduce the caption to two words that the language model knows, such as `Dotted cyan`."""
    found = re.search(r"(plain|dotted|striped) (\w+)", caption(row).lower())
    assert found, caption(row)
    return with_text(row, answer=found[0].capitalize())


def _three_times(i: int, row: Row) -> Row:
    return with_text(row, answer=". ".join([caption(row)] * 3))


def _with_a_rare_word(i: int, row: Row) -> Row:
    """Add a name that occurs in no other caption to one caption in five."""
    if i % 5:
        return row
    name = "".join("aeioubdgklmnprstz"[(i * 7919 + k * k * 31) % 17] for k in range(7)).capitalize()
    return with_text(row, answer=f"{caption(row)}, by {name}{i}")


def _second_exchange(i: int, row: Row) -> Row:
    more = [{"from": "human", "value": "Is it drawn?"}, {"from": "gpt", "value": "Yes."}]
    return row if i % 5 else {**row, "conversations": [*row["conversations"], *more]}


def _backbones_moved(site: Site) -> None:
    site.take_base()
    for part in ("vision", "llm"):
        weights = site.own_backbone(part) / "model.safetensors"
        edit_tensors(weights, lambda tensors: tensors.update({name: w.float() for name, w in tensors.items()}))


def _healthy(name: str, how: str, world: World = "scenes", **overrides: object) -> Case:
    return Case(name, "", how, world=world, set_up=settings(**overrides))


SET_UPS = (
    _healthy("seed-1", "the tiny trial, shortened", seed=1),
    _healthy("seed-2", "the same with another seed", seed=2),
    _healthy("digits-seed-1", "the digits trial, shortened: 120 different captions in 1,200 rows", "digits", seed=1),
    _healthy(
        "digits-seed-77",
        "digits, seed 77, two latents and depth 1",
        "digits",
        seed=77,
        connector__latents=2,
        connector__depth=1,
    ),
    _healthy("human-turns", "the rows' own human turns, before and after the image", prompt__template="{human}\n"),
    _healthy("request-behind-image", "the same request after every image", prompt__template="<image>\nDescribe it.\n"),
    _healthy(
        "request-before-image", "the request before the image, nothing after it", prompt__template="Look: <image>"
    ),
    _healthy(
        "chatml",
        "ChatML with a system turn; the rows' own requests",
        "digits",
        prompt__template=_CHATML,
        data__max_seq_len=192,
    ),
    _healthy("latents-4", "4 visual tokens", connector__latents=4),
    _healthy("latents-16", "16 visual tokens", "digits", connector__latents=16),
    _healthy("latents-64", "64 visual tokens", connector__latents=64, data__max_seq_len=160),
    _healthy("vision-ln", "a trained LayerNorm on the tower's features", connector__vision_ln=True),
    _healthy("no-key-positions", "connector.key_positions off", connector__key_positions=False),
    _healthy("no-output-norm", "connector.output_norm off", "digits", connector__output_norm=False),
    _healthy("depth-2", "two resampler layers, projector twice as wide", connector__depth=2, connector__mlp_ratio=2),
    _healthy("bf16", "model.precision bf16", model__precision="bf16"),
    _healthy("uncached", "the tower runs in every epoch", "digits", data__cache_features="off"),
    _healthy(
        "other-batches",
        "batches of 8, accumulation 2, forward passes of 3",
        train__batch_size=8,
        train__accumulation=2,
        train__micro_batch_size=3,
    ),
    _healthy(
        "cosine",
        "cosine schedule, no weight decay, other betas",
        train__schedule="cosine",
        train__weight_decay=0.0,
        train__betas=[0.9, 0.999],
    ),
    _healthy("short-but-sound", "one epoch at half the learning rate", train__epochs=1, train__lr=1e-3),
    _healthy("learning-rate-five-times", "train.lr 0.01, five times the config's", train__lr=0.01),
    _healthy("learning-rate-five-times-digits", "train.lr 0.01, five times the config's", "digits", train__lr=0.01),
    _healthy("learning-rate-tenth", "train.lr 2e-4, a tenth of the config's", train__lr=2e-4),
    Case("few-updates", "", "240 rows, one pass: 15 updates at the config's learning rate", set_up=_few_updates),
    Case(
        "upper-case-read",
        "",
        "all captions in upper case, and a language model that has learnt such captions",
        set_up=in_turn(upper_cased_and_read, settings(data__max_seq_len=192)),
    ),
    Case(
        "two-slots-zero",
        "",
        "two of the eight visual tokens are zero",
        change=visual_changed(_two_zero),
    ),
    Case(
        "delimiters-near-each-other",
        "",
        "the embedding of <|vision_end|> is halfway to that of <|vision_start|>",
        set_up=weights_edited("llm", _nearer_delimiters),
    ),
    Case(
        "train-mode-without-dropout",
        "",
        "the tower is in train mode, and none of its layers drops anything",
        change=built(lambda vlm: vlm.tower.model.train()),
    ),
    Case("few-rows", "", "160 training rows, 12 epochs, 64 held out", set_up=_few_rows),
    Case(
        "copies-drawn",
        "",
        "every third row again under another id and file name: copies of held-out images leave training",
        set_up=copies_drawn,
    ),
    Case("two-captions-each", "", "each training image under two captions", set_up=_two_captions_each),
    Case(
        "multi-turn",
        "",
        "one row in five has a second exchange, and data.max_rejected is 0.3",
        set_up=in_turn(each(_second_exchange), settings(data__max_rejected=0.3)),
    ),
    Case(
        "long-captions",
        "",
        "every caption is said three times over, in words that the language model knows",
        set_up=in_turn(each(_three_times), settings(data__max_seq_len=192)),
    ),
    Case(
        "two-word-captions",
        "",
        "the caption is the background alone, such as `Dotted cyan`: two dozen different captions",
        set_up=each(_background_alone),
    ),
    Case("rare-words", "", "one caption in five ends in a name that no other one has", set_up=each(_with_a_rare_word)),
    _healthy("hardly-trained", "one epoch at a fiftieth of the learning rate", train__epochs=1, train__lr=4e-5),
    Case(
        "two-words-hardly-trained",
        "",
        "the caption is the background alone, one epoch at a fiftieth of the learning rate",
        set_up=in_turn(each(_background_alone), settings(train__epochs=1, train__lr=4e-5)),
    ),
    Case(
        "dark-images",
        "",
        "every image at three fifths of its brightness, as taken at dusk",
        set_up=repainted(lambda i, image: ImageEnhance.Brightness(image).enhance(0.6)),
    ),
    Case("near-white", "", "every image blended with 60% white", set_up=repainted(_near_white)),
    Case("many-sizes", "", "image files of many sizes and shapes", set_up=repainted(_of_many_sizes)),
    Case("palette-rgba", "", "palette and RGBA PNGs, mixed", set_up=repainted(_palette_or_alpha)),
    Case("16-bit-grey", "", "16-bit grey PNGs", set_up=repainted(sixteen_bit), world="digits"),
    Case(
        "exif-orientation",
        "",
        "files stored turned, with the right EXIF orientation",
        set_up=repainted(turned, exif=TURNED),
    ),
    Case("own-bar-charts", "", "1,300 bar charts of the user's own", set_up=bar_charts),
    Case(
        "own-grey-spots-moved",
        "",
        "1,300 noisy grey pictures of the user's own, with one spot that is never at the very same place",
        set_up=grey_spots,
    ),
    Case("resumed-as-it-was", "", "interrupted inside an epoch and resumed rightly", "resume", half_a_run),
    Case(
        "backbones-moved-float32",
        "",
        "a healthy run is scored with its backbones in other folders, saved in float32",
        "evaluation",
        _backbones_moved,
    ),
)
assert len(SET_UPS) >= 20 and HELD_OUT >= 64
