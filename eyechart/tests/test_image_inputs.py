"""What a processor makes of a picture is made once, kept by content and settings, and equal to what it makes anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from eyechart.api.score import score
from eyechart.models import image_inputs
from eyechart.models.image_inputs import ImageInputs
from eyechart.models.loading import NamedModel
from eyechart.processors.prompts import PromptWriter
from eyechart.seam import Batch
from saved_models import ROWS, Saved, batch_of, data, saved, settings
from tiny_architectures import ARCHITECTURES

__all__ = ["data", "saved"]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pixels of every picture that a processor is given."""
    given: list[bytes] = []
    inputs = PromptWriter.inputs

    def counting(self: PromptWriter, texts: Any, images: Any) -> Any:
        given.extend(image.tobytes() for image in images)
        return inputs(self, texts, images)

    monkeypatch.setattr(PromptWriter, "inputs", counting)
    return given


def fresh(model: NamedModel) -> ImageInputs:
    scorer = model.scorer
    text = model.prompts.text("<image>\nDescribe the picture.")
    return ImageInputs(model.prompts, text, scorer._image, scorer._parameters)


def anew(inputs: ImageInputs, batch: Batch) -> dict[str, torch.Tensor]:
    assert batch.pixels_BCHW is not None
    return inputs.made([Image.fromarray(p.permute(1, 2, 0).contiguous().numpy()) for p in batch.pixels_BCHW])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kept_inputs_of_several_pictures_are_those_that_the_processor_makes_of_them_together(
    name: str, saved: Saved, data: Path
) -> None:
    model = saved.load(name)
    inputs, batch = fresh(model), batch_of(model, data)
    assert inputs._separate
    for _ in range(2):
        kept, made = inputs.of(batch.pixels_BCHW), anew(inputs, batch)  # type: ignore[arg-type]  # it has pixels
        assert kept.keys() == made.keys()
        assert all(torch.allclose(kept[key].double(), made[key].double(), rtol=0.0, atol=1e-5) for key in kept)


def test_a_score_gives_every_distinct_picture_to_the_processor_once(
    saved: Saved, data: Path, pictures: list[bytes]
) -> None:
    """Own pictures, those with exchanged tiles, and those of self-tests. The placeholder comes again: with
    prompts, and with its mirror image when the processor is tried on two."""
    conditions, how = "zero,tiles-4,matching", settings(ablation__gallery=4)
    results = score(saved.folder("llava"), data / "data.json", conditions, None, data, how)
    assert results.ablation is not None and results.ablation.samples == ROWS
    placeholder = saved.load("llava").scorer._image
    counts = Counter(pictures)
    assert len(counts) > 2 * ROWS
    again = {pixels for pixels, count in counts.items() if count > 1}
    assert again == {placeholder.tobytes(), ImageOps.mirror(placeholder).tobytes()}


def test_a_changed_setting_of_the_processor_makes_other_inputs(saved: Saved, data: Path) -> None:
    model = saved.load("llava")
    inputs, batch = fresh(model), batch_of(model, data, 1)
    assert batch.pixels_BCHW is not None
    before = inputs.of(batch.pixels_BCHW)["pixel_values"]
    processor = model.processor.image_processor
    try:
        processor.do_rescale = False
        assert not torch.equal(inputs.of(batch.pixels_BCHW)["pixel_values"], before)
    finally:
        processor.do_rescale = True
    assert torch.equal(inputs.of(batch.pixels_BCHW)["pixel_values"], before)


def test_the_memory_of_kept_inputs_is_limited(saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved.load("llava")
    inputs, batch = fresh(model), batch_of(model, data)
    assert batch.pixels_BCHW is not None
    one = sum(value.nbytes for value in inputs.of(batch.pixels_BCHW[:1]).values())
    monkeypatch.setattr(image_inputs, "MOST_BYTES", 2 * one)
    kept, made = inputs.of(batch.pixels_BCHW), anew(inputs, batch)
    assert len(inputs._kept) == 2 and inputs._bytes == 2 * one
    assert torch.equal(kept["pixel_values"], made["pixel_values"])


OF_SEVERAL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a mean over all pictures is taken off": lambda pixels: pixels - pixels.mean(dim=0),
    "the pictures are one series": lambda pixels: pixels.flatten(0, 1)[None],
}


@pytest.mark.parametrize("case", OF_SEVERAL)
def test_a_processor_whose_pictures_depend_on_each_other_runs_on_the_whole_batch(
    case: str, saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved.load("llava")
    inputs = model.prompts.inputs

    def depending(texts: Any, images: Any) -> Any:
        made = inputs(texts, images)
        made["pixel_values"] = OF_SEVERAL[case](made["pixel_values"])
        return made

    monkeypatch.setattr(model.prompts, "inputs", depending)
    kept, batch = fresh(model), batch_of(model, data)
    assert not kept._separate and batch.pixels_BCHW is not None
    assert torch.equal(kept.of(batch.pixels_BCHW)["pixel_values"], anew(kept, batch)["pixel_values"])
    assert kept.positions(batch.pixels_BCHW) == [4, 4, 4, 4]
