"""The files that a training run writes to its folder, and how those of earlier versions are recognised."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from eyechart.lock import LockedError
from eyechart.outside.yaml_text import parse_yaml, write_yaml
from eyechart.progress import say
from eyechart.reporting.results_folder import RESULT_FILES
from eyechart.run_folder import Kinds, RunFolder, writing
from qwen3_vlm.data.splits import is_split, run_of_split
from qwen3_vlm.train.checkpoint import save_checkpoint
from qwen3_vlm.train.findings_log import FINDINGS_LOG
from qwen3_vlm.train.looks import LOOKS_LOG
from qwen3_vlm.train.train_utils import EPOCH_LOG

TRACKER = "tracker"
"""Name of the tracker's folder inside `output_dir`; `tensorboard --logdir outputs` finds the trackers of all runs."""
CONFIG, SPLIT = "config.yaml", "split.json"
RUN_LINE = "# run "
"""Start of the first line of config.yaml, which has the id of the run."""
_LOGS = {log.name: log for log in (EPOCH_LOG, LOOKS_LOG, FINDINGS_LOG)}
_KEYS = {"checkpoint": (b"resampler", b"projector"), "mean_tokens": (b"mean_QE",), "blind": (b"prompt_QE",)}
"""Keys that each kind of PyTorch file contains."""
_MOST_PICKLE_BYTES = 64 << 20
_NAMES = re.compile(
    rf"(?:{'|'.join(_KEYS)})_\d+\.pt|{'|'.join(map(re.escape, (*_LOGS, CONFIG, SPLIT)))}|{RESULT_FILES.names.pattern}"
)


def is_of_earlier_version(path: Path) -> bool:
    """Whether a file is what a version that recorded no manifest wrote under its name, judged by its content.

    A `config.yaml` is one if it has exactly the form that runs write and a split.json of a run is beside it.
    """
    kind = path.name.rpartition("_")[0]
    if path.suffix == ".pt" and kind in _KEYS:
        return _has_keys(path, _KEYS[kind])
    if path.name in _LOGS:
        return _is_log(path)
    if path.name == SPLIT:
        return is_split(path)
    if path.name == CONFIG:
        return _is_dumped(path) and path.with_name(SPLIT).is_file() and is_split(path.with_name(SPLIT))
    return RESULT_FILES.recognise(path)


RUN_FILES = Kinds(_NAMES, is_of_earlier_version)


def tracker_files(folder: Path) -> set[Path]:
    """Return the files in a run's folder that a tracker may have written."""
    names = ("events.out.tfevents.*", "hparams.yml")
    return {path for name in names for path in (folder / TRACKER).rglob(name) if path.is_file()}


def adopt_tracker(opened: RunFolder) -> None:
    """List the files of the tracker of an earlier version, whose settings are those of a run of this package."""
    found = tracker_files(opened.folder)
    if any(path.name == "hparams.yml" and b"connector.latents:" in path.read_bytes()[: 1 << 16] for path in found):
        opened.register(found)


def save_beside(path: Path, payload: dict[str, Any]) -> None:
    """Save what can be computed again in the folder of a checkpoint, unless another process is writing to that folder.

    Nor is it saved where a file of the same name was not written by a run.

    Raises:
        ValueError: the disk is full or not writable.
    """
    try:
        with writing(path.parent, RUN_FILES) as opened:
            if not path.exists() or opened.is_ours(path):
                save_checkpoint(path, payload)
    except LockedError as error:
        say(f"note: {path.name} is not saved: {error}")


def _has_keys(path: Path, keys: tuple[bytes, ...]) -> bool:
    """Whether a PyTorch file has these top-level keys. Nothing in it is executed, and no tensor is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1 or archive.getinfo(names[0]).file_size > _MOST_PICKLE_BYTES:
                return False
            pickled = archive.read(names[0])
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return False
    return all(key in pickled for key in keys)


def _is_log(path: Path) -> bool:
    try:
        return bool(_LOGS[path.name].read(path.parent)) or path.stat().st_size == 0
    except (OSError, ValueError):
        return False


def _is_dumped(path: Path) -> bool:
    """Whether a YAML file has the form in which `Config.to_yaml` writes; a file that a person wrote rarely has it."""
    try:
        text = path.read_text(encoding="utf-8")
        text = text.partition("\n")[2] if text.startswith(RUN_LINE) else text
        tree = parse_yaml(text)
        dumped = write_yaml(tree)
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and {"model", "connector", "train"} <= tree.keys() and dumped == text


def require_one_run(payload: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint beside logs or a split of another run, so that they are not read as one.

    Files of earlier versions have no id, and are not compared.

    Args:
        payload: the content of the checkpoint.
        path: its path.

    Raises:
        ValueError: the id of a file differs from the checkpoint's, or a log has lines of several runs.
    """
    own, folder = payload.get("run"), path.parent
    runs = {name: log.runs(folder) for name, log in _LOGS.items() if (folder / name).is_file()}
    runs[SPLIT] = {run for run in [run_of_split(folder / SPLIT)] if run}
    for name, found in runs.items():
        other = sorted(found - {own}) if own else sorted(found)[1:]
        if other:
            raise ValueError(
                f"{folder / name} is of run {other[0]}, {path.name} beside it of {own or sorted(found)[0]}: they do "
                "not belong together; put the checkpoint into a folder of its own"
            )
