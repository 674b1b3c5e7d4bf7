"""Opens a live model together with its data: rows, a data set, a data loader, or batches made by a collator.

A live model is a PyTorch model that is loaded in the current process. The seam is the interface between eyechart and a
model (`eyechart.seam`); a scorer of the seam implements its methods `encode` and `nll`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn
from torch.utils.data import DataLoader, Dataset

from eyechart.api.source import asked
from eyechart.data.choice import draw_rows
from eyechart.exits import InputError
from eyechart.models.unchanged import kept_randomness
from eyechart.seam import Batch, Row, ScorerOfBatches
from eyechart.settings import ScoreSettings

BatchDict = Mapping[str, Any]
"""A batch made by a collator: a dict of arrays."""
Collate = Callable[[list[Any]], BatchDict]
"""A function that makes a batch from items of a data set."""
LiveRows = DataLoader[Any] | Dataset[Any] | Iterable[BatchDict] | BatchDict


@dataclass(frozen=True)
class LiveArguments:
    """The arguments of `score` that are used for a live model."""

    processor: Any
    collate_fn: Collate | None
    num_samples: int | None
    """The number of rows to score. If it is None, `settings.ablation.num_samples` rows of a loader or data set are
    scored, and all rows of batches."""
    settings: ScoreSettings
    image_root: str | Path | None = None
    """The folder that the rows' image paths are relative to."""


@dataclass(frozen=True)
class Opened:
    """A live model, adapted to the seam by a scorer, and the data to score."""

    scorer: ScorerOfBatches
    rows: str | Path | Sequence[Row] | Sequence[Batch]
    by_rows: bool
    """True if the data are rows; False if they are batches made by the model's collator."""


def is_live(model: object) -> TypeGuard[nn.Module]:
    """Return whether `model` is a PyTorch module that does not implement the seam itself."""
    return isinstance(model, nn.Module) and not all(callable(getattr(model, name, None)) for name in ("encode", "nll"))


@contextmanager
def opened(model: nn.Module, rows: Any, given: LiveArguments) -> Iterator[Opened]:
    """Return a context manager that adapts a live model to the seam.

    When the `with` block ends, the model is the same as before.

    Args:
        model: the live model.
        rows: the data to score: rows, a data set, a data loader, or batches.
        given: the other arguments.

    Raises:
        ValueError: the model or its batches cannot be scored.
    """
    with kept_randomness():  # importing a library may draw random numbers too
        # These modules are imported here because transformers takes seconds to load, and a user's scorer does not need
        # it.
        from eyechart.models.gate import FeatureGate
        from eyechart.models.live_model import LiveModel
        from eyechart.models.loading import adapt
        from eyechart.models.opening import open_live
        from eyechart.models.row_batches import batches_of_rows

        if _are_rows(rows):
            if given.processor is None:
                raise InputError("processor: it is needed to score rows with a live model", "pass processor=")
            live = LiveModel(model)
            if FeatureGate.fits(live.model):
                with live.running():
                    name = str(getattr(live.config, "_name_or_path", "") or type(live.model).__name__)
                    yield Opened(adapt(name, live.model, given.processor, given.settings), rows, True)
                return
            rows = batches_of_rows(_chosen(rows, given), given.processor, given.settings)
        batches, most = batches_of(rows, given)
        scorer = open_live(model, batches, given.processor, most)
        with scorer.live.running():
            yield Opened(scorer, scorer.batches, False)


def batches_of(rows: Any, given: LiveArguments) -> tuple[Iterable[BatchDict], int | None]:
    """Return batches made by a collator, and the number of rows after which reading stops (None: all rows are read).

    Args:
        rows: a data set, a data loader, one batch, or several batches.
        given: the arguments that choose the rows: collator, number of rows and settings.

    Raises:
        InputError: `rows` has a type that is not accepted.
    """
    most = given.num_samples or given.settings.ablation.num_samples
    if isinstance(rows, Mapping):
        return [rows], given.num_samples
    if isinstance(rows, DataLoader):
        return rows, most
    if isinstance(rows, Dataset):
        if given.collate_fn is None:
            raise InputError("collate_fn: it is needed to score a data set", "pass collate_fn=, or a DataLoader")
        if not isinstance(rows, Sized):
            raise InputError(
                f"rows: {type(rows).__name__} has no length, so no rows can be drawn from it",
                "pass a DataLoader of it, whose first rows are scored, or a list of batch dicts",
            )
        size, count = given.settings.ablation.batch_size, len(rows)
        chosen = sorted(draw_rows(count, given.settings.seed)[:most])
        groups = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        return (given.collate_fn([rows[place] for place in group]) for group in groups), None
    if isinstance(rows, Iterable) and not isinstance(rows, str):
        return rows, given.num_samples
    raise InputError(
        f"rows: expected rows, a Dataset, a DataLoader or batch dicts for a live model, got {type(rows).__name__}",
        "pass one of them",
    )


def _chosen(rows: str | Path | Sequence[Row], given: LiveArguments) -> Sequence[Row]:
    """Read, choose and return the rows to score, all of which must be usable.

    Raises:
        InputError: a row cannot be used.
    """
    wanted = asked(rows, given.num_samples, given.image_root, given.settings)
    if wanted.rejects:
        first = wanted.rejects[0]
        raise InputError(f"row {first.row}: {first.reason}: {first.detail}", "leave these rows out, or fix them")
    return wanted.rows


def _are_rows(rows: object) -> bool:
    if isinstance(rows, str | Path):
        return True
    return isinstance(rows, Sequence) and bool(rows) and all(isinstance(row, Row) for row in rows)
