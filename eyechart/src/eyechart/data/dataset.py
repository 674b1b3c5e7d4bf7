"""Records and their ids to samples: the image is read when the sample is asked for, and never replaced by another."""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eyechart.data.encoded import Encoded
from eyechart.data.images import ImageError, ImageSpec, content_hash, load_image
from eyechart.seam import Reject, Row, Sample


class Dataset:
    """A map-style data set over usable rows, for `torch.utils.data.DataLoader`.

    It can be pickled for workers, and holds no array per row beyond the caption's ids (about 0.5 kB a row in all).
    """

    def __init__(
        self,
        records: Sequence[Row],
        encoded: Sequence[Encoded],
        image_root: Path,
        spec: ImageSpec,
        max_pixels: int,
    ) -> None:
        """Pair `records` with their ids, one for one."""
        assert len(records) == len(encoded), f"{len(records)} records, {len(encoded)} encoded rows"
        self._records = records
        self._encoded = encoded
        self._image_root = image_root
        self._spec = spec
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        """Number of rows whose text is usable."""
        return len(self._records)

    def __getitem__(self, index: int) -> Sample | Reject:
        """Row `index` with its image, or why the image cannot be used."""
        record = self._records[index]
        path = self._image_root / record.image
        try:
            pixels_CHW = load_image(path, self._spec, self._max_pixels)
        except ImageError as error:
            return Reject(record.row, error.reason, f"{path}: {error.detail}", error.kind)
        return replace(self.text(index), image_hash=content_hash(pixels_CHW), pixels_CHW=pixels_CHW)

    def text(self, index: int) -> Sample:
        """Row `index` without its image: no file is opened."""
        record, encoded = self._records[index], self._encoded[index]
        return Sample(
            row=record.row,
            id=record.id,
            image=record.image,
            caption=record.caption,
            ids_T=encoded.ids_T,
            labels_T=encoded.labels_T,
            block=encoded.block,
            full_length=encoded.full_length,
        )

    @property
    def rows(self) -> list[int]:
        """Row in the data file, by index."""
        return [record.row for record in self._records]

    @property
    def lengths(self) -> list[int]:
        """Tokens before the cut by max_seq_len, by index."""
        return [encoded.full_length for encoded in self._encoded]

    @property
    def wrapper_tokens(self) -> float:
        """Average prompt tokens around the image block; 0 if there are no rows."""
        return sum(encoded.wrapper_tokens for encoded in self._encoded) / max(1, len(self))


class TooManyRejectedError(ValueError):
    """More rows are unusable than the settings allow."""

    def __init__(self, message: str, rejects: Sequence[Reject], total: int) -> None:
        """Keep the unusable rows and the total number of rows."""
        super().__init__(message)
        self.rejects, self.total = tuple(rejects), total


def above_share(count: int, total: int, allowed: float) -> bool:
    """The one rule for rows that are counted against an allowed share of them, before training and in it.

    A single row is never a share: of eight rows it is 12%, and says nothing about the ninth. It counts where `allowed`
    is 0, which allows none, and where there is no other row.

    Args:
        count: rows that are not as they should be.
        total: rows looked at.
        allowed: share, 0 to 1.
    """
    return count > allowed * total and (count > 1 or allowed == 0 or total == 1)


def judge_rejects(
    rejects: Sequence[Reject], total: int, max_rejected: float, label: str, setting: str = "data.max_rejected"
) -> None:
    """The one rule for rows with unusable text or image: report them, and stop if there are too many.

    Too many is what `above_share` says, as in the check before training: that one would warn of a single broken file
    for nothing, if the run ended at the same file a moment later. Who wants none at all sets `max_rejected` to 0.

    Args:
        rejects: unusable rows.
        total: rows that were asked for, usable or not.
        max_rejected: accepted share of `total`; above it something else than the odd broken file is wrong. One row
            is accepted of any number, unless it is 0.
        label: what the rows are, such as `training`, for the line that is written to standard error.
        setting: name of `max_rejected` in messages.

    Raises:
        TooManyRejectedError: more than that, with counts by reason and three examples.
    """
    too_many_rejected(rejects, total, max_rejected, label, setting)
    if rejects:
        _say_once(f"warning: {_summary(rejects, total, label)}; left out, no other row takes their place")


def too_many_rejected(
    rejects: Sequence[Reject],
    total: int,
    max_rejected: float,
    label: str = "training",
    setting: str = "data.max_rejected",
) -> None:
    """The second half of `judge_rejects`, for callers that have already reported the rows.

    Raises:
        TooManyRejectedError: more than `max_rejected` of `total`, with counts by reason and three examples.
    """
    if above_share(len(rejects), total, max_rejected):
        raise TooManyRejectedError(
            f"{_summary(rejects, total, label)}. That is more than {setting} {max_rejected:g}: fix the rows or "
            "raise it",
            rejects,
            total,
        )


def _summary(rejects: Sequence[Reject], total: int, label: str) -> str:
    counts = ", ".join(f"{reason} {count}" for reason, count in Counter(r.reason for r in rejects).most_common())
    examples = "; ".join(f"row {r.row}: {r.reason} ({r.detail})" for r in _examples(rejects))
    share = 100 * len(rejects) / max(1, total)
    return f"{len(rejects)} of {total} {label} rows are unusable ({share:.3g}%): {counts}. For example {examples}"


@functools.cache
def _say_once(line: str) -> None:
    """Report once per job and trial: all ranks read the same text, and a trial reads it twice."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"{line}\n")


def _examples(rejects: Sequence[Reject], count: int = 3) -> list[Reject]:
    """Up to `count` rejects, with as many different reasons as possible."""
    firsts = {r.reason: r for r in reversed(rejects)}
    different = sorted(firsts.values(), key=lambda r: r.row)
    others = [r for r in rejects if r is not firsts[r.reason]]
    return [*different, *others][:count]


def count_rejects(*groups: tuple[Reject, ...]) -> dict[str, int]:
    """Rejected rows by reason."""
    return dict(Counter(reject.reason for group in groups for reject in group))
