"""Combines rows and their token ids into samples. Images are read on request and never replaced by other images."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eyechart.data.encoded import Encoded
from eyechart.data.images import ImageError, ImageSpec, content_hash, load_image
from eyechart.printing import err
from eyechart.seam import Reject, Row, Sample


class Dataset:
    """A map-style data set over usable rows, for `torch.utils.data.DataLoader`.

    It can be pickled for workers. The only array per row is the caption's ids; a row takes about 0.5 kB in total.
    """

    def __init__(
        self,
        records: Sequence[Row],
        encoded: Sequence[Encoded],
        image_root: Path,
        spec: ImageSpec,
        max_pixels: int,
    ) -> None:
        """Pair each of the `records` with its token ids, in the same order."""
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
        """Return row `index` with its image, or a Reject with the reason why the image cannot be used."""
        record = self._records[index]
        path = self._image_root / record.image
        try:
            pixels_CHW = load_image(path, self._spec, self._max_pixels)
        except ImageError as error:
            return Reject(record.row, error.reason, f"{path}: {error.detail}", error.kind)
        return replace(self.text(index), image_hash=content_hash(pixels_CHW), pixels_CHW=pixels_CHW)

    def text(self, index: int) -> Sample:
        """Return row `index` without its image; no file is opened."""
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
        """Return, for every index, the row in the data file."""
        return [record.row for record in self._records]

    @property
    def lengths(self) -> list[int]:
        """Return, for every index, the number of tokens before truncation to max_seq_len."""
        return [encoded.full_length for encoded in self._encoded]

    @property
    def wrapper_tokens(self) -> float:
        """Average number of prompt tokens around the image block; 0 if there are no rows."""
        return sum(encoded.wrapper_tokens for encoded in self._encoded) / max(1, len(self))


class TooManyRejectedError(ValueError):
    """More rows are unusable than the settings allow."""

    def __init__(self, message: str, rejects: Sequence[Reject], total: int) -> None:
        """Store the unusable rows and the total number of rows."""
        super().__init__(message)
        self.rejects, self.total = tuple(rejects), total


def above_share(count: int, total: int, allowed: float) -> bool:
    """Return whether more rows are faulty than the allowed share. All checks use this rule, before and during training.

    A single faulty row is accepted even above the share, unless `allowed` is 0 or it is the only row. It is 12% of
    eight rows, but does not show that other rows are faulty too.

    Args:
        count: number of faulty rows.
        total: number of rows checked.
        allowed: accepted share of faulty rows, 0 to 1.
    """
    return count > allowed * total and (count > 1 or allowed == 0 or total == 1)


def judge_rejects(
    rejects: Sequence[Reject], total: int, max_rejected: float, label: str, setting: str = "data.max_rejected"
) -> None:
    """Report rows with unusable text or image, and stop if there are too many.

    `above_share` decides whether there are too many. The check before training uses the same rule, so a single broken
    file that it accepts does not stop the run later. To accept no unusable row, set `max_rejected` to 0.

    Args:
        rejects: unusable rows.
        total: number of requested rows, usable or not.
        max_rejected: accepted share of `total`; a larger share indicates a systematic fault, not a few broken files. A
            single unusable row is always accepted, unless `max_rejected` is 0 or it is the only row.
        label: name of this set of rows, such as `training`, for the line on standard error.
        setting: name of `max_rejected` in messages.

    Raises:
        TooManyRejectedError: too many rows are unusable; the message has counts by reason and three examples.
    """
    too_many_rejected(rejects, total, max_rejected, label, setting)
    if rejects:
        _say_once(f"warning: {_summary(rejects, total, label)}; they are left out and not replaced by other rows")


def too_many_rejected(
    rejects: Sequence[Reject],
    total: int,
    max_rejected: float,
    label: str = "training",
    setting: str = "data.max_rejected",
) -> None:
    """Stop if there are too many unusable rows, as in `judge_rejects`, for callers that have already reported them.

    Raises:
        TooManyRejectedError: too many of `total` are unusable; the message has counts by reason and three examples.
    """
    if above_share(len(rejects), total, max_rejected):
        raise TooManyRejectedError(
            f"{_summary(rejects, total, label)}. That is more than {setting} {max_rejected:g}: fix the rows, or "
            "raise this limit",
            rejects,
            total,
        )


def _summary(rejects: Sequence[Reject], total: int, label: str) -> str:
    counts = ", ".join(f"{reason} {count}" for reason, count in Counter(r.reason for r in rejects).most_common())
    examples = "; ".join(f"row {r.row}: {r.reason} ({r.detail})" for r in examples_of(rejects))
    share = 100 * len(rejects) / max(1, total)
    return f"{len(rejects)} of {total} {label} rows are unusable ({share:.3g}%): {counts}. For example {examples}"


@functools.cache
def _say_once(line: str) -> None:
    """Write a line only once per job: all ranks read the same rows, and a trial run reads them twice."""
    if os.environ.get("RANK", "0") == "0":
        err(line)


def examples_of(rejects: Sequence[Reject], count: int = 3) -> list[Reject]:
    """Return up to `count` rejects, with as many different reasons as possible."""
    firsts = {r.reason: r for r in reversed(rejects)}
    different = sorted(firsts.values(), key=lambda r: r.row)
    others = [r for r in rejects if r is not firsts[r.reason]]
    return [*different, *others][:count]


def count_rejects(*groups: tuple[Reject, ...]) -> dict[str, int]:
    """Return the number of rejected rows by reason."""
    return dict(Counter(reject.reason for group in groups for reject in group))
