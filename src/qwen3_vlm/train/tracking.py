"""Records curves during training with one of Accelerate's trackers; TensorBoard is the default."""

from __future__ import annotations

import importlib.util
from typing import Any

from accelerate import Accelerator

from eyechart.run_folder import RunFolder
from eyechart.settings import flatten
from qwen3_vlm.train.run_files import TRACKER, tracker_files


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


def start_tracker(accelerator: Accelerator, opened: RunFolder | None, settings: dict[str, Any]) -> None:
    """Open the tracker, if there is one, and record the run's settings and its id.

    Args:
        accelerator: the accelerator with the tracker.
        opened: the folder of the run; None on processes other than the first, which do not write.
        settings: the config of the run.
    """
    if accelerator.log_with:
        before = tracker_files(opened.folder) if opened else set()
        settings = {**settings, **({"run": opened.run} if opened else {})}
        flat = flatten(settings).items()
        plain = {key: value if isinstance(value, int | float | str | bool) else str(value) for key, value in flat}
        accelerator.init_trackers(TRACKER, plain)
        if opened:
            opened.register(tracker_files(opened.folder) - before)
