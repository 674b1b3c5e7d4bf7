"""The preflight names what is wrong with the rows, files and split of a data file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyechart.exits import NamedInputError
from eyechart.seam import Reject, RejectKind
from preflight_world import World, bad, caption_of, copy_world, first, human
from qwen3_vlm.build import prepare_data
from qwen3_vlm.config import Config
from qwen3_vlm.preflight.rows import findings_of_error, reject_findings

Patch = pytest.MonkeyPatch


def test_how_a_reason_is_worded_decides_nothing() -> None:
    def codes(kind: RejectKind) -> list[str]:
        return [f.code for f in reject_findings([Reject(0, "image missing", "no such file", kind)], 9, Config())]

    assert codes(RejectKind.NO_FILE) == ["images-unreadable"]
    assert codes(RejectKind.NO_CAPTION) == ["no-labels"]
    assert codes(RejectKind.OTHER) == codes(RejectKind.SEVERAL_EXCHANGES) == []


def test_a_finding_of_refused_input_has_all_of_its_message_and_all_of_its_fix() -> None:
    (found,) = findings_of_error(NamedInputError("no-labels", "no room; at all", "raise it; or shorten"), Config())
    assert (found.code, found.message, found.fix) == ("no-labels", "no room; at all", "raise it; or shorten")


def test_rows_without_a_placeholder_are_named(world: World) -> None:
    world.change(human("Describe the picture."))
    assert first(world.find()) == "no-placeholder"


def test_one_row_without_a_placeholder_in_sixty_is_a_warning_where_five_percent_are_allowed(world: World) -> None:
    world.change(lambda row, i: row["conversations"][0].update(value="Say.") if i == 7 else None)
    assert first(world.find(data__max_rejected=0.05, data__eval_ratio=0.0), "warning") == "no-placeholder"


def test_two_placeholders_for_one_image_are_named(world: World) -> None:
    world.change(human("<image>\n<image>\nDescribe."))
    assert first(world.find()) == "placeholder-count"


def test_an_image_token_in_captions_is_named(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value="a <|image_pad|> cat"))
    assert first(world.find()) == "placeholder-in-caption"


def test_blank_captions_are_named_as_rows_without_labels(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value="  "))
    assert first(world.find()) == "no-labels"


def test_one_caption_for_everything_is_a_warning(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value="a picture"))
    assert first(world.find(), "warning") == "captions-degenerate"


def test_a_shared_id_is_a_warning(world: World) -> None:
    world.change(lambda row, i: row.update(id="7") if i < 50 else None)
    assert first(world.find(), "warning") == "duplicate-ids"


def test_ids_that_name_other_rows_images_are_named(world: World) -> None:
    names = [row["image"] for row in world.rows()]
    world.change(lambda row, i: row.update(image=names[i - 1]))
    assert first(world.find()) == "pairs-mismatched"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_text("<html>404</html>"),
        lambda path: Image.new("RGB", (50, 1)).save(path),
    ],
    ids=["missing", "empty", "truncated", "no image", "one pixel high"],
)
def test_images_that_cannot_be_read_are_named_by_share(world: World, damage: Callable[[Path], object]) -> None:
    damage(world.image(0))
    assert first(world.find(data__max_rejected=0.1), "warning") == "images-unreadable"
    for row in range(0, 60, 3):
        damage(world.image(row)) if row else None
    assert first(world.find(data__max_rejected=0.1)) == "images-unreadable"


def test_one_image_under_many_rows_is_a_warning(world: World) -> None:
    for row in range(20):
        shutil.copy(world.image(59), world.image(row))
    assert first(world.find(data__eval_ratio=0.0), "warning") == "images-degenerate"


def test_five_captions_per_image_are_sound(world: World) -> None:
    names = [row["image"] for row in world.rows()]
    world.change(lambda row, i: row.update(image=names[i // 5], id=f"caption {i}"))
    assert bad(world.find(data__eval_ratio=0.0)) == []


def test_blank_images_are_a_warning(world: World) -> None:
    for row in range(60):
        Image.new("RGB", (80, 70), (row, 7, 200)).save(world.image(row))
    assert "images-degenerate" in bad(world.find())


def test_held_out_images_under_another_name_in_training_leave_it_and_are_a_note(world: World) -> None:
    split = prepare_data(world.config()).split
    for held_out, trained in zip(split.eval, split.train, strict=False):
        shutil.copy(world.image(held_out), world.image(trained))
    found = world.find()
    assert bad(found) == [] and first(found, "note") == "split-leak"
    assert found[0].evidence["left_training"] == found[0].evidence["held_out_rows"] == len(split.eval)


def test_images_of_a_fixed_held_out_file_under_another_name_in_training_are_a_leak(world: World) -> None:
    for row in range(12):
        shutil.copy(world.image(row), world.image(row + 20))
    held_out = world.root / "held_out.json"
    held_out.write_text(json.dumps(world.rows()[:12]), encoding="utf-8")
    world.file.write_text(json.dumps(world.rows()[12:]), encoding="utf-8")
    found = world.find(data__eval_json=str(held_out))
    assert first(found) == "split-leak"
    assert found[0].evidence["same_bytes"] == 12


def test_one_missing_image_of_few_is_a_warning_and_two_are_an_error(world: World) -> None:
    world.image(0).unlink()
    assert first(world.find(), "warning") == "images-unreadable"
    world.image(1).unlink()
    assert first(world.find()) == "images-unreadable"


def test_a_split_with_rows_on_both_sides_is_a_leak(world: World, monkeypatch: Patch) -> None:
    from qwen3_vlm import build

    draw = build.draw_split
    monkeypatch.setattr(build, "draw_split", lambda *a: replace(draw(*a), train=tuple(range(60))))
    assert first(world.find()) == "split-leak"


@pytest.mark.parametrize("how", ["compressed again", "JPEG", "half the size"])
def test_held_out_images_saved_again_in_training_are_a_leak(world: World, how: str) -> None:
    split = prepare_data(world.config()).split
    rows = world.rows()
    for held_out, trained in zip(split.eval, split.train, strict=False):
        with Image.open(world.image(held_out)) as image:
            smaller = image.resize((image.width // 2, image.height // 2)) if how == "half the size" else image
            kind = {"format": "JPEG", "quality": 80} if how == "JPEG" else {"format": "PNG", "compress_level": 0}
            smaller.save(world.image(trained), **kind)
        rows[trained]["conversations"] = rows[held_out]["conversations"]
    world.file.write_text(json.dumps(rows), encoding="utf-8")
    found = world.find()
    assert first(found) == "split-leak"
    assert found[0].evidence["rows"] == len(split.eval)


def test_a_placeholder_picture_on_both_sides_is_degenerate_and_no_leak(world: World) -> None:
    world.change(lambda row, i: row.update(image="images/000000000.png") if i % 5 < 2 else None)
    assert bad(world.find()) == ["images-degenerate"]


def test_images_of_one_caption_that_are_alike_by_nature_are_a_note(world: World) -> None:
    """Drawings from one template: every image of a caption differs from the others by a little noise alone."""
    world.change(lambda row, i: row["conversations"][1].update(value=caption_of(i % 6)))
    for row in range(len(world.rows())):
        rng = np.random.default_rng(row)
        with Image.open(world.image(row % 6)) as drawing:
            pixels = np.asarray(drawing.convert("RGB")).astype(int)
        noise = rng.integers(-3, 4, pixels.shape)
        if row >= 6:
            Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(world.image(row))
    found = world.find()
    assert bad(found) == []
    assert [(f.code, f.severity) for f in found if f.code == "split-leak"] == [("split-leak", "note")]


def test_held_out_captions_in_other_words_are_a_warning(world: World) -> None:
    held_out = set(prepare_data(world.config()).split.eval)
    other = "Zwei kleine Katzen schlafen neben einem alten Ofen"
    world.change(lambda row, i: row["conversations"][1].update(value=f"{other} {i}") if i in held_out else None)
    assert [f.code for f in world.find() if f.severity == "warning"][0] == "held-out-differs"


def test_held_out_captions_in_another_case_are_a_warning_and_words_at_the_start_of_a_caption_are_not(
    world: World,
) -> None:
    held_out = set(prepare_data(world.config()).split.eval)

    def found(change: Callable[[str], str]) -> list[str]:
        world.change(
            lambda row, i: row["conversations"][1].update(
                value=change(caption_of(i)) if i in held_out else caption_of(i)
            )
        )
        return [f.message for f in world.find() if f.code == "held-out-differs"]

    assert found(lambda text: text[0].lower() + text[1:]) == []
    (message,) = found(str.upper)
    assert "only in another case" in message


def test_a_name_of_its_own_in_every_caption_makes_no_other_data_set(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value=f"{caption_of(i)} seen by Nr{i}X{i}"))
    assert "held-out-differs" not in bad(world.find())


def test_equal_captions_on_both_sides_are_no_leak(world: World) -> None:
    world.change(lambda row, i: row["conversations"][1].update(value=caption_of(i % 10)))
    assert bad(world.find()) == []


def test_one_picture_under_most_rows_is_an_error_and_under_some_a_warning(world: World) -> None:
    for share, severity in ((0.7, "error"), (0.3, "warning")):
        changed = copy_world(world, world.root.parent / f"{world.root.name}-{severity}")
        changed.change(lambda row, i, n=int(60 * share): row.update(image="images/000000000.png") if i < n else None)
        found = {f.code: f.severity for f in changed.find()}
        assert found["images-degenerate"] == severity
