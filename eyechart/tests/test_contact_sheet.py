"""The contact sheet, and the environment that pages name."""

import getpass
import platform
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyechart.reporting.contact_sheet import contact_sheet, missing_words
from eyechart.reporting.environment import environment
from eyechart.results import WrittenCaption

# The contact sheet


@pytest.fixture
def pictures(tmp_path: Path) -> list[tuple[Path, WrittenCaption]]:
    captions = [
        ("a red circle", "a red square"),
        ("\u732b on a mat \U0001f431", "\u041f\u0440\u0438\u0432\u0435\u0442 \U0001f436 mat"),
        ("", "x" * 200),
        ("[red]a[/red] <b>", ""),
        ("missing file", "missing file"),
    ]
    items = []
    for row, (true, written) in enumerate(captions):
        path = tmp_path / f"{row}.png"
        if row != 4:
            Image.fromarray(np.full((20 + 40 * row, 64, 3), 60 * row, dtype=np.uint8)).save(path)
        items.append((path, WrittenCaption(row=row, image=path.name, true=true, written=written)))
    return items


def colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}  # type: ignore[union-attr, misc]


def test_sheet_is_the_same_every_time(pictures: list[tuple[Path, WrittenCaption]], tmp_path: Path) -> None:
    contact_sheet(pictures, tmp_path / "a.png", "run \u732b")
    contact_sheet(pictures, tmp_path / "b.png", "run \u732b")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    contact_sheet(pictures[1:], tmp_path / "c.png", "run \u732b")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_words_that_are_not_in_the_true_caption_are_red(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.new("RGB", (8, 8), "blue").save(picture)
    red = (0xC0, 0x00, 0x20)
    for written, wrong in (("a red square", True), ("A circle, red.", False)):
        caption = WrittenCaption(row=0, image="p.png", true="a red circle", written=written)
        contact_sheet([(picture, caption)], tmp_path / "s.png", "run")
        assert (red in colours(tmp_path / "s.png")) == wrong


def test_missing_words_ignores_case_and_punctuation() -> None:
    assert missing_words("A red, Square! \U0001f436", "a RED circle.") == [False, False, True, True]
    assert missing_words("don't - stop", "don't \u2013 stop") == [False, True, False]
    assert missing_words("", "x") == []


def test_a_sheet_without_captions_can_be_drawn(tmp_path: Path) -> None:
    contact_sheet([], tmp_path / "s.png", "nothing")
    assert len(colours(tmp_path / "s.png")) > 1


# The environment


def test_environment_names_no_machine_and_no_person() -> None:
    found = environment()
    assert list(found) == list(environment())
    assert found["torch"].startswith("2.")
    assert found["cpus"].isdigit()
    for value in found.values():
        assert value == value.strip() != ""
        assert not re.search(r"(^|\s)[/~]", value)
        assert platform.node() not in value.split()
        assert getpass.getuser() not in value.split()
