"""Records curves during training with one of Accelerate's trackers; TensorBoard is the default."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from eyechart.settings import flatten

FOLDER = "tracker"
"""Name of the tracker's folder inside `output_dir`; `tensorboard --logdir outputs` finds the trackers of all runs."""


def start_accelerator(tracker: str, device: str, folder: str) -> Accelerator:
    """Start the process group, with a tracker.

    Args:
        tracker: the setting train.tracker.
        device: the setting model.device.
        folder: the setting output_dir.

    Raises:
        ValueError: the tracker's package is not installed.
    """
    if tracker == "none":
        return Accelerator(cpu=device == "cpu")
    if importlib.util.find_spec(tracker) is None:
        raise ValueError(
            f"train.tracker: {tracker} is not installed; `pip install {tracker}`, or set train.tracker to none"
        )
    return Accelerator(cpu=device == "cpu", log_with=tracker, project_dir=folder)


def start_tracker(accelerator: Accelerator, folder: Path, settings: dict[str, Any]) -> None:
    """Open the tracker, if there is one, and record the run's settings. The folder must already belong to this run."""
    if accelerator.log_with:
        folder.mkdir(parents=True, exist_ok=True)
        flat = flatten(settings).items()
        plain = {key: value if isinstance(value, int | float | str | bool) else str(value) for key, value in flat}
        accelerator.init_trackers(FOLDER, plain)
