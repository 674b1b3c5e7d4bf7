"""A training with `attach` in a job of several processes: `python -m torch.distributed.run ... FOLDER attached`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import eyechart
from saved_models import Saved
from trainings import Collator, Rows, model_of, trainer_of


def main(folder: Path, attached: bool) -> None:
    """Train, and let every process save its weights."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    model, made = model_of(Saved(folder / f"models-{rank}"))
    trainer = trainer_of(model, Collator(made), folder, eval_dataset=Rows(8, 100), ddp_backend="gloo")
    if attached:
        eyechart.attach(trainer, watching=eyechart.Watching(samples=4, score=4))
    trainer.train()
    torch.save(trainer.model.state_dict(), folder / f"weights-{int(attached)}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "attached")
