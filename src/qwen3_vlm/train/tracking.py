"""Curves while training, through Accelerate's trackers: TensorBoard by default, others by one setting."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from accelerate import Accelerator

from eyechart.settings import flatten
from qwen3_vlm.config import Config

FOLDER = "tracker"
"""Inside `output_dir`; `tensorboard --logdir outputs` finds every run's."""


def start_accelerator(config: Config) -> Accelerator:
    """The process group, with the tracker that `train.tracker` names.

    Raises:
        ValueError: the tracker's package is not installed.
    """
    name = config.train.tracker
    if name == "none":
        return Accelerator(cpu=config.model.device == "cpu")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"train.tracker: {name} is not installed; `pip install {name}`, or set train.tracker to none")
    return Accelerator(cpu=config.model.device == "cpu", log_with=name, project_dir=config.output_dir)


def start_tracker(accelerator: Accelerator, config: Config) -> None:
    """Open the tracker once the folder is this run's; the config goes with it."""
    if config.train.tracker != "none":
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        plain = {
            key: value if isinstance(value, int | float | str | bool) else str(value)
            for key, value in flatten(config.model_dump(mode="json")).items()
        }
        accelerator.init_trackers(FOLDER, plain)
