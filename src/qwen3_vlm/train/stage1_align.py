"""Stage 1 alignment: train the connector between two frozen backbones.

    python -m qwen3_vlm.train.stage1_align --config configs/stage1_align_tiny.yaml --train.epochs 1

Any config field is an override. Ends with `checkpoint_<step>.pt` in `output_dir`, where a step is one batch of
`train.batch_size` samples over all ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
import yaml
from accelerate import Accelerator

from qwen3_vlm.build import Prepared, build_model, prepare_data
from qwen3_vlm.config import Config
from qwen3_vlm.data.splits import save_split
from qwen3_vlm.exits import guarded
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.results import write_atomic
from qwen3_vlm.train.arguments import Train
from qwen3_vlm.train.checkpoint import Payload, checkpoint_path, find_checkpoints, load_checkpoint, restore_connector
from qwen3_vlm.train.features import cache_features, wants_cache
from qwen3_vlm.train.loop import Run, interruptible, run_epoch
from qwen3_vlm.train.train_utils import EpochProgress, SampleSource

_RUN_FILES = ("checkpoint_*.pt", "log.jsonl", "results.json", "runbook.md", "samples.png", "mean_tokens_*.pt")


def train(config: Config, resume: bool = False, overwrite: bool = False) -> Path:
    """Train the connector as `config` says.

    Args:
        config: the run.
        resume: go on from the newest checkpoint in `output_dir`, if there is one.
        overwrite: delete what an earlier run left in `output_dir`.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: bad input, or `output_dir` holds a run and neither `resume` nor `overwrite` is set.
        NonFiniteError: a loss or gradient is NaN or infinite.
        KeyboardInterrupt: Ctrl-C; the update in progress has been finished and saved.
    """
    folder = Path(config.output_dir)
    payload = _claim_folder(config, folder, resume, overwrite)
    accelerator = Accelerator(cpu=config.model.device == "cpu")
    prepared = prepare_data(config, folder / "split.json" if payload else None)
    if not len(prepared.train):
        raise ValueError(f"{config.data.json_file}: no training row is left of {len(prepared.split.train)}")
    vlm = build_model(config, prepared.inputs)
    run = _start(config, prepared, vlm, accelerator, payload)
    if accelerator.is_main_process:
        write_atomic(folder / "config.yaml", config.to_yaml())
        save_split(folder / "split.json", prepared.split, *prepared.files)
        for part in vlm.sizes():
            sys.stdout.write(
                f"{'trained' if part.trained else 'frozen':>8} {part.name}: {part.parameters:,} parameters\n"
            )
    with interruptible(run):
        while run.progress.epoch < config.train.epochs:
            run_epoch(run)
    return checkpoint_path(folder, run.step)


def _claim_folder(config: Config, folder: Path, resume: bool, overwrite: bool) -> Payload | None:
    existing = find_checkpoints(folder)
    if resume and existing:
        payload = load_checkpoint(existing[-1])
        _refuse_other_config(config, payload, existing[-1])
        sys.stdout.write(f"resuming from {existing[-1]}\n")
        return payload
    if existing and not overwrite:
        raise ValueError(
            f"output_dir {folder} already holds {existing[-1].name}; go on with --resume, start again with "
            "--overwrite, or choose another --output_dir"
        )
    if overwrite:
        for pattern in _RUN_FILES:
            for path in folder.glob(pattern):
                path.unlink()
    return None


def _refuse_other_config(config: Config, payload: Payload, path: Path) -> None:
    """A resumed run must be the same run; only where it lies, and how fast it runs, may differ."""
    if "config" not in payload or "optimizer" not in payload:
        raise ValueError(f"{path}: holds a connector only (the older form); it can be scored, not resumed")
    old, new = _flat(yaml.safe_load(payload["config"])), _flat(config.model_dump(mode="json"))
    free = {"output_dir", "threads", "data.workers", "data.cache_gb"}
    differ = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and k not in free]
    if differ:
        shown = "; ".join(f"{k}: {old.get(k)!r} then, {new.get(k)!r} now" for k in differ[:6])
        raise ValueError(f"{path}: cannot resume with another config ({shown}); restore these, or use --overwrite")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _start(config: Config, prepared: Prepared, vlm: VLM, accelerator: Accelerator, payload: Payload | None) -> Run:
    settings = config.train
    optimizer = torch.optim.AdamW(
        vlm.connector.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )
    progress, step, updates = EpochProgress(), 0, 0
    if payload is not None:
        restore_connector(vlm.connector, payload, Path(config.output_dir))
        optimizer.load_state_dict(payload["optimizer"])
        torch.set_rng_state(payload["rng"])
        progress = EpochProgress.from_plain(payload["progress"])
        step, updates = int(payload["step"]), int(payload["updates"])
    train_set: SampleSource = prepared.train
    eval_set: SampleSource = prepared.eval
    if wants_cache(config.data, vlm, len(prepared.train) + len(prepared.eval)):
        train_set = cache_features(vlm, prepared.train, "training")
        eval_set = cache_features(vlm, prepared.eval, "held-out")
    return Run(config, prepared, vlm, optimizer, accelerator, train_set, eval_set, progress, step, updates)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m qwen3_vlm.train.stage1_align`."""
    command, overrides = tyro.cli(
        Train, prog="python -m qwen3_vlm.train.stage1_align", args=arguments, return_unknown_args=True
    )
    return guarded(lambda: command.run(overrides))


if __name__ == "__main__":
    sys.exit(main())
