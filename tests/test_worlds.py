"""The embedded worlds: drawn the same everywhere, captioned completely, graded strictly, written whole."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen3_vlm.demo import worlds
from qwen3_vlm.demo.worlds import digits, scenes
from qwen3_vlm.demo.worlds.scene_words import FACT_WORDS, words_of

TWO = "A small red circle top left and a large blue cross right on dotted grey"


def some_scenes(count: int, seed: object = "test") -> list[tuple[scenes.Scene, str]]:
    return [(scene, scenes.caption(scene, rng)) for scene, rng in scenes.series(count, seed)]


def pixels(scene: scenes.Scene) -> bytes:
    return scenes.draw(scene).tobytes()


def test_a_scene_is_drawn_from_its_seed_alone() -> None:
    first, second = some_scenes(20), some_scenes(20)
    assert [caption for _, caption in first] == [caption for _, caption in second]
    assert [pixels(scene) for scene, _ in first] == [pixels(scene) for scene, _ in second]
    assert [pixels(scene) for scene, _ in some_scenes(20, "other")] != [pixels(scene) for scene, _ in first]


def test_scene_i_does_not_depend_on_how_many_are_drawn() -> None:
    assert some_scenes(30)[:10] == some_scenes(10)


@pytest.mark.parametrize(
    "change",
    [{"shape": "ring"}, {"colour": "purple"}, {"radius": 0.3}, {"x": 0.3}],
)
def test_every_attribute_of_a_thing_shows_in_the_picture(change: dict[str, object]) -> None:
    thing = scenes.Thing("circle", "red", "small", 1, 1, 0.5, 0.5, 0.17, 0.0, (0, 0, 0))
    scene = scenes.Scene("grey", "plain", 0.0, (thing,))
    assert pixels(scene) != pixels(replace(scene, things=(replace(thing, **change),)))


def test_background_and_texture_show_in_the_picture() -> None:
    scene = scenes.Scene("grey", "plain", 0.0, ())
    others = [replace(scene, background="pink"), replace(scene, texture="striped"), replace(scene, texture="dotted")]
    assert len({pixels(one) for one in [scene, *others]}) == 4


def test_the_thing_is_where_its_cell_says() -> None:
    for scene, _ in some_scenes(200):
        for thing in scene.things:
            assert thing.radius < thing.x < 1 - thing.radius
            assert thing.radius < thing.y < 1 - thing.radius
            if thing.size == "small":
                assert int(thing.x * 3) == thing.column
                assert int(thing.y * 3) == thing.row


def test_two_things_never_share_colour_shape_or_room() -> None:
    pairs = [scene.things for scene, _ in some_scenes(300) if len(scene.things) == 2]
    assert len(pairs) > 80
    for one, other in pairs:
        assert one.colour != other.colour
        assert one.shape != other.shape
        assert np.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius


def test_every_caption_says_everything_about_its_scene() -> None:
    for scene, caption in some_scenes(400):
        said = scenes.attributes(caption)
        assert said["colour"] == {thing.colour for thing in scene.things}
        assert said["shape"] == {thing.shape for thing in scene.things}
        assert said["size"] == {thing.size for thing in scene.things}
        assert said["position"] == {thing.place for thing in scene.things}
        assert said["background"] == {scene.background}
        assert said["texture"] == {scene.texture}
        assert said["count"] == {str(len(scene.things))}
        assert scenes.bindings(caption) == {(thing.colour, thing.shape) for thing in scene.things}


def test_a_caption_agrees_with_itself_and_with_another_wording() -> None:
    scene = next(scene for scene, _ in some_scenes(50) if len(scene.things) == 2)
    wordings = {scenes.caption(scene, random.Random(seed)) for seed in range(30)}
    assert len(wordings) == 4
    for wording in wordings:
        assert all(scenes.grade(wording, min(wordings)).values())


@pytest.mark.parametrize(
    ("attribute", "wrong"),
    [
        ("colour", TWO.replace("red", "green")),
        ("shape", TWO.replace("circle", "ring")),
        ("size", TWO.replace("large", "small")),
        ("background", TWO.replace("grey", "pink")),
        ("texture", TWO.replace("dotted", "plain")),
        ("position", TWO.replace("top left", "top")),
        ("count", TWO + " and a small red circle"),
        ("binding", TWO.replace("red", "?").replace("blue", "red").replace("?", "blue")),
    ],
)
def test_each_attribute_is_graded_alone(attribute: str, wrong: str) -> None:
    marks = scenes.grade(wrong, TWO)
    assert not marks.pop(attribute)
    marks.pop("binding", None)
    assert all(marks.values())


def test_inventing_a_colour_is_as_wrong_as_forgetting_one() -> None:
    assert not scenes.grade(TWO + " red green", TWO)["colour"]
    assert not scenes.grade("A small circle top left and a large blue cross right on dotted grey", TWO)["colour"]


def test_an_empty_caption_gets_nothing_right() -> None:
    assert not any(scenes.grade("", TWO).values())


def test_binding_is_graded_only_where_there_are_two_things() -> None:
    one = "A small red circle at the top on plain white"
    assert "binding" not in scenes.grade(TWO, one)
    assert "binding" in scenes.grade(one, TWO)


def test_fact_words_are_the_words_that_differ_between_scenes() -> None:
    phrasing = {word for _, caption in some_scenes(200) for word in words_of(caption)} - FACT_WORDS
    assert phrasing == {"a", "and", "at", "background", "on", "one", "shapes", "the", "two", "with"}


def test_scenes_are_written_in_the_layout_of_llava_pretrain(tmp_path: Path) -> None:
    path = scenes.write(tmp_path / "scenes", count=1002, seed=3)
    rows = json.loads(path.read_text())
    assert path.name == "scenes.json"
    assert len(rows) == 1002
    assert len({row["id"] for row in rows}) == 1002
    assert rows[1001]["image"] == "00001/000001001.png"
    assert set(rows[0]) == {"id", "image", "conversations"}
    humans = [row["conversations"][0]["value"] for row in rows]
    assert {turn["from"] for turn in rows[0]["conversations"]} == {"human", "gpt"}
    assert all(human.count("<image>") == 1 for human in humans)
    before = sum(human.startswith("<image>\n") for human in humans)
    assert 400 < before < 600
    assert before == 1002 - sum(human.endswith("\n<image>") for human in humans)
    with Image.open(path.parent / rows[1001]["image"]) as picture:
        assert (picture.mode, picture.size) == ("RGB", (64, 64))
        scene, rng = list(scenes.series(1002, 3))[1001]
        assert picture.tobytes() == pixels(scene)
        assert scenes.instruction(rng) == humans[1001]


def test_a_world_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = scenes.write(tmp_path / "scenes", count=3, seed=3)
    path.write_text("mine")
    assert scenes.write(tmp_path / "scenes", count=3, seed=3).read_text() == "mine"


def test_a_folder_made_otherwise_is_refused(tmp_path: Path) -> None:
    scenes.write(tmp_path / "scenes", count=3, seed=3)
    with pytest.raises(ValueError, match=r"was made with .*'count': 3.*, expected .*'count': 4.*delete it"):
        scenes.write(tmp_path / "scenes", count=4, seed=3)


def test_a_folder_with_other_content_is_neither_used_nor_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose")
    with pytest.raises(ValueError, match="is not empty and was not made by the scenes world"):
        scenes.write(tmp_path, count=3)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(scene: scenes.Scene) -> Image.Image:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "draw", give_up)
    with pytest.raises(KeyboardInterrupt):
        scenes.write(tmp_path / "scenes", count=3)
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_processes_are_removed_and_a_users_hidden_folder_is_not(tmp_path: Path) -> None:
    for name, mode in ((".scenes-a1b2c3d4", 0o700), (".scenes-a1b2c3d4.draft", 0o755), (".scenes-original", 0o755)):
        (tmp_path / name).mkdir(mode)
        (tmp_path / name / "world.json").write_text("half")
    scenes.write(tmp_path / "scenes", count=3, seed=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".scenes-original", "scenes"]


def test_two_processes_make_a_world_once_and_the_second_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, made = scenes.draw, tmp_path / "made"
    made.touch()

    def counted(scene: scenes.Scene) -> Image.Image:
        with made.open("a") as file:
            file.write("x")
        time.sleep(0.05)
        return draw(scene)

    monkeypatch.setattr(scenes, "draw", counted)
    pid = os.fork()
    if pid == 0:
        try:
            scenes.write(tmp_path / "scenes", count=3, seed=3)
        finally:
            os._exit(0)
    scenes.write(tmp_path / "scenes", count=3, seed=3)
    os.waitpid(pid, 0)
    assert made.read_text() == "xxx"


def test_a_count_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1 scene, got 0"):
        scenes.write(tmp_path / "scenes", count=0)


def test_an_unknown_world_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits, scenes, got 'photos'"):
        worlds.ensure("photos", tmp_path)


def test_digits_are_1500_and_297_with_no_picture_in_both() -> None:
    train, held_out = digits.load()
    assert (len(train), len(held_out)) == (1500, 297)
    seen = {digit.picture.tobytes() for digit in train}
    assert len(seen) == 1500
    assert not seen & {digit.picture.tobytes() for digit in held_out}
    assert {digit.value for digit in held_out} == set(range(10))


def test_digits_are_written_in_two_files(tmp_path: Path) -> None:
    train = worlds.ensure("digits", tmp_path / "digits")
    rows, held_out = (
        json.loads((tmp_path / "digits" / name).read_text()) for name in (digits.TRAIN_FILE, digits.EVAL_FILE)
    )
    assert train.name == digits.TRAIN_FILE
    assert (len(rows), len(held_out)) == (1500, 297)
    assert not {row["image"] for row in rows} & {row["image"] for row in held_out}
    digit = digits.load()[1][5]
    with Image.open(tmp_path / "digits" / held_out[5]["image"]) as picture:
        assert picture.tobytes() == digit.picture.tobytes()
    caption = held_out[5]["conversations"][1]["value"]
    assert digits.NAMES[digit.value] in caption
    assert digits.WEIGHTS[digit.weight] in caption.lower()


@pytest.mark.parametrize(
    ("written", "digit", "weight"),
    [
        ("This is a bold four.", True, True),
        ("This is a thin four.", True, False),
        ("This is a bold five.", False, True),
        ("This is a bold four or five.", False, True),
        ("", False, False),
    ],
)
def test_a_digit_is_right_when_it_alone_is_named(written: str, digit: bool, weight: bool) -> None:
    assert digits.grade(written, "Bold strokes form the number four.") == {"digit": digit, "weight": weight}


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    digits.load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'qwen3-vlm\[worlds\]'"):
        digits.load()
