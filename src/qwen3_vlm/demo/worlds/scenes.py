"""Scenes: one or two outlined shapes on a textured background, drawn and captioned by seed.

    from qwen3_vlm.demo.worlds import scenes
    scenes.ensure(Path("data/scenes"))        # 5,000 pictures of 64 px and scenes.json, in seconds

Every caption names every attribute: size, colour, shape and place of each thing, and texture and colour of the
background. The count is the number of things named. Two things differ in colour and in shape, so that it is always
clear which colour belongs to which shape. `attributes` reads the attributes of a caption, and `grade` compares those
of two captions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from qwen3_vlm.demo.worlds import _files
from qwen3_vlm.demo.worlds.scene_words import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    attributes,
    bindings,
    grade,
)

__all__ = [
    "FILE", "SIDE", "Scene", "Thing", "attributes", "bindings", "caption", "draw", "ensure", "grade",
    "instruction", "sample", "series", "write",
]  # fmt: skip

FILE = "scenes.json"
SIDE = 64
"""Side of a picture in pixels."""
COUNT, SEED = 5000, 2024
VERSION = 1
"""Version number, which is increased whenever the same seed would give different pictures or captions."""

_ZOOM = 3  # drawn larger by this factor and then shrunk, because PIL's shapes have hard edges
_OUTLINE = 1.8  # pixels of the finished picture; without an outline the tower does not learn shape
_INK = (22, 22, 26)
_COLOUR_RGB = {
    "red": (214, 40, 40),
    "green": (46, 150, 62),
    "blue": (42, 78, 204),
    "yellow": (240, 212, 40),
    "purple": (132, 52, 166),
    "orange": (242, 132, 28),
}
_BACKGROUND_RGB = {
    "white": (248, 248, 246),
    "grey": (158, 160, 164),
    "pink": (250, 190, 206),
    "beige": (222, 204, 164),
    "cyan": (150, 224, 230),
}
# Ranges of radii as shares of the side, by number of things and size. Two things have to fit beside each other.
_RADII = {1: {"small": (0.15, 0.18), "large": (0.26, 0.31)}, 2: {"small": (0.14, 0.165), "large": (0.21, 0.25)}}

_INSTRUCTIONS = (
    "Describe the picture.",
    "What is in this image?",
    "Write a short caption.",
    "What can be seen here?",
    "Give a brief description of the image.",
)


@dataclass(frozen=True)
class Thing:
    """One shape. `x`, `y` and `radius` are shares of the side, `turn` is in radians, and `tint` is added to its RGB."""

    shape: str
    colour: str
    size: str
    row: int
    column: int
    x: float
    y: float
    radius: float
    turn: float
    tint: tuple[int, int, int]

    @property
    def place(self) -> str:
        """The cell of the 3x3 grid that it is in, described by words such as `top left`."""
        return PLACES[self.row][self.column]


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn. `things` are in reading order; `phase` shifts the texture (share of its period)."""

    background: str
    texture: str
    phase: float
    things: tuple[Thing, ...]


def sample(rng: random.Random) -> Scene:
    """Draw a scene: one thing (60%) or two that do not touch."""
    count = 1 if rng.random() < 0.6 else 2
    shapes, colours = rng.sample(SHAPES, count), rng.sample(COLOURS, count)
    while True:
        things = [_thing(rng, shapes[i], colours[i], count) for i in range(count)]
        if count == 1 or _apart(things[0], things[1]):
            break
    things.sort(key=lambda thing: (thing.row, thing.column))
    return Scene(rng.choice(BACKGROUNDS), rng.choice(TEXTURES), rng.random(), tuple(things))


def _thing(rng: random.Random, shape: str, colour: str, count: int) -> Thing:
    size = rng.choice(SIZES)
    radius = rng.uniform(*_RADII[count][size])
    row, column = rng.randrange(3), rng.randrange(3)
    edge = radius + 0.025  # the smallest distance from the edge at which it is completely inside
    x, y = (edge + cell * (1 - 2 * edge) / 2 + rng.uniform(-0.02, 0.02) for cell in (column, row))
    tint = (rng.randint(-10, 10), rng.randint(-10, 10), rng.randint(-10, 10))
    return Thing(shape, colour, size, row, column, x, y, radius, rng.uniform(-0.15, 0.15), tint)


def _apart(one: Thing, other: Thing) -> bool:
    cells_differ = (one.row, one.column) != (other.row, other.column)
    return cells_differ and math.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius + 0.02


def draw(scene: Scene) -> Image.Image:
    """Draw a scene: RGB, `SIDE` x `SIDE` pixels."""
    side = SIDE * _ZOOM
    canvas = Image.new("RGB", (side, side), _BACKGROUND_RGB[scene.background])
    pen = ImageDraw.Draw(canvas)
    _draw_texture(pen, scene, side)
    for thing in scene.things:
        _draw_thing(pen, thing, side)
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX)


def _draw_texture(pen: ImageDraw.ImageDraw, scene: Scene, side: int) -> None:
    red, green, blue = _BACKGROUND_RGB[scene.background]
    shade = (int(red * 0.8), int(green * 0.8), int(blue * 0.8))
    if scene.texture == "striped":
        period = 9 * _ZOOM
        start = int(scene.phase * period) - period
        for top in range(start, side, period):
            pen.rectangle((0, top, side, top + 4 * _ZOOM), fill=shade)
    elif scene.texture == "dotted":
        period, radius = 10 * _ZOOM, 2.2 * _ZOOM
        start = int(scene.phase * period) - period
        for top in range(start, side + period, period):
            for left in range(start, side + period, period):
                pen.ellipse((left - radius, top - radius, left + radius, top + radius), fill=shade)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, side: int) -> None:
    red, green, blue = (min(255, max(0, c + t)) for c, t in zip(_COLOUR_RGB[thing.colour], thing.tint, strict=True))
    fill, line = (red, green, blue), round(_OUTLINE * _ZOOM)
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    box = (x - radius, y - radius, x + radius, y + radius)
    if thing.shape == "circle":
        pen.ellipse(box, fill=fill, outline=_INK, width=line)
    elif thing.shape == "ring":
        half = 0.45 * radius  # the hole with its outline
        pen.ellipse(box, outline=fill, width=round(0.6 * radius))
        pen.ellipse(box, outline=_INK, width=line)
        pen.ellipse((x - half, y - half, x + half, y + half), outline=_INK, width=line)
    else:
        pen.polygon(_corners(thing, x, y, radius), fill=fill, outline=_INK, width=line)


def _corners(thing: Thing, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    if thing.shape == "square":
        points = [(0.85 * a, 0.85 * b) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    elif thing.shape == "triangle":
        points = [(math.sin(angle), -math.cos(angle)) for angle in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    else:
        arm = 0.34  # half the width of a cross's bars
        quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
        points = []
        for _ in range(4):
            points += quarter
            quarter = [(-b, a) for a, b in quarter]
    sine, cosine = math.sin(thing.turn), math.cos(thing.turn)
    return [(x + radius * (a * cosine - b * sine), y + radius * (a * sine + b * cosine)) for a, b in points]


def caption(scene: Scene, rng: random.Random) -> str:
    """Describe all attributes of a scene in one of several ways (in about 14 tokens with the end token)."""
    ground = f"{scene.texture} {scene.background}"
    named = [f"{thing.size} {thing.colour} {thing.shape}" for thing in scene.things]
    if len(named) == 1:
        ways = (
            f"A {named[0]} at the {scene.things[0].place} on {ground}",
            f"{ground.capitalize()} with one {named[0]} at the {scene.things[0].place}",
            f"One {named[0]}, {scene.things[0].place}, on a {ground} background",
            f"At the {scene.things[0].place}, a {named[0]} on {ground}",
        )
    else:
        first, second = (f"{name} {thing.place}" for name, thing in zip(named, scene.things, strict=True))
        ways = (
            f"A {first} and a {second} on {ground}",
            f"{ground.capitalize()}, two shapes: {first}, {second}",
            f"Two on {ground}: a {first}, a {second}",
            f"A {first}, a {second}, {ground} background",
        )
    return rng.choice(ways)


def instruction(rng: random.Random) -> str:
    """Return a human turn with `<image>` before or after the words."""
    return _files.instruction(rng, _INSTRUCTIONS)


def series(count: int, seed: object) -> Iterator[tuple[Scene, random.Random]]:
    """Yield `count` scenes, each with the generator for its caption. Scene i depends only on `seed` and i."""
    for index in range(count):
        rng = random.Random(f"scenes-{VERSION}-{seed}-{index}")
        yield sample(rng), rng


def write(folder: Path, count: int = COUNT, seed: int = SEED) -> Path:
    """Write `count` scenes to `folder` (pictures in numbered sub-folders, and `scenes.json`) if they do not exist yet.

    Returns:
        The path of `scenes.json`; image paths in it are relative to `folder`.

    Raises:
        ValueError: `folder` has other content, or `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"expected a count of at least 1 scene, got {count}")
    stamp = {"world": "scenes", "version": VERSION, "count": count, "seed": seed}

    def fill(draft: Path) -> None:
        rows: list[_files.Row] = []
        for index, (scene, rng) in enumerate(series(count, seed)):
            name = _files.image_name(index)
            _files.save_png(draw(scene), draft, name)
            rows.append(_files.row(f"{index:09d}", name, instruction(rng), caption(scene, rng)))
        _files.save_rows(rows, draft / FILE)

    _files.write_whole(folder, stamp, fill)
    return folder / FILE


def ensure(folder: Path) -> Path:
    """Make the 5,000 scenes of the trial if they do not exist yet, and return the path of `scenes.json`."""
    return write(folder)
