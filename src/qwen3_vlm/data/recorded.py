"""Records the split into training and held-out rows in a checkpoint, and reads this record.

The record shows which rows were trained on, even if only the `.pt` file is available. The record consists of plain
values and small tensors. One bit per row of the data file marks whether it is a training row (70 kB for
LLaVA-Pretrain). Held-out rows are saved as a list of row indices with four bytes each, because their order matters
(45 kB).
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
    """The training rows and held-out rows of a run, and the data files that they come from."""

    data: DataFile
    eval_data: DataFile | None
    """The separate file of held-out rows; None if the held-out rows are drawn from `data`."""
    split: Split

    def to_plain(self) -> dict[str, Any]:
        """Convert the split to the plain values and tensors that are saved in a checkpoint."""
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
        """Rebuild a split from the values that `to_plain` returned. `path`, the checkpoint, is used only in messages.

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
        """Return the split after checking that the data files, and a saved split.json, still agree with it.

        Args:
            data: the data file as it is now.
            eval_data: the separate file of held-out rows as it is now; None if the config names none.
            saved: the path of the run's split.json. The file does not need to exist.
            source: the checkpoint; used only in messages.

        Raises:
            NamedInputError: `data-changed`: the content of a data file has changed, split.json lists other rows, or a
                held-out row is also a training row.
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
