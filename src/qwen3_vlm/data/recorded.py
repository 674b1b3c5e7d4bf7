"""The split as a checkpoint records it, so that a copy of the `.pt` alone shows which rows were trained on.

It consists of plain values and small tensors: one bit per row of the data file for the training side, and four bytes
per held-out row, whose order matters (70 kB and 45 kB for LLaVA-Pretrain).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyechart.exits import InputError, NamedInputError
from qwen3_vlm.data.splits import DataFile, Split, load_split, require_same

_FIX = "restore the data as it was in training; to score other rows, export the model and use `eyechart score`"


@dataclass(frozen=True)
class RecordedSplit:
    """Both sides of the split of a run, and the files that the rows belong to."""

    data: DataFile
    eval_data: DataFile | None
    """The fixed held-out file; None if held-out rows are drawn from `data`."""
    split: Split

    def to_plain(self) -> dict[str, Any]:
        """Return the values that are saved in a checkpoint."""
        trained = np.zeros(self.data.rows, dtype=bool)
        trained[list(self.split.train)] = True
        return {
            "data": asdict(self.data),
            "eval_data": asdict(self.eval_data) if self.eval_data else None,
            "train": torch.from_numpy(np.packbits(trained)),
            "eval": torch.tensor(self.split.eval, dtype=torch.int32),
            "repeats": torch.tensor(self.split.repeats, dtype=torch.int32).reshape(-1, 2),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], path: Path) -> RecordedSplit:
        """Read back what `to_plain` returned; `path` is the checkpoint, for messages.

        Raises:
            InputError: the values do not describe a split.
        """
        try:
            data = DataFile(**plain["data"])
            train: Tensor = plain["train"]
            bits = np.unpackbits(train.numpy(), count=data.rows)
            split = Split(
                tuple(np.flatnonzero(bits).tolist()),
                tuple(plain["eval"].tolist()),
                tuple((row, held_out) for row, held_out in plain["repeats"].tolist()),
            )
            return cls(data, DataFile(**plain["eval_data"]) if plain["eval_data"] else None, split)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: its record of the split cannot be read ({type(error).__name__}: {error})",
                "take another checkpoint",
            ) from error

    def checked(self, data: DataFile, eval_data: DataFile | None, saved: Path | None, source: str) -> Split:
        """Return the split, if these are the files that it was drawn from and a saved split.json agrees with it.

        Args:
            data: the data file now.
            eval_data: the fixed held-out file now.
            saved: the run's split.json; it need not exist.
            source: the checkpoint, for messages.

        Raises:
            NamedInputError: `data-changed`: a file has other content, split.json has other rows, or a row of the
                held-out side was trained on.
        """
        require_same(source, "data.json_file", self.data, data)
        require_same(source, "data.eval_json", self.eval_data, eval_data)
        if saved is not None and saved.is_file() and load_split(saved, data, eval_data) != self.split:
            raise NamedInputError(
                "data-changed",
                f"{saved} does not contain the training and held-out rows that {source} records",
                "restore the split.json of this run, or delete it: the checkpoint has a copy",
            )
        same_file = self.eval_data is None or self.eval_data.sha256 == self.data.sha256
        both = sorted(set(self.split.train) & set(self.split.eval)) if same_file else []
        if both:
            raise NamedInputError(
                "data-changed",
                f"{source}: {len(both)} of {len(self.split.eval)} held-out rows were trained on (first row {both[0]}), "
                "so their loss shows nothing about new images",
                _FIX,
            )
        return self.split
