"""Twenty healthy set-ups: what a detector of faults must not complain about. Each is trained and evaluated as it is."""

from __future__ import annotations

from PIL import Image, ImageEnhance

from fault_data import caption, settings, with_text
from fault_site import HELD_OUT, TRAINED, Case, Site, World, replace_image

_CHATML = (
    "<|im_start|>system\nYou describe pictures.<|im_end|>\n<|im_start|>user\n{human}<|im_end|>\n<|im_start|>assistant\n"
)


def _dark(site: Site) -> None:
    """Pictures taken at dusk: every image at three fifths of its brightness."""
    rows, root = site.rows, site.own_images()
    for row in rows:
        with Image.open(root / row["image"]) as image:
            dark = ImageEnhance.Brightness(image.convert("RGB")).enhance(0.6)
        replace_image(root / row["image"], dark)


def _two_captions_each(site: Site) -> None:
    """Each training image twice, under two captions, as data sets with several captions an image have it."""
    rows, held_out = site.rows[: TRAINED // 2], site.rows[TRAINED:]
    seconds = [
        with_text({**row, "id": f"{row['id']}-b"}, answer=f"Seen here: {caption(row)[0].lower()}{caption(row)[1:]}")
        for row in rows
    ]
    site.write_rows([*rows, *seconds], held_out)


def _healthy(name: str, how: str, world: World = "scenes", **overrides: object) -> Case:
    return Case(name, "", how, world=world, set_up=settings(**overrides))


HEALTHY = (
    _healthy("seed-1", "the tiny trial, shortened", seed=1),
    _healthy("seed-2", "the same with another seed", seed=2),
    _healthy("digits-seed-1", "the digits trial, shortened: 120 different captions in 1,200 rows", "digits", seed=1),
    _healthy("human-turns", "the rows' own human turns, before and behind the image", prompt__template="{human}\n"),
    _healthy("request-behind-image", "the same request behind every image", prompt__template="<image>\nDescribe it.\n"),
    _healthy("request-before-image", "the request before the image, nothing behind", prompt__template="Look: <image>"),
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
    _healthy("uncached", "the tower runs in every epoch", "digits", data__cache_features="off"),
    _healthy(
        "other-batches",
        "batches of 8, accumulation 2, forward passes of 3",
        train__batch_size=8,
        train__accumulation=2,
        train__micro_batch_size=3,
    ),
    _healthy("depth-2", "two resampler layers, projector twice as wide", connector__depth=2, connector__mlp_ratio=2),
    _healthy(
        "cosine",
        "cosine schedule, no weight decay, other betas",
        train__schedule="cosine",
        train__weight_decay=0.0,
        train__betas=[0.9, 0.999],
    ),
    _healthy("short-but-sound", "one epoch at half the learning rate", train__epochs=1, train__lr=1e-3),
    Case("dark-images", "", "every image at three fifths of its brightness, as taken at dusk", set_up=_dark),
    Case("two-captions-each", "", "each training image under two captions", set_up=_two_captions_each),
)
assert len(HEALTHY) == 20 and HELD_OUT >= 64
