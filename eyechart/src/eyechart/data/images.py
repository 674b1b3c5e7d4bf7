"""Converts image files to uint8 pixels at the tower's size, and these pixels to the tower's input.

Decoding and resizing happen here on the CPU; `normalise` runs on the device, because moving bytes takes a quarter of
the time of moving floats. The result equals that of transformers' SiglipImageProcessorPil with the checkpoint's own
preprocessor_config.json.

`Image.draft` is not used. It would decode large JPEGs in half the time, but it first shrinks them with another filter,
which changes the pixels.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from eyechart.outside import bounds
from eyechart.seam import RejectKind
from eyechart.stored import StoredImageError, image_bytes, place_of

if TYPE_CHECKING:
    from torch import Tensor

# Only some of Pillow's formats, because EPS starts an external program, and decoders of rare formats may hang.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000")
_ORIENTATION = 0x0112
"""The EXIF tag of the orientation; 1 is upright."""
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class ImageSpec:
    """The input format that a vision tower expects."""

    height: int
    width: int
    """Pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel (red, green, blue), in units of the rescaled pixel."""
    resample: int
    """Pillow's number for the resize filter: 2 is bilinear, 3 is bicubic."""
    rescale: float
    """Factor by which byte values are multiplied, usually 1/255."""


class ImageError(Exception):
    """An image that cannot be used; becomes a Reject."""

    def __init__(self, reason: str, detail: str, kind: RejectKind = RejectKind.UNUSABLE_FILE) -> None:
        """Store the `reason`, by which rejects are counted, the one-line `detail`, and the `kind` for use in code."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.kind = kind


def image_spec(preprocessor_config: Mapping[str, Any], vision_config_image_size: int) -> ImageSpec:
    """Read the input format from a checkpoint's own preprocessor_config.json.

    A missing setting is an error and not replaced by the library's default (224 pixels, bicubic), with which larger
    checkpoints were not trained.

    Args:
        preprocessor_config: the decoded file.
        vision_config_image_size: `image_size` of the tower's config, which must agree with the file.

    Raises:
        ValueError: a setting is missing, or has a value that this code does not support.
    """
    size = _setting(preprocessor_config, "size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if not isinstance(size, Mapping) or not {"height", "width"} <= set(size):
        raise ValueError(f"preprocessor_config.json: expected `size` with height and width, got {size!r}")
    height, width = int(size["height"]), int(size["width"])
    if (height, width) != (vision_config_image_size, vision_config_image_size):
        raise ValueError(
            f"preprocessor_config.json resizes to {height}x{width}, but the vision tower takes images of "
            f"{vision_config_image_size}x{vision_config_image_size}; they belong to different checkpoints"
        )
    for key, wanted in (("do_resize", True), ("do_center_crop", False), ("do_pad", False)):
        if bool(preprocessor_config.get(key, wanted)) is not wanted:
            raise ValueError(f"preprocessor_config.json: `{key}` {not wanted} is not supported, expected {wanted}")
    normalises = preprocessor_config.get("do_normalize", True)
    rescales = preprocessor_config.get("do_rescale", True)
    return ImageSpec(
        height=height,
        width=width,
        mean=_channels(preprocessor_config, "image_mean") if normalises else (0.0, 0.0, 0.0),
        std=_channels(preprocessor_config, "image_std") if normalises else (1.0, 1.0, 1.0),
        resample=int(_setting(preprocessor_config, "resample")),
        rescale=float(_setting(preprocessor_config, "rescale_factor")) if rescales else 1.0,
    )


def _setting(config: Mapping[str, Any], key: str) -> Any:
    if config.get(key) is None:
        raise ValueError(f"preprocessor_config.json: `{key}` is missing; use the file that came with the vision tower")
    return config[key]


def _channels(config: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = _setting(config, key)
    if not isinstance(value, Sequence) or len(value) != 3 or (key == "image_std" and not all(v > 0 for v in value)):
        raise ValueError(f"preprocessor_config.json: expected three numbers in `{key}`, got {value!r}")
    return tuple(float(v) for v in value)


def load_image(path: Path, spec: ImageSpec, max_pixels: int) -> Tensor:
    """Decode an image, upright and on white, and resize it to the tower's size.

    Args:
        path: image file, or address of an image inside a file (`eyechart.stored`); of an animation, the first frame is
            used.
        spec: size and filter.
        max_pixels: larger images are rejected before they are decoded.

    Returns:
        uint8 [3,H,W] in the order red, green, blue.

    Raises:
        ImageError: the file is missing, empty, truncated, damaged, too small, too large, or not an image.
    """
    return _with_image(path, max_pixels, lambda image: to_pixels(image, spec, max_pixels))


def load_thumbnail(path: Path, side: int, max_pixels: int) -> Image.Image:
    """Decode an image as `load_image` does, and shrink it to fit a square of `side` pixels; never enlarge it.

    Raises:
        ImageError: as for `load_image`.
    """

    def shrink(image: Image.Image) -> Image.Image:
        _check_size(image.size, max_pixels)
        rgb = _to_rgb(image)
        rgb.thumbnail((side, side))
        return rgb

    return _with_image(path, max_pixels, shrink)


def image_facts(path: Path, max_pixels: int) -> tuple[int, int, str]:
    """Decode an image and return its width and height in pixels as stored, and its format, such as `PNG`.

    Raises:
        ImageError: as for `load_image`.
    """

    def facts(image: Image.Image) -> tuple[int, int, str]:
        _check_size(image.size, max_pixels)
        image.load()
        return image.width, image.height, str(image.format)

    return _with_image(path, max_pixels, facts)


def _with_image(path: Path, max_pixels: int, use: Callable[[Image.Image], _Made]) -> _Made:
    """Open an image file and return the result of `use` for it; every error becomes an ImageError."""
    source = _source(path)
    # Pillow's own limit on pixels would otherwise override ours.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    # Pillow warns about large images (we have our own limit), damaged EXIF data (read as upright) and similar.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(source, formats=_formats()) as image, _libtiff_quiet(image):
                return use(image)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError("image too large", f"{error}; shrink it") from error
        except UnidentifiedImageError as error:
            raise ImageError("not an image", f"expected one of {', '.join(_formats())}") from error
        except MemoryError as error:
            raise _no_memory() from error
        except Exception as error:
            # Decoders raise many kinds of errors on damaged files: OSError, SyntaxError, struct.error, IndexError, ...
            raise _damaged(error) from error


def to_pixels(image: Image.Image, spec: ImageSpec, max_pixels: int) -> Tensor:
    """Convert an opened image, upright and on white, to the tower's size: uint8 [3,H,W]. Arguments as for `load_image`.

    Raises:
        ImageError: the image is too small or too large, or its pixels have no fixed range. For a damaged file, the
            error of its decoder is raised.
    """
    _check_size(image.size, max_pixels)
    resized = _to_rgb(image).resize((spec.width, spec.height), Image.Resampling(spec.resample))
    import torch

    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


@contextlib.contextmanager
def _libtiff_quiet(image: Image.Image) -> Iterator[None]:
    """Prevent libtiff from writing to the terminal, because a damaged file is reported when its row is rejected.

    libtiff is written in C and does not use `sys.stderr`, so the file descriptor itself is redirected temporarily.
    """
    if image.format != "TIFF":
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not an output file
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _source(path: Path) -> Path | io.BytesIO:
    """Return what Pillow opens: the path of a file with content, or the bytes of an image inside a file."""
    if place_of(path) is None:
        _require_file(path)
        return path
    try:
        data = image_bytes(path)
    except FileNotFoundError as error:
        raise ImageError("image missing", f"no such file: {error.filename}", RejectKind.NO_FILE) from error
    except StoredImageError as error:
        raise ImageError("image unreadable", str(error)) from error
    except MemoryError as error:
        raise _no_memory() from error
    except Exception as error:
        raise _damaged(error) from error  # the file around the image is damaged
    if not data:
        raise ImageError("image empty", "0 bytes", RejectKind.NO_FILE)
    return io.BytesIO(data)


def _require_file(path: Path) -> None:
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise ImageError("image missing", "no such file below image_root", RejectKind.NO_FILE) from error
    except OSError as error:
        raise ImageError("image unreadable", str(error.strerror)) from error
    if not stat.S_ISREG(facts.st_mode):
        raise ImageError("not an image", "expected a file, got a folder or a device")
    if facts.st_size == 0:
        raise ImageError("image empty", "the file has 0 bytes", RejectKind.NO_FILE)
    if facts.st_size > bounds.IMAGE_BYTES:
        detail = f"the file has {facts.st_size:,} bytes, at most {bounds.IMAGE_BYTES:,} are read; shrink it"
        raise ImageError("image too large", detail)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of `_FORMATS` that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if min(width, height) <= 1:
        raise ImageError("image too thin", f"{width}x{height} pixels, expected at least 2x2")
    if width * height > max_pixels:
        raise ImageError("image too large", f"{width}x{height} pixels, but max_pixels is {max_pixels:,}; shrink it")


def _no_memory() -> ImageError:
    """Return the error of an image that needs more memory than there is, which says nothing about its bytes."""
    detail = "decoding it needs more memory than there is; lower max_pixels, or free some memory"
    return ImageError("not enough memory", detail)


def _damaged(error: Exception) -> ImageError:
    summary = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    if isinstance(error, PermissionError):
        return ImageError("image unreadable", summary)
    cut = isinstance(error, EOFError) or "truncated" in summary.lower()  # Pillow says this only in the message
    return ImageError("image truncated" if cut else "image damaged", summary)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to upright 8-bit RGB; transparent areas are composited on white."""
    image.load()
    # An upright image is not copied: at the limit of pixels, a copy takes 0.7 GB.
    upright = image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        upright = _eight_bit(upright)
    elif upright.mode == "F":
        raise ImageError("image format not supported", "floating-point pixels have no fixed range; save it as 8 bit")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, so that 65535 becomes 255; Pillow's conversion would clip values above 255."""
    stored_HW = np.asarray(image)
    if stored_HW.min() < 0 or stored_HW.max() > 65535:
        raise ImageError("image format not supported", "32-bit pixels have no fixed range; save it as 8 bit")
    return Image.fromarray(((stored_HW.astype(np.int32) + 128) // 257).astype(np.uint8))


def normalise(pixels_BCHW: Tensor, spec: ImageSpec) -> Tensor:
    """(pixel * rescale - mean) / std on the pixels' device: uint8 [B,3,H,W] to float32 [B,3,H,W]."""
    import torch

    mean_C11 = torch.tensor(spec.mean, dtype=torch.float32, device=pixels_BCHW.device)[:, None, None]
    std_C11 = torch.tensor(spec.std, dtype=torch.float32, device=pixels_BCHW.device)[:, None, None]
    return (pixels_BCHW.to(torch.float32) * spec.rescale - mean_C11) / std_C11


def content_hash(pixels_CHW: Tensor) -> str:
    """Return a 128-bit hash of decoded pixels. Two hashes are equal if and only if the tower gets the same input."""
    digest = hashlib.blake2b(str(tuple(pixels_CHW.shape)).encode(), digest_size=16)
    digest.update(pixels_CHW.contiguous().numpy().data)
    return digest.hexdigest()
