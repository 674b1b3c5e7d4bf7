"""Faults of image files: damaged, empty, blank, or repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from fault_site import Case, Site, replace_image


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


def _one_size(i: int) -> tuple[int, int]:
    return 64, 64


def _many_sizes(i: int) -> tuple[int, int]:
    return 50 + i % 211, 60 + i % 97


def _paint(
    choose: Callable[[int], bool], colour: str, size: Callable[[int], tuple[int, int]] = _one_size
) -> Callable[[Site], None]:
    """Replace the images of the chosen rows by one flat picture."""

    def set_up(site: Site) -> None:
        rows, root = site.rows, site.own_images()
        for i, row in enumerate(rows):
            if choose(i):
                replace_image(root / row["image"], Image.new("RGB", size(i), colour))

    return set_up


IMAGES = (
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
        "logo-in-sizes",
        "images-degenerate",
        "two images in five are one flat picture, in many sizes",
        set_up=_paint(lambda i: i % 5 < 2, "#d0d0d8", _many_sizes),
    ),
    Case(
        "images-cut-off",
        "images-unreadable",
        "every twentieth image file ends after 60 bytes",
        set_up=_damage(1 / 20, lambda path: path.write_bytes(path.read_bytes()[:60])),
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
)
