"""What all layouts share: records whose layout is not known yet, errors of single rows, and paths of images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eyechart.exits import InputError
from eyechart.outside.shown import short
from eyechart.rows import RejectKind
from eyechart.stored import MARK

Record = Mapping[str, object]
"""One row as in its file: values by key. An image that is not given as text is a `StoredImage`."""


class UnusableError(Exception):
    """A row that cannot be used."""

    def __init__(self, reason: str, detail: str, kind: RejectKind = RejectKind.LAYOUT) -> None:
        """Store reason, detail and kind, which have the same meaning as in `Reject`."""
        super().__init__(reason, detail, kind)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that the reader found inside a file or next to its text; its path needs no further check."""

    address: str
    """An address as in `eyechart.stored`, or a path; relative to the image root."""


class Records(Protocol):
    """The rows of a file, or of several files, in order."""

    kind: str
    """Kind of the files in messages, such as `Parquet`."""
    files: tuple[Path, ...]
    """The files that are read, without image files."""

    def __len__(self) -> int:
        """Number of rows, usable or not."""
        ...

    def record(self, index: int) -> Record:
        """Return a row.

        Raises:
            UnusableError: the row cannot be read.
        """
        ...

    def locate(self, index: int, text: str) -> str:
        """Return the address of base64 text of a row.

        Raises:
            UnusableError: the text has no address.
        """
        ...


def no_base64(kind: str) -> UnusableError:
    """Return the error for base64 text in a kind of file in which it has no address."""
    detail = f"base64 text inside {kind} is not read; store bytes there, or use JSON"
    return UnusableError("image as base64 text", detail, RejectKind.UNUSABLE_FILE)


def inside_root(image: str, root: str = "") -> str:
    """Return the path of an image relative to the image root.

    Raises:
        UnusableError: the path is outside the image root. Absolute paths are accepted only below a given root.
    """
    below = _below(image, root) if root and image[0] == "/" else None
    image = image if below is None else below
    parts = image.replace("\\", "/").split("/") if "\\" in image or ".." in image else ()
    if image[0] in "/\\" or image[1:2] == ":" or ".." in parts or "\0" in image:
        detail = f"expected a path below the image root, got {short(image)}"
        raise UnusableError("image outside the image root", detail, RejectKind.UNUSABLE_FILE)
    return image


def _below(image: str, root: str) -> str | None:
    folder = f"{os.path.abspath(root).rstrip('/')}/"  # noqa: PTH100 - links are not followed
    rest = image.removeprefix(folder)
    return rest if rest and rest != image and rest[0] != "/" else None


def from_root(file: Path, root: str) -> str:
    """Return the path of a file of a data set for `image_root / path`: relative if it is below the root.

    Raises:
        InputError: the path contains the characters that mark an address inside a file.
    """
    if MARK in str(file):
        raise InputError(f"{file}: the path of a file with images must not contain {MARK!r}", "rename it")
    if not root:
        return str(file)
    absolute = os.path.abspath(file)  # noqa: PTH100 - links are not followed
    if absolute == os.path.abspath(root):  # noqa: PTH100
        return ""
    below = _below(absolute, root)
    return absolute if below is None else below
