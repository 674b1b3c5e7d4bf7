from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import SiglipImageProcessorPil

from eyechart.data.images import ImageError, ImageSpec, content_hash, image_spec, load_image, normalise
from eyechart.seam import RejectKind

HALF = (0.5, 0.5, 0.5)
SPEC = ImageSpec(height=16, width=16, mean=HALF, std=HALF, resample=2, rescale=1 / 255)
LIMIT = 10**8
SIGLIP2 = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 384, "width": 384},
}


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with noise on top: resize filters differ on it."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    noise = np.random.default_rng(seed).normal(0, 25, base.shape)
    return Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))


def colours_at(pixels_CHW: torch.Tensor, *spots: tuple[int, int]) -> list[tuple[int, ...]]:
    return [tuple(pixels_CHW[:, y, x].tolist()) for y, x in spots]


def reject(path: Path, limit: int = LIMIT) -> ImageError:
    """The error of an unusable image; no warning may come with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            load_image(path, SPEC, limit)
    assert caught.value.detail and "\n" not in caught.value.detail
    return caught.value


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("size", [(80, 60), (16, 16), (300, 20), (9, 11)])
def test_pixels_equal_the_processor_of_transformers(tmp_path: Path, size: tuple[int, int], resample: int) -> None:
    photo(*size).save(tmp_path / "a.png")
    config = SIGLIP2 | {"size": {"height": 32, "width": 32}, "resample": resample, "image_std": [0.4, 0.5, 0.6]}
    spec = image_spec(config, 32)
    processor = SiglipImageProcessorPil(**{k: v for k, v in config.items() if k != "image_processor_type"})
    expected = processor(Image.open(tmp_path / "a.png"), return_tensors="pt")["pixel_values"]
    pixels_CHW = load_image(tmp_path / "a.png", spec, LIMIT)
    assert pixels_CHW.dtype == torch.uint8 and pixels_CHW.shape == (3, 32, 32) and pixels_CHW.is_contiguous()
    torch.testing.assert_close(normalise(pixels_CHW[None], spec), expected, rtol=0, atol=1e-6)


def test_a_jpeg_is_decoded_as_transformers_does(tmp_path: Path) -> None:
    photo(640, 480).save(tmp_path / "a.jpg", quality=90)
    processor = SiglipImageProcessorPil(size={"height": 16, "width": 16}, resample=2)
    expected = processor(Image.open(tmp_path / "a.jpg"), return_tensors="pt")["pixel_values"]
    pixels_CHW = load_image(tmp_path / "a.jpg", SPEC, LIMIT)
    torch.testing.assert_close(normalise(pixels_CHW[None], SPEC), expected, rtol=0, atol=1e-6)


def test_normalise_by_hand() -> None:
    spec = ImageSpec(1, 1, (0.5, 0.4, 0.0), (0.5, 0.2, 1.0), 2, 1 / 255)
    pixels_BCHW = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    values = normalise(pixels_BCHW, spec)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.flatten(), torch.tensor([1.0, -2.0, 0.2]))


def test_the_spec_of_siglip2_384_is_read_from_its_file() -> None:
    spec = image_spec(SIGLIP2, 384)
    assert spec == ImageSpec(384, 384, HALF, HALF, 2, 0.00392156862745098)
    assert image_spec(SIGLIP2 | {"size": 384}, 384) == spec


def test_steps_that_the_file_switches_off_are_off() -> None:
    spec = image_spec({"do_rescale": False, "do_normalize": False, "resample": 3, "size": 8}, 8)
    assert (spec.mean, spec.std, spec.rescale) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)


@pytest.mark.parametrize("key", ["size", "resample", "image_mean", "image_std", "rescale_factor"])
def test_a_setting_that_is_missing_is_not_guessed(key: str) -> None:
    with pytest.raises(ValueError, match=f"`{key}` is missing"):
        image_spec({k: v for k, v in SIGLIP2.items() if k != key}, 384)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"shortest_edge": 384}}, "expected `size` with height and width"),
        ({"size": {"height": 224, "width": 224}}, "224x224, but the vision tower takes images of 384x384"),
        ({"do_resize": False}, "`do_resize` False is not supported"),
        ({"do_center_crop": True}, "`do_center_crop` True is not supported"),
        ({"image_mean": [0.5]}, "three numbers in `image_mean`"),
        ({"image_std": [0.5, 0.0, 0.5]}, "three numbers in `image_std`"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_spec(SIGLIP2 | change, 384)


def test_a_cmyk_jpeg_becomes_red(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    ((red, green, blue),) = colours_at(load_image(tmp_path / "a.jpg", SPEC, LIMIT), (8, 8))
    assert red > 250 and green < 5 and blue < 5


def test_a_palette_image_becomes_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert colours_at(load_image(tmp_path / "a.png", SPEC, LIMIT), (8, 8)) == [(10, 200, 30)]


@pytest.mark.parametrize(("mode", "value", "expected"), [("L", 77, 77), ("1", 1, 255)])
def test_grey_and_black_and_white_fill_three_channels(tmp_path: Path, mode: str, value: int, expected: int) -> None:
    Image.new(mode, (8, 8), value).save(tmp_path / "a.png")
    assert colours_at(load_image(tmp_path / "a.png", SPEC, LIMIT), (3, 3)) == [(expected,) * 3]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(("value", "expected"), [(128, 0), (200, 1), (257, 1), (32896, 128), (65535, 255)])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, name: str, value: int, expected: int) -> None:
    Image.fromarray(np.full((8, 8), value, dtype=np.uint16)).save(tmp_path / name)
    assert colours_at(load_image(tmp_path / name, SPEC, LIMIT), (3, 3)) == [(expected,) * 3]


def test_a_16_bit_pgm_is_scaled_too(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535\n" + np.full(4, 32896, dtype=">u2").tobytes())
    assert colours_at(load_image(tmp_path / "a.pgm", SPEC, LIMIT), (3, 3)) == [(128,) * 3]


@pytest.mark.parametrize(("mode", "value"), [("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))])
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str, value: tuple[int, ...]) -> None:
    Image.new(mode, (8, 8), value).save(tmp_path / "a.png")
    assert colours_at(load_image(tmp_path / "a.png", SPEC, LIMIT), (3, 3)) == [(255, 255, 255)]


def test_half_transparent_red_becomes_pink(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 51)).save(tmp_path / "a.png")
    assert colours_at(load_image(tmp_path / "a.png", SPEC, LIMIT), (3, 3)) == [(255, 204, 204)]


def test_a_transparent_palette_colour_becomes_white(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([0, 0, 200, 9, 9, 9])
    picture.paste(1, (4, 0, 8, 8))
    picture.save(tmp_path / "a.png", transparency=0)
    assert colours_at(load_image(tmp_path / "a.png", SPEC, LIMIT), (8, 1), (8, 14)) == [(255,) * 3, (9,) * 3]


def test_a_photo_is_turned_upright_by_its_exif(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16), "blue")
    picture.paste("red", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    picture.save(tmp_path / "a.png", exif=exif)
    assert colours_at(load_image(tmp_path / "a.png", SPEC, LIMIT), (1, 8), (14, 8)) == [(0, 0, 255), (255, 0, 0)]


def test_an_image_20000_pixels_wide_is_resized(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20_000, 5), "blue")
    picture.paste("red", (0, 0, 10_000, 5))
    picture.save(tmp_path / "a.png")
    assert colours_at(load_image(tmp_path / "a.png", SPEC, LIMIT), (8, 0), (8, 15)) == [(255, 0, 0), (0, 0, 255)]


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "a.gif").n_frames == 2
    assert colours_at(load_image(tmp_path / "a.gif", SPEC, LIMIT), (3, 3)) == [(255, 0, 0)]


def test_an_image_of_three_channels_by_96_is_96_high(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 96), "blue")
    picture.paste("red", (0, 0, 3, 48))
    picture.save(tmp_path / "a.png")
    assert colours_at(load_image(tmp_path / "a.png", SPEC, LIMIT), (0, 8), (15, 8)) == [(255, 0, 0), (0, 0, 255)]


def test_the_content_and_not_the_name_tells_the_format(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.jpg", format="PNG")
    assert colours_at(load_image(tmp_path / "a.jpg", SPEC, LIMIT), (3, 3)) == [(255, 0, 0)]


def test_a_missing_image_and_a_folder_are_rejected(tmp_path: Path) -> None:
    assert reject(tmp_path / "none.png").reason == "image missing"
    assert reject(tmp_path / "none.png").kind is RejectKind.NO_FILE
    assert reject(tmp_path).reason == "not an image"
    assert reject(tmp_path).kind is RejectKind.UNUSABLE_FILE
    assert reject(tmp_path / ("x" * 300)).reason == "image unreadable"


def test_a_pipe_is_rejected_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert reject(tmp_path / "pipe.png").reason == "not an image"


def test_an_empty_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert reject(tmp_path / "a.png").reason == "image empty"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif"])
def test_a_truncated_image_is_rejected(tmp_path: Path, name: str) -> None:
    photo(64, 64).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert reject(tmp_path / name).reason in {"image truncated", "image damaged"}


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_truncated_photo_is_called_truncated(tmp_path: Path, name: str) -> None:
    photo(64, 64).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    assert reject(tmp_path / name).reason == "image truncated"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
"""A picture to Pillow, which would start an external program to draw it."""


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\x89PNG", EPS], ids=["a web page", "a stub", "EPS"])
def test_what_is_no_image_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert reject(tmp_path / "a.png").reason == "not an image"


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
def test_an_image_one_pixel_high_or_wide_is_rejected(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    error = reject(tmp_path / "a.png")
    assert error.reason == "image too thin" and f"{size[0]}x{size[1]}" in error.detail


def test_an_image_above_the_limit_is_rejected_and_at_the_limit_is_not(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", SPEC, 200).shape == (3, 16, 16)
    error = reject(tmp_path / "a.png", limit=199)
    assert error.reason == "image too large" and "20x10" in error.detail and "199" in error.detail


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels: decoding it would fail in another way."""
    content = io.BytesIO()
    Image.new("L", (2, 2)).save(content, "PNG")
    data = bytearray(content.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("side", [10_000, 12_000, 60_000])
def test_a_bomb_is_rejected_by_its_header_without_a_warning_of_pillow(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(bomb(side, side))
    assert reject(tmp_path / "a.png", limit=5_000_000).reason == "image too large"


def test_pixels_without_a_fixed_range_are_rejected(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)).save(tmp_path / "i.tif")
    assert reject(tmp_path / "f.tif").reason == "image format not supported"
    assert reject(tmp_path / "i.tif").reason == "image format not supported"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.webp", "a.tif"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_image_gives_pixels_or_one_reason(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / name
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(12, 9).save(path, exif=exif)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert load_image(path, SPEC, 1_000_000).shape == (3, 16, 16)
        except ImageError as error:
            assert error.reason and "\n" not in error.detail


def test_the_hash_changes_with_one_bit_and_with_the_shape_and_with_nothing_else() -> None:
    pixels_CHW = torch.zeros(3, 4, 2, dtype=torch.uint8)
    changed = pixels_CHW.clone()
    changed[2, 3, 1] = 1
    transposed = pixels_CHW.permute(0, 2, 1)
    assert content_hash(pixels_CHW) == content_hash(pixels_CHW.clone())
    assert len({content_hash(p) for p in (pixels_CHW, changed, transposed)}) == 3
    assert content_hash(changed.permute(0, 2, 1)) == content_hash(changed.permute(0, 2, 1).contiguous())


def test_a_limit_above_pillows_own_is_the_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20), "red").save(path)
    assert load_image(path, SPEC, max_pixels=400).shape == (3, SPEC.height, SPEC.width)
    with pytest.raises(ImageError, match=r"20x20 pixels, but max_pixels is 399"):
        load_image(path, SPEC, max_pixels=399)


def test_libtiff_writes_nothing_past_the_reject(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    photo(60, 60).save(path, compression="tiff_lzw")
    data = path.read_bytes()
    path.write_bytes(data[:1005] + b"\xff" * 60 + data[1065:])
    with pytest.raises(ImageError, match="image damaged"):
        load_image(path, SPEC, LIMIT)
    assert capfd.readouterr().err == ""
    with pytest.raises(OSError), Image.open(path) as image:
        image.load()
    assert "not yet in table" in capfd.readouterr().err, "libtiff speaks, and the descriptor has been given back"
