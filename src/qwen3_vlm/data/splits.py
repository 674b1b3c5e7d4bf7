"""The split into training and held-out rows: drawn by seed, saved with the run, and rejected if the data file differs.

The draw uses only row indices and does not depend on the content of rows, so that a rejected row never moves another
one from training to evaluation. After the draw, `data.repeats` removes training rows that show a held-out picture.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from eyechart.data.choice import draw_rows
from eyechart.data.reader import content_digest
from eyechart.exits import NamedInputError
from eyechart.files import write_atomic
from eyechart.outside import bounds
from eyechart.outside.json_text import parse_json
from eyechart.outside.regular import read_regular

_SCHEMA: Literal[1] = 1


@dataclass(frozen=True)
class Split:
    """Row indices of the data file. With `data.eval_json`, `eval` contains row indices of that file."""

    train: tuple[int, ...]
    """Training rows in increasing order."""
    eval: tuple[int, ...]
    """Held-out rows in the order in which they were drawn, so that the first n are a random subset."""
    repeats: tuple[tuple[int, int], ...] = ()
    """Rows that were drawn for training and then removed, in increasing order, each with a held-out row that shows the
    same picture."""


@dataclass(frozen=True)
class DataFile:
    """Identity of a data file when a split was drawn from it."""

    name: str
    """File name without folders, because a data set may be moved."""
    rows: int
    sha256: str


@dataclass(frozen=True)
class _Saved:
    """Content of split.json."""

    schema: Literal[1]
    data: DataFile
    eval_data: DataFile | None
    train: tuple[int, ...]
    eval: tuple[int, ...]
    repeats: tuple[tuple[int, int], ...] = ()
    """As in `Split`. It is missing from files of earlier versions, which did not remove such rows from training."""
    run: str | None = None
    """Id of the run; missing from files of earlier versions."""


def describe(path: Path, rows: int) -> DataFile:
    """Hash a data file on disk, or the files of a data set (about a third of a second for LLaVA-Pretrain's 156 MB).

    Raises:
        ValueError: a file cannot be read.
    """
    return DataFile(path.name, rows, content_digest(path))


def draw_split(num_rows: int, max_samples: int | None, eval_ratio: float, seed: int) -> Split:
    """Draw a subset and split it.

    Args:
        num_rows: number of rows in the file, usable or not.
        max_samples: number of rows to draw for training and held-out side together. None, or a number above that of the
            file, draws all rows.
        eval_ratio: share of the drawn rows that is held out, rounded to whole rows. If it is above 0, both sides get at
            least one row. 5,000 rows at 0.02 give 4,900 and 100.
        seed: the seed; the same seed and number of rows always draw the same rows.

    Raises:
        ValueError: there are no rows, or there is only one row and it would have to be split.
    """
    size = num_rows if max_samples is None else min(max_samples, num_rows)
    if size < 1 or (size == 1 and eval_ratio > 0):
        raise ValueError(
            f"cannot split {size} rows with data.eval_ratio {eval_ratio} (the file has {num_rows} rows, "
            f"data.max_samples is {max_samples}): at least {2 if eval_ratio > 0 else 1} are needed"
        )
    drawn = draw_rows(num_rows, seed)[:size]
    held_out = min(max(1, round(size * eval_ratio)), size - 1) if eval_ratio > 0 else 0
    return Split(train=tuple(sorted(drawn[held_out:])), eval=drawn[:held_out])


def save_split(
    path: Path, split: Split, data: DataFile, eval_data: DataFile | None = None, run: str | None = None
) -> None:
    """Write a split, the identity of its data file(s) and the id of its run as JSON, atomically."""
    saved = _Saved(_SCHEMA, data, eval_data, split.train, split.eval, split.repeats, run)
    write_atomic(path, json.dumps(asdict(saved)) + "\n")


def is_split(path: Path) -> bool:
    """Whether a file is the split of a run."""
    try:
        TypeAdapter(_Saved).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return False
    return True


def run_of_split(path: Path) -> str | None:
    """Return the id of the run that saved a split; None if the file is missing, unreadable or of an earlier version."""
    try:
        return TypeAdapter(_Saved).validate_json(path.read_bytes(), strict=True).run
    except (OSError, ValidationError):
        return None


def load_split(path: Path, data: DataFile, eval_data: DataFile | None = None) -> Split:
    """Read a saved split, if it was drawn from these data files.

    Raises:
        ValueError: the split file is missing or broken, or the split was drawn from another data file.
    """
    try:
        data_of_split = read_regular(path, bounds.SPLIT_BYTES)
        parse_json(data_of_split, bounds.SPLIT_VALUES)  # refuses keys that occur twice
        saved = TypeAdapter(_Saved).validate_json(data_of_split, strict=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot read the split ({error.strerror}); it is saved when a run starts") from error
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ValueError(
            f"{path}: not a split file of schema {_SCHEMA} ({what}); delete it to draw the split again"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: not a split file ({error}); delete it to draw the split again") from error
    split = Split(saved.train, saved.eval, saved.repeats)
    require_same(str(path), "data.json_file", saved.data, data)
    require_same(str(path), "data.eval_json", saved.eval_data, eval_data)
    _check_rows(path, split, saved.data.rows, saved.eval_data.rows if saved.eval_data else None)
    return split


def require_same(source: str, setting: str, saved: DataFile | None, now: DataFile | None) -> None:
    """Reject a data file other than the one that a split was drawn from; its name and folder may differ.

    Args:
        source: the file that contains the split.
        setting: the config field that names the data file.
        saved: the data file when the split was drawn.
        now: the data file now.

    Raises:
        NamedInputError: `data-changed`: the content differs, which includes another order of the rows.
    """
    if (saved.sha256 if saved else None) == (now.sha256 if now else None):
        return
    raise NamedInputError(
        "data-changed",
        f"{setting} is not the file that {source} was drawn from: it was {_name(saved)}, now it is {_name(now)}; "
        "held-out rows could have been trained on",
        "restore the file, or start a new run in another output_dir",
    )


def _name(data: DataFile | None) -> str:
    return f"{data.name} with {data.rows:,} rows and SHA-256 {data.sha256[:12]}" if data else "not set"


def _check_rows(path: Path, split: Split, rows: int, eval_rows: int | None) -> None:
    """[Contract] Check that every row exists and occurs only once: in training, held out, or removed."""
    drawn = (*split.train, *(row for row, _ in split.repeats))
    parts = ((drawn, rows), (split.eval, rows if eval_rows is None else eval_rows))
    broken = any(len(set(part)) != len(part) or (part and not 0 <= min(part) <= max(part) < n) for part, n in parts)
    if broken or (eval_rows is None and set(drawn) & set(split.eval)):
        raise ValueError(
            f"{path}: some rows of the split are repeated, on both sides, or not in the data file; "
            "the file was changed by hand. Delete it to draw the split again"
        )
