"""Resumes or restarts a run: inspects `output_dir`, rejects checkpoints that do not match, and deletes old files."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from eyechart.exits import NamedInputError
from eyechart.files import remove
from eyechart.manifest import new_id
from eyechart.reporting.results_folder import RESULTS_FILE
from eyechart.run_folder import RunFolder
from eyechart.settings import flatten
from qwen3_vlm.config import Config
from qwen3_vlm.train.checkpoint import (
    PARTS,
    Payload,
    config_tree,
    connector_state,
    find_checkpoints,
    load_checkpoint,
    restore_connector,
)
from qwen3_vlm.train.evidence.record import compare, evidence_of, refuse_backbones_of
from qwen3_vlm.train.findings_log import FINDINGS_NAME, forget_findings
from qwen3_vlm.train.looks import LOOKS_NAME, forget_looks
from qwen3_vlm.train.run import Run
from qwen3_vlm.train.run_files import adopt_tracker, require_one_run
from qwen3_vlm.train.schedule import learning_rate
from qwen3_vlm.train.train_utils import LOG_NAME, EpochProgress, forget_records

_NEEDED = ("config", "optimizer", "rng", "progress", "step", "updates")
# Settings for the location and speed of a run and for the checkpoints it keeps. None of them affects the weights.
_FREE = {
    "output_dir",
    "threads",
    "data.workers",
    "data.cache_gb",
    "train.save_every",
    "train.keep_last",
    "train.keep_every",
    "train.tracker",
    "train.ablate_every",
    "train.canary",
}


@dataclass(frozen=True)
class Resumption:
    """The checkpoint to resume from."""

    path: Path
    payload: Payload


def find_resumption(config: Config, resume: bool, overwrite: bool) -> Resumption | None:
    """Inspect `output_dir` without changing it.

    Returns:
        The newest checkpoint if `resume` is set and there is one; None if the run starts from the beginning.

    Raises:
        ValueError: a run exists and neither `resume` nor `overwrite` is set; both are set; or the checkpoint cannot
            be read or belongs to another config.
    """
    folder = Path(config.output_dir)
    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite deletes it: use only one of them")
    existing = find_checkpoints(folder)
    if overwrite:
        return None
    if not existing:
        if not resume and (folder / RESULTS_FILE).exists():
            raise ValueError(
                f"output_dir {folder} already holds {RESULTS_FILE}, but no checkpoint; delete the earlier run with "
                "--overwrite, or choose another --output_dir"
            )
        return None
    newest = existing[-1]
    if not resume:
        raise ValueError(
            f"output_dir {folder} contains {newest.name}; continue with --resume, start again with --overwrite, "
            "or "
            "choose another --output_dir"
        )
    payload = load_checkpoint(newest)
    require_one_run(payload, newest)
    _refuse_other_config(config, payload, newest)
    return Resumption(newest, payload)


def restore(run: Run, resumption: Resumption) -> None:
    """Restore a run to the state of its checkpoint.

    Raises:
        ValueError: the checkpoint has other backbones or another shape, or contains values that are not finite.
    """
    payload, path = resumption.payload, resumption.path
    evidence_of(payload, path)
    refuse_backbones_of(payload, run.config, run.prepared.inputs, run.vlm, path)
    restore_connector(run.vlm.connector, payload, path)
    try:
        run.optimizer.load_state_dict(payload["optimizer"])
        torch.set_rng_state(payload["rng"])
        run.progress = EpochProgress.from_plain(payload["progress"])
        run.step, run.updates = int(payload["step"]), int(payload["updates"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        what = f"{path}: optimizer or progress cannot be restored ({first})"
        raise ValueError(f"{what}; use an older checkpoint") from error


def verify(run: Run, resumption: Resumption) -> None:
    """Check after `restore` that the state of this run is bitwise equal to that of the checkpoint.

    Raises:
        NamedInputError: weights, optimizer, random generators, counts or data differ from those of the checkpoint.
    """
    payload, windows = resumption.payload, run.plan(0)
    batches, epoch, done = sum(map(len, windows)), run.progress.epoch, run.progress.batches
    inside = list(itertools.accumulate((len(window) for window in windows), initial=0))
    counted = (epoch * batches + done, epoch * len(windows) + inside.index(done) if done in inside else -1)
    states = [run.optimizer.state.get(p, {}) for p in run.vlm.connector.parameters()]
    steps = {int(state["step"]) for state in states if "step" in state}
    now, then = run.data_identity(), payload.get("data", {})
    averages, saved = run.optimizer.state_dict()["state"], payload["optimizer"]["state"]
    fresh = any("exp_avg" not in state for state in states)
    rate = payload["optimizer"]["param_groups"][0]["lr"]
    total = run.config.train.epochs * len(windows)
    scheduled = learning_rate(run.updates - 1, total, run.config.train) if run.updates else rate
    wrong = {
        "the connector's weights": not _same(connector_state(run.vlm.connector), {k: payload.get(k) for k in PARTS}),
        "the optimizer's running averages": not _same(averages, saved) or fresh != (run.updates == 0),
        "the optimizer's step count": len(steps) > 1 or any(step > run.updates for step in steps),
        "the learning rate's schedule": not math.isclose(scheduled, rate, rel_tol=1e-6),
        "the random number generator": not torch.equal(torch.get_rng_state(), payload["rng"]),
        "the count of steps and updates": counted != (run.step, run.updates)
        or (run.step, run.updates) != (payload["step"], payload["updates"]),
        **{f"the data ({name})": now[name] != value for name, value in then.items()},
    }
    found = compare(payload, run.config, run.prepared.inputs, run.vlm, resumption.path, run.prepared)
    wrong |= {f.message: True for f in found if f.severity == "error"}
    differ = [name for name, is_wrong in wrong.items() if is_wrong]
    if differ:
        raise NamedInputError(
            "resume-drift",
            f"{resumption.path}: resuming would not reproduce the interrupted run: {', '.join(differ)} "
            f"{'is' if len(differ) == 1 else 'are'} different from the checkpoint",
            "restore the original data files, use an older checkpoint, or start again with --overwrite",
        )


def _same(now: object, then: object) -> bool:
    """Whether two states are bitwise equal on any device. A part that is missing from both counts as equal."""
    if isinstance(then, torch.Tensor):
        return isinstance(now, torch.Tensor) and torch.equal(now.detach().cpu(), then.cpu().to(now.dtype))
    if isinstance(then, dict):
        keys = {key for key, value in then.items() if value is not None}
        return isinstance(now, dict) and set(now) == keys and all(_same(now[key], then[key]) for key in keys)
    return bool(now == then)


def claim_folder(opened: RunFolder, resumption: Resumption | None, overwrite: bool) -> str:
    """Delete the files of an earlier run that is overwritten, or the log of what will be done again, and return the id.

    Args:
        opened: the folder, whose files all belong to runs (`RunFolder.require_ours`).
        resumption: the checkpoint to resume from. A checkpoint of an earlier version has no id and gets one here.
        overwrite: whether to delete the files of an earlier run.

    Returns:
        The id of the run.
    """
    if resumption is not None:
        step = resumption.payload["step"]
        for forget in (forget_records, forget_looks, forget_findings):
            forget(opened.folder, step)
        run = resumption.payload.get("run") or opened.run or new_id()
    else:
        if overwrite:
            adopt_tracker(opened)
            opened.delete_all()
        # If there are logs but no checkpoint, a run was killed before its first save.
        for name in (LOG_NAME, LOOKS_NAME, FINDINGS_NAME):
            remove(opened.folder / name)
        run = new_id()
    opened.start(run)
    return run


def _refuse_other_config(config: Config, payload: Payload, path: Path) -> None:
    """Reject a checkpoint whose config differs in a setting that affects the weights."""
    if "optimizer" not in payload:
        raise ValueError(f"{path}: contains only a connector (the older format); it can be scored but not resumed")
    missing = [key for key in _NEEDED if key not in payload]
    if missing:
        what = f"{path}: expected {', '.join(_NEEDED)}, it lacks {', '.join(missing)}"
        raise ValueError(f"{what}; use an older checkpoint")
    # A setting that did not exist in the checkpoint's version has the effect of its current default.
    old = flatten(Config().model_dump(mode="json")) | flatten(config_tree(payload, path))
    new = flatten(config.model_dump(mode="json"))
    differ = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and k not in _FREE]
    if differ:
        shown = "; ".join(f"{k}: {old.get(k)!r} then, {new.get(k)!r} now" for k in differ[:6])
        raise ValueError(
            f"{path}: cannot resume with another config ({shown}); restore these settings, or use --overwrite"
        )
