"""The state of a training run between two updates, which the loop, the looks and the checkpoints share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from eyechart.seam import Reject
from qwen3_vlm.build import Prepared
from qwen3_vlm.config import Config
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.checkpoint import checkpoint_path
from qwen3_vlm.train.evidence.canary import Canary
from qwen3_vlm.train.guards import Interrupt, Sizes
from qwen3_vlm.train.looks import Looking
from qwen3_vlm.train.schedule import Window, plan_epoch
from qwen3_vlm.train.train_utils import EpochProgress
from qwen3_vlm.train.update import SampleSource
from qwen3_vlm.train.watch import Watch


@dataclass
class Run:
    """The state of a training run between two updates."""

    config: Config
    prepared: Prepared
    vlm: VLM
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    train_set: SampleSource
    eval_set: SampleSource
    progress: EpochProgress
    step: int = 0
    updates: int = 0
    interrupt: Interrupt = field(default_factory=Interrupt)
    looking: Looking | None = None
    """The looks; None on processes other than the main one, or if there are no looks."""
    canary: Canary | None = None
    """The rows that are scored at each save; None on processes other than the main one, or if there are none."""
    watch: Watch | None = None
    """The checks that every process makes during training; None in a dry run."""
    id: str = ""
    """Id of the run, which every file that it writes contains; empty until the folder belongs to the run."""
    unread: dict[int, Reject] = field(default_factory=dict)
    """Training rows whose image could not be read so far, by row number."""

    @property
    def sizes(self) -> Sizes:
        """The settings that affect the memory of this run."""
        return sizes_of(self.config)

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint of the current step, whether or not the file exists."""
        return checkpoint_path(self.folder, self.step)

    @property
    def folder(self) -> Path:
        """The folder for all files of this run."""
        return Path(self.config.output_dir)

    def plan(self, epoch: int) -> list[Window]:
        """Return the order of an epoch, which is always the same for the same epoch and config."""
        train = self.config.train
        return plan_epoch(len(self.train_set), epoch, self.config.seed, train.batch_size, train.accumulation)

    def data_identity(self) -> dict[str, str]:
        """Return hashes of the data files, the usable rows and the order of this epoch.

        They must be the same in a resumed run.
        """

        def digest(value: object) -> str:
            return hashlib.sha256(repr(value).encode()).hexdigest()[:16]

        return {
            "files": digest([file.sha256 if file else None for file in self.prepared.files]),
            "training rows": digest(self.prepared.train.rows),
            "held-out rows": digest(self.prepared.eval.rows),
            "order of the epoch": digest(self.plan(self.progress.epoch)),
        }


def sizes_of(config: Config) -> Sizes:
    """Return the settings that affect the memory of a run."""
    micro = config.train.micro_batch_size or config.train.batch_size
    return Sizes(config.model.precision, micro, config.ablation.batch_size, config.data.max_seq_len)
