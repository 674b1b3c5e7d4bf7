"""The files of one measurement in a folder: how earlier versions' are recognised, and whether they belong together."""

from __future__ import annotations

import re
from pathlib import Path

from eyechart.manifest import require_settled
from eyechart.results import Results, read
from eyechart.run_folder import Kinds

RESULTS_FILE, RUNBOOK, PAGE, SAMPLES, SHEET = (
    "results.json",
    "runbook.md",
    "report.html",
    "samples.parquet",
    "samples.png",
)
_HEAD_BYTES = 4096
_RESULTS_HEAD = re.compile(rb'\{\s*"schema":\s*\d+,\s*"verdict":')
_RUNBOOK_HEADS = (
    b"# Stage 1 Runbook: Spec and Results of One Run\n",
    b"# Runbook: Spec and Results of One Scoring Run\n",
)
MEASUREMENT = "eyechart:measurement"
"""Key of the measurement's id in the page, in samples.parquet and in samples.png."""
_IN_PAGE = re.compile(rb'<meta name="eyechart:measurement" content="([^"]*)">')
_IN_RUNBOOK = re.compile(rb"^- Measurement: (\S+)$", re.MULTILINE)


def _is_of_earlier_version(path: Path) -> bool:
    """Whether a file is a result of a version that recorded no manifest."""
    head = _head(path)
    if path.name == RESULTS_FILE:
        return _RESULTS_HEAD.match(head) is not None
    if path.name == RUNBOOK:
        return head.startswith(_RUNBOOK_HEADS)
    if path.name == PAGE:
        return head.startswith(b"<!doctype html>") and b"eyechart report</title>" in head
    if path.name == SAMPLES:
        return _is_samples(path)
    results = path.with_name(RESULTS_FILE)
    return head.startswith(b"\x89PNG") and results.is_file() and _is_of_earlier_version(results)


def _is_samples(path: Path) -> bool:
    # Imported here because it takes a fifth of a second and most folders have no such file to look at.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return False
    return {"image_hash", "token_ids", "donors"} <= set(columns)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


RESULT_FILES = Kinds(
    re.compile("|".join(map(re.escape, (RESULTS_FILE, RUNBOOK, PAGE, SAMPLES, SHEET)))), _is_of_earlier_version
)


def read_folder(folder: Path) -> Results:
    """Read the results in a folder, if all files of results in it are of one measurement.

    Files of earlier versions have no id, and are not compared.

    Raises:
        ValueError: results.json cannot be read, or files of different measurements are mixed.
    """
    require_settled(folder)
    results = read(folder / RESULTS_FILE)
    if results.measurement is None:
        return results
    for name, measurement in _measurements(folder).items():
        if measurement not in (None, results.measurement):
            raise ValueError(
                f"{folder / name} is of measurement {measurement}, {RESULTS_FILE} beside it of {results.measurement}: "
                "they do not belong together; keep the files of each measurement in a folder of their own"
            )
    return results


def _measurements(folder: Path) -> dict[str, str | None]:
    """Return the id of the measurement in each file of results, None where it has none."""
    found: dict[str, str | None] = {}
    for name, pattern in ((PAGE, _IN_PAGE), (RUNBOOK, _IN_RUNBOOK)):
        if (folder / name).is_file():
            match = pattern.search(_head(folder / name))
            found[name] = match[1].decode() if match else None
    if (folder / SAMPLES).is_file() and _is_samples(folder / SAMPLES):
        import pyarrow.parquet as pq

        marked = (pq.read_schema(folder / SAMPLES).metadata or {}).get(MEASUREMENT.encode())
        found[SAMPLES] = marked.decode() if marked else None
    return found
