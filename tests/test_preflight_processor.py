"""The preprocessing settings are judged by the tower's own file, and an unusual file by what the tower shows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eyechart.data.images import to_pixels
from eyechart.results import Finding
from fault_healthy_images import CLIP_MEAN, CLIP_STD, trained_with
from preflight_world import ASSETS
from qwen3_vlm.demo.worlds import scenes
from qwen3_vlm.models.vision import load_image_spec, load_tower
from qwen3_vlm.preflight.processor import Fit, fit_of, settings_findings

ScenesOf = list[Any]


@pytest.fixture(scope="module")
def shown() -> ScenesOf:
    """96 scenes with their captions."""
    spec = load_image_spec(str(ASSETS / "vision"))
    return [
        SimpleNamespace(pixels_CHW=to_pixels(scenes.draw(scene), spec, 10**9), caption=scenes.caption(scene, rng))
        for scene, rng in scenes.series(96, seed="processor")
    ]


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ASSETS / "vision", tmp_path / "tower"))


def found(tower: Path, samples: ScenesOf, **used: Any) -> list[Finding]:
    """What is found with the settings of the tower's file, or with `used` instead."""
    spec = load_image_spec(str(tower))
    settings = json.loads((tower / "preprocessor_config.json").read_text())
    vlm = SimpleNamespace(tower=load_tower(str(tower), spec, torch.float32, "sdpa"), device="cpu")
    config = SimpleNamespace(model=SimpleNamespace(vision=str(tower)), seed=0)
    prepared = SimpleNamespace(inputs=SimpleNamespace(spec=replace(spec, **used)), config=config)
    return settings_findings(prepared, settings, vlm, samples)  # type: ignore[arg-type]


def edit(tower: Path, **values: Any) -> None:
    path = tower / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(("mean", "std"), [(127 / 255, 127 / 255), (127 / 255, 128 / 255), (0.5, 127 / 255)])
def test_a_mean_that_was_rounded_to_bytes_is_the_same_mean(
    tower: Path, shown: ScenesOf, mean: float, std: float
) -> None:
    assert found(tower, shown, mean=(mean,) * 3, std=(std,) * 3) == [], "in use, where the file has 0.5"
    edit(tower, image_mean=[mean] * 3, image_std=[std] * 3)
    assert found(tower, shown) == [], "in the file"


def test_a_mean_that_is_off_by_two_grey_levels_is_another_one(tower: Path, shown: ScenesOf) -> None:
    (seen,) = found(tower, shown, mean=(125.5 / 255,) * 3)
    assert seen.severity == "error" and "image_mean" in seen.message and "image_std" not in seen.message


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, "warning"),
        ({"do_normalize": False}, "warning"),
        ({"do_rescale": False}, "error"),
    ],
    ids=["ImageNet", "0 to 1", "0 to 255"],
)
def test_a_file_with_other_values_than_the_tower_was_trained_with_is_named(
    tower: Path, shown: ScenesOf, values: dict[str, Any], severity: str
) -> None:
    edit(tower, **values)
    (seen,) = found(tower, shown)
    assert (seen.code, seen.severity) == ("wrong-preprocessing", severity)
    assert seen.evidence["z"] < seen.evidence["z_with_usual_values"] or values == {"do_rescale": False}


@pytest.mark.parametrize(
    ("mean", "std"), [(CLIP_MEAN, CLIP_STD), ((0.0,) * 3, (1.0,) * 3)], ids=["CLIP", "pixels from 0 to 1"]
)
def test_a_tower_that_was_trained_with_its_unusual_values_is_left_alone(
    tower: Path, shown: ScenesOf, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    trained_with(tower, mean, std)
    assert found(tower, shown) == []


def test_without_pixels_or_with_equal_captions_an_unusual_file_keeps_its_warning(tower: Path, shown: ScenesOf) -> None:
    edit(tower, do_normalize=False)
    same = [SimpleNamespace(pixels_CHW=sample.pixels_CHW, caption="a picture") for sample in shown]
    for samples in ([], same, [SimpleNamespace(pixels_CHW=None, caption="a circle")]):
        (seen,) = found(tower, samples)
        assert seen.severity == "warning" and seen.evidence["z"] is None


def test_the_fit_is_a_figure_of_captions_and_of_pictures(tower: Path, shown: ScenesOf) -> None:
    spec = load_image_spec(str(tower))
    vlm: Any = SimpleNamespace(tower=load_tower(str(tower), spec, torch.float32, "sdpa"), device="cpu")
    right, other = (fit_of(vlm, given, shown, 0) for given in (spec, replace(spec, mean=(0.0,) * 3, std=(1.0,) * 3)))
    assert isinstance(right, Fit) and isinstance(other, Fit)
    assert right.z > other.z > 0 and right.spread > other.spread and np.isfinite(right.z)
