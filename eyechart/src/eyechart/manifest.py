"""run.json, the manifest of an output folder: the id of its run, and a mark of every file that a run wrote."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from eyechart.files import refuse_special, write_atomic

MANIFEST = "run.json"
FORM: Literal[1] = 1
ANY = "any"
"""The mark of a file that a library writes and changes as it likes, such as a tracker's."""
_END_BYTES = 1 << 20
"""Bytes at each end of a file that its mark covers. A PyTorch file and a Parquet file end with the checksums and the
statistics of all that is before, so that reading gigabytes again would add nothing."""


@dataclass
class Moving:
    """Files on their way from a draft folder to their places."""

    draft: str
    names: list[str]
    leaving: list[str]
    """Files of the same group that these replace and that have no successor."""


@dataclass
class Manifest:
    """Content of run.json."""

    run_folder: Literal[1]
    """The version of this form."""
    run: str | None = None
    files: dict[str, list[str]] = field(default_factory=dict)
    """For each file the marks that its content may have: the last one written, and the one before."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Names of the files that appeared together, by the name of the group."""
    earlier: list[str] = field(default_factory=list)
    """Names of files that were there before the manifest. They may be of an earlier version."""
    moving: Moving | None = None


def new_id() -> str:
    """Return an id for a run or a measurement, such as `20261130T014512Z-3f9a2c71`; ids sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def mark_of(path: Path) -> str:
    """Return a short digest of a file's size, its first and its last megabyte."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}:".encode())
    with path.open("rb") as file:
        digest.update(file.read(_END_BYTES))
        file.seek(max(file.tell(), size - _END_BYTES))
        digest.update(file.read(_END_BYTES))
    return digest.hexdigest()[:24]


def read_manifest(folder: Path) -> Manifest | None:
    """Read run.json; None if there is none.

    Raises:
        ValueError: the file is not a manifest.
    """
    path = folder / MANIFEST
    refuse_special(path)
    try:
        return TypeAdapter(Manifest).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path}: not the manifest of a run ({'.'.join(map(str, first['loc']))}: {first['msg']}); move it away: "
            "the files of a run are then recognised by what they contain"
        ) from error


def require_settled(folder: Path) -> None:
    """Refuse to read results that are on their way to their places, so that files of two runs are never read as one.

    Raises:
        ValueError: a process is moving them, or was killed while it did.
    """
    manifest = read_manifest(folder)
    if manifest is not None and manifest.moving is not None:
        raise ValueError(
            f"{folder}: its results are not all in their places, because a process is moving them or was killed; "
            "repeat the command that writes to this folder"
        )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write run.json atomically."""
    write_atomic(folder / MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")
