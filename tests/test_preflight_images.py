"""The preflight names what is wrong between image files and visual tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import dropout

from eyechart.data import dataset as dataset_room
from eyechart.data import images as images_room
from eyechart.seam import VisualTokens
from preflight_world import ASSETS, World, bad, first
from qwen3_vlm.models import vision
from qwen3_vlm.models.connector import Resampler
from qwen3_vlm.models.vision import VisionTower
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight import run as run_room

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made, pixels, spec: made * 2 + 1, "mean, std or rescale"),
        (lambda made, pixels, spec: pixels.float(), "mean, std or rescale"),
        (lambda made, pixels, spec: pixels.float() / 255, "mean, std or rescale"),
        (lambda made, pixels, spec: made.flip(1), "red and blue"),
        (lambda made, pixels, spec: made.flip(3), "mirrored"),
        (lambda made, pixels, spec: made.roll(3, dims=2), "resized, cropped"),
    ],
)
def test_pixels_that_are_prepared_otherwise_are_named(
    world: World, monkeypatch: Patch, change: Callable[..., Any], said: str
) -> None:
    normalise = vision.normalise
    monkeypatch.setattr(vision, "normalise", lambda pixels, spec: change(normalise(pixels, spec), pixels, spec))
    found = world.find()
    assert first(found) == "wrong-preprocessing" and said in found[0].message


def test_another_resize_filter_is_named(world: World, monkeypatch: Patch) -> None:
    load = dataset_room.load_image
    nearest = lambda path, spec, most: load(path, replace(spec, resample=0), most)  # noqa: E731
    monkeypatch.setattr(dataset_room, "load_image", nearest)
    assert first(world.find()) == "wrong-preprocessing"


def test_a_preprocessor_file_of_another_kind_of_tower_is_a_warning(world: World, tmp_path: Path) -> None:
    tower = shutil.copytree(ASSETS / "vision", tmp_path / "tower")
    path = tower / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}))
    assert first(world.find(model__vision=str(tower)), "warning") == "wrong-preprocessing"


@pytest.mark.parametrize(
    "forward",
    [
        lambda old, self, pixels: torch.ones(len(pixels), self.patches, self.width),
        lambda old, self, pixels: old(self, torch.zeros_like(pixels)),
        lambda old, self, pixels: old(self, pixels[:1].expand_as(pixels)),
        lambda old, self, pixels: old(self, pixels) * 0 + 1,
    ],
    ids=["no tower", "black", "the first picture for all", "constant features"],
)
def test_pictures_that_do_not_reach_the_connector_are_named(
    world: World, monkeypatch: Patch, forward: Callable[..., Any]
) -> None:
    old = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: forward(old, self, pixels))
    assert first(world.find()) == "pixels-unused"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.mean(1, keepdim=True).expand_as(f), "all patches of an image have the same values"),
        (lambda f: f.flip(1), "in another order"),
        (lambda f: f + 0.5 * torch.randn(f.shape, generator=torch.Generator().manual_seed(0)), "times their size"),
        (lambda f: f[:, ::2], "their shape"),
    ],
    ids=["mean", "reversed", "noise", "every other"],
)
def test_features_that_are_changed_behind_the_tower_are_named(
    world: World, monkeypatch: Patch, change: Callable[[Any], Any], said: str
) -> None:
    old = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: change(old(self, pixels)))
    found = world.find(connector__key_positions=False)
    assert first(found) == "features-altered"
    assert said in found[0].message


def test_a_tower_whose_overflow_is_made_zero_is_named_as_not_finite(world: World, monkeypatch: Patch) -> None:
    vlm = world.model(world.config())
    next(vlm.tower.model.parameters()).data.mul_(1e38)
    old = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: old(self, pixels).nan_to_num(0.0, 0.0, 0.0))
    monkeypatch.setattr(run_room, "weight_findings", lambda *_: [])
    assert first(world.find(vlm)) == "non-finite"


@pytest.mark.parametrize("kept", [1, 16])
def test_patches_that_no_visual_token_reads_are_named(world: World, monkeypatch: Patch, kept: int) -> None:
    old = Resampler.forward

    def masked(self: Any, features_BPV: Any) -> Any:
        return old(self, torch.where(torch.arange(features_BPV.shape[1])[:, None] < kept, features_BPV, 0.0))

    monkeypatch.setattr(Resampler, "forward", masked)
    found = world.find()
    assert first(found) == "pixels-unused"
    assert f"{found[0].evidence['patches'] - kept} of the" in found[0].message


def test_sharp_attention_that_still_sees_every_patch_is_sound(world: World) -> None:
    vlm = world.model(world.config())
    for layer in vlm.connector.resampler.layers:
        layer.attn.in_proj_weight.data.mul_(3.0)
    assert bad(world.find(vlm)) == []


def test_a_projector_that_is_shut_is_collapsed(world: World) -> None:
    vlm = world.model(world.config())
    vlm.connector.projector.net[0].weight.data.zero_()
    vlm.connector.projector.net[0].bias.data.fill_(-100.0)
    assert first(world.find(vlm)) == "collapsed"


def test_a_tower_whose_features_change_from_call_to_call_is_named_as_random(world: World, monkeypatch: Patch) -> None:
    old = VisionTower.forward
    monkeypatch.setattr(VisionTower, "forward", lambda self, pixels: dropout(old(self, pixels), 0.3))
    assert first(world.find()) == "loss-not-reproduced"


def test_one_image_in_ten_that_is_mirrored_is_named(world: World, monkeypatch: Patch) -> None:
    load, count = dataset_room.load_image, iter(range(10_000))

    def sometimes(*args: Any) -> Any:
        pixels_CHW = load(*args)
        return pixels_CHW.flip(2) if next(count) % 10 == 5 else pixels_CHW

    monkeypatch.setattr(dataset_room, "load_image", sometimes)
    found = world.find()
    assert first(found) == "wrong-preprocessing"
    assert "mirrored" in found[0].message


def as_palette(image: Image.Image) -> Image.Image:
    return image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)


def as_sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def as_see_through(image: Image.Image) -> Image.Image:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("kind", [as_palette, as_sixteen_bits, as_see_through])
def test_files_of_every_kind_are_sound_and_named_where_they_are_read_wrongly(
    world: World, monkeypatch: Patch, kind: Callable[[Image.Image], Image.Image]
) -> None:
    for row in range(len(world.rows())):
        with Image.open(world.image(row)) as image:
            kind(image.convert("RGB")).save(world.image(row))
    assert bad(world.find()) == []
    grey = lambda image: Image.fromarray(np.asarray(image).astype(np.uint8)).convert("RGB")  # noqa: E731
    inverted = lambda image: Image.eval(image.convert("RGB"), lambda value: 255 - value)  # noqa: E731
    monkeypatch.setattr(images_room, "_to_rgb", grey if kind is as_palette else inverted)
    assert first(world.find()) == "wrong-preprocessing"


@pytest.mark.parametrize("place", ["collate", "tower", "connector", "encode", "nll"])
def test_samples_that_get_each_others_images_are_named(world: World, monkeypatch: Patch, place: str) -> None:
    if place == "collate":
        collate = run_room.collate

        def mixed(items: Any, pad_id: int) -> Any:
            batch = collate(items, pad_id)
            return replace(batch, pixels_BCHW=batch.pixels_BCHW.roll(1, 0))

        monkeypatch.setattr(run_room, "collate", mixed)
    elif place == "nll":
        nll = VLM.nll
        swap = lambda v: VisualTokens((v.layers[0].flip(0),))  # noqa: E731
        monkeypatch.setattr(VLM, "nll", lambda self, batch, v: nll(self, batch, swap(v) if v else None))
    else:
        kind, name = {"tower": (VisionTower, "forward"), "connector": (VLM, "visual"), "encode": (VLM, "encode")}[place]
        old = getattr(kind, name)

        def swapped(self: Any, given: Any) -> Any:
            made = old(self, given)
            return made.rows(list(range(len(made)))[::-1]) if isinstance(made, VisualTokens) else made.flip(0)

        monkeypatch.setattr(kind, name, swapped)
    assert first(world.find()) == "image-order"


def test_statistics_over_the_batch_are_no_matter_of_order(world: World, monkeypatch: Any) -> None:
    old = Resampler.forward

    def normed(self: Any, features: Any) -> Any:
        made = old(self, features)
        return (made - made.mean(0, keepdim=True)) / (made.std(0, keepdim=True, correction=0) + 0.1)

    monkeypatch.setattr(Resampler, "forward", normed)
    assert first(world.find()) == "batch-dependent"


def test_dropout_that_evaluation_does_not_switch_off_is_named(world: World, monkeypatch: Any) -> None:
    old = Resampler.forward
    monkeypatch.setattr(Resampler, "forward", lambda self, features: dropout(old(self, features), 0.2))
    assert first(world.find()) == "loss-not-reproduced"
    monkeypatch.setattr(Resampler, "forward", lambda self, features: dropout(old(self, features), 0.2, self.training))
    assert world.find() == []
