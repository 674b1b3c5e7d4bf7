"""The data to score: a data file, rows or batches. Each batch of rows is read on request and counted for check 2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from eyechart.data.choice import draw_rows
from eyechart.data.dataset import TooManyRejectedError, count_rejects, judge_rejects
from eyechart.data.encoded import IMAGE_CUT
from eyechart.data.reader import folder_of, open_rows, simple_rows
from eyechart.results import Coverage
from eyechart.rows import PLACEHOLDER, RejectKind
from eyechart.scoring.batching import collate
from eyechart.scoring.contract import read_batch, require_batch
from eyechart.scoring.ranks import Ranks
from eyechart.seam import IGNORE_INDEX, Batch, CollateStats, Reject, Row, Sample, Scorer, ScorerOfBatches
from eyechart.settings import ScoreSettings, require_count
from eyechart.verdict.coverage import Counted, judge_coverage


@dataclass(frozen=True)
class Asked:
    """The data to score, before a model is loaded."""

    rows: tuple[Row, ...]
    batches: Sequence[Batch] | None
    """Batches in memory that the caller passed instead of rows."""
    rejects: tuple[Reject, ...]
    """Rows that cannot be used with any model."""
    requested: int
    file: Path | None
    image_root: str | None

    @property
    def available(self) -> int:
        """Number of requested rows that exist."""
        return self.requested if self.batches is not None else len(self.rows) + len(self.rejects)

    def judge(self, unread: Sequence[Reject], most: float) -> None:
        """Stop if more than a share `most` of the rows is unusable; otherwise report the unusable ones.

        Args:
            unread: rows that could not be read for this model, in addition to `rejects`.
            most: accepted share, 0 to 1.

        Raises:
            TooManyRejectedError: there are too many; the message has counts by reason and three examples.
        """
        try:
            judge_rejects([*self.rejects, *unread], self.available, most, "scored", "--max_rejected")
        except TooManyRejectedError as error:
            if not any(reject.kind is RejectKind.NO_PLACEHOLDER for reject in self.rejects):
                raise
            hint = f"{error}, or ask all rows the same with --prompt, such as '{PLACEHOLDER}\\nDescribe it.'"
            raise TooManyRejectedError(hint, error.rejects, error.total) from error


def asked(
    rows: str | Path | Sequence[Row] | Sequence[Batch],
    num_samples: int | None,
    image_root: str | Path | None,
    settings: ScoreSettings,
) -> Asked:
    """Read and choose the rows to score; no model is needed for this.

    Raises:
        ValueError: no such file or folder, an invalid number of samples, or neither rows nor batches.
    """
    require_count("--num_samples", num_samples)
    requested = num_samples or settings.ablation.num_samples
    root = None if image_root is None else str(image_root)
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"--image_root: expected the folder that image paths are relative to; {root} is not a folder")
    if isinstance(rows, str | Path):
        file = require_file("--data", rows)
        root = str(folder_of(file)) if root is None else root
        opened = open_rows(file, settings.layout, root, places_optional=settings.prompt is not None)
        chosen = draw_rows(len(opened), settings.seed)[:requested]
        found, rejects = simple_rows(*opened.read(chosen))
        return Asked(tuple(found), None, tuple(rejects), requested, file, root)
    items = list(rows)
    given = [item for item in items if isinstance(item, Row)]
    if given and len(given) == len(items):
        requested = num_samples or len(given)
        found = [given[place] for place in sorted(draw_rows(len(given), settings.seed)[:requested])]
        found = found if root is None else [replace(row, image_root=root) for row in found]
        if root is None and len({row.image_root for row in found}) > 1:
            # The page has one image folder. If the rows have several, each image is recorded with its full path.
            found = [replace(row, image=str(row.path), image_root="") for row in found]
        return Asked(tuple(found), None, (), requested, None, root or found[0].image_root)
    batches = [item for item in items if isinstance(item, Batch)]
    if not batches or len(batches) < len(items):
        raise ValueError("rows: expected the path of a data file, or a non-empty sequence of Row or of Batch")
    if num_samples is not None:
        raise ValueError("num_samples: can only be set for rows, because batches are scored completely; leave it out")
    return Asked((), batches, (), sum(len(b) + len(b.rejects) for b in batches), None, root)


def require_file(flag: str, path: str | Path) -> Path:
    """Return `path` if it is a data file, a folder with a data set, or a pattern of files.

    Raises:
        ValueError: there is no such file or folder.
    """
    if not Path(path).exists() and "*" not in Path(path).name:
        raise ValueError(f"{flag}: expected a data file or a folder with a data set, but there is none at {path}")
    return Path(path)


@dataclass(frozen=True)
class _Counted:
    """The counts of check 2 for one batch."""

    stats: CollateStats
    block_tokens: int
    longest: int
    wrapper_tokens: int
    rejects: tuple[Reject, ...]

    @classmethod
    def of(cls, batch: Batch) -> _Counted:
        """Count a batch."""
        blocks = [s.block[1] - s.block[0] for s in batch.samples]
        prompts = [int((s.labels_T == IGNORE_INDEX).sum()) for s in batch.samples]
        longest = max((len(s.ids_T) for s in batch.samples), default=0)
        stats = CollateStats.of(batch.samples)
        return cls(stats, max(blocks, default=0), longest, sum(prompts) - sum(blocks), batch.rejects)


class Source(Sequence[Batch]):
    """The requested batches. Images are read when a batch is requested, and not kept in memory."""

    def __init__(self, scorer: ScorerOfBatches, asked: Asked, batch_size: int) -> None:
        """Group rows of similar length, longest first, so that a batch that is too large fails immediately."""
        self._scorer, self.asked = scorer, asked
        self._given = asked.batches
        ordered = sorted(asked.rows, key=lambda row: -len(row.human) - len(row.caption))
        self._groups = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
        self._by_row = {row.row: row for row in asked.rows}
        self._counted: dict[int, _Counted] = {}

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._groups) if self._given is None else len(self._given)

    @overload
    def __getitem__(self, number: int) -> Batch: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Batch]: ...

    def __getitem__(self, number: int | slice) -> Batch | Sequence[Batch]:
        """Read one batch or several, and add them to the counts of check 2.

        Raises:
            ValueError: the scorer breaks its contract.
        """
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        if self._given is None:
            batch = self.read(self._groups[number])
        else:
            batch = self._given[number]
            require_batch(batch)
        self._counted[number] = _Counted.of(batch)
        return batch

    def read(self, rows: Sequence[Row]) -> Batch:
        """Convert rows to a batch with the scorer's own `batch` method.

        Raises:
            ValueError: the scorer breaks its contract, or cannot read rows.
        """
        if not callable(getattr(self._scorer, "batch", None)):
            raise ValueError(
                f"Scorer.batch: {type(self._scorer).__name__} has no such method, so it accepts only batches, not rows"
            )
        scorer: Scorer = self._scorer  # type: ignore[assignment]  # checked just above
        return read_batch(scorer, rows)

    def first(self, count: int) -> Batch | None:
        """Return the first `count` samples in row order with an image and a label token; None if there are none."""
        if self._given is not None:
            numbers, batch = range(len(self._given)), None
            for number in numbers:
                batch = self._given[number]
                require_batch(batch)
                places = [p for p, s in enumerate(batch.samples) if s.has_image and s.label_tokens][:count]
                if places:
                    return batch.rows(places)
            return None
        found: list[Row] = []
        for start in range(0, len(self.asked.rows), count):
            batch = self.read(self.asked.rows[start : start + count])
            found += [self._by_row[s.row] for s in batch.samples if s.has_image and s.label_tokens]
            if len(found) >= count:
                break
        return self.read(found[:count]) if found else None

    def pick(self, rows: Sequence[int]) -> Batch:
        """Return the samples with these row indices, with their images if they can still be read."""
        if self._given is None:
            return self.read([self._by_row[row] for row in rows])
        found: dict[int, Sample] = {}
        for batch in self._given:
            found |= {s.row: _whole(batch, place) for place, s in enumerate(batch.samples) if s.row in set(rows)}
        return collate([found[row] for row in rows])

    def coverage(self, settings: ScoreSettings, limit: int | None, ranks: Ranks) -> Coverage:
        """Return check 2 on the scored data. It is needed without training too, as truncated captions cannot be judged.

        Args:
            settings: thresholds.
            limit: number of tokens to which sequences were truncated; None if only the scorer knows it.
            ranks: the processes that read the data; all of them must call this method.
        """
        counted = ranks.merge(self._counted)
        stats = sum((c.stats for c in counted.values()), CollateStats())
        rejected = count_rejects(self.asked.rejects, *(c.rejects for c in counted.values()))
        split = Counted(
            source="score",
            stats=stats,
            max_seq_len=limit or max((c.longest for c in counted.values()), default=0),
            block_tokens=max((c.block_tokens for c in counted.values()), default=0),
            wrapper_tokens=sum(c.wrapper_tokens for c in counted.values()) / max(1, stats.samples),
            rejected=rejected,
            image_cut=Counter(rejected)[IMAGE_CUT],
        )
        return judge_coverage(split, settings.coverage)


def _whole(batch: Batch, place: int) -> Sample:
    """Return one sample of a batch with its pixels or features included."""
    pixels_BCHW, features_BPV = batch.pixels_BCHW, batch.features_BPV
    return replace(
        batch.samples[place],
        pixels_CHW=None if pixels_BCHW is None else pixels_BCHW[place],
        features_PV=None if features_BPV is None else features_BPV[place],
    )
