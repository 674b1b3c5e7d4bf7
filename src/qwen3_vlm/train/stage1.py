"""Stage 1 alignment: train the connector between two frozen backbones.

The result is `checkpoint_<step>.pt` in `output_dir`. A step is one batch of `train.batch_size` samples over all ranks.
"""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from accelerate import Accelerator

from eyechart.files import write_atomic
from eyechart.models.device import choose_device
from eyechart.printing import out
from eyechart.reporting.looks import read_onset
from eyechart.run_folder import RunFolder, writing
from eyechart.scoring.ranks import disconnect, held_by_first, nothing, on_first
from qwen3_vlm.build import build_model, prepare_data
from qwen3_vlm.config import Config
from qwen3_vlm.data.splits import save_split
from qwen3_vlm.train.disk import require_space
from qwen3_vlm.train.estimate import shape_lines, time_line
from qwen3_vlm.train.evidence.canary import prepare_canary
from qwen3_vlm.train.features import cache_features, wants_cache
from qwen3_vlm.train.guards import memory_explained, ranks_watched
from qwen3_vlm.train.judging import look_after, look_before, note, stop_on_errors
from qwen3_vlm.train.looks import look_steps, plan_line, read_looks, start_looking
from qwen3_vlm.train.loop import judge_held_out, name_unread, run_epoch
from qwen3_vlm.train.resuming import Resumption, claim_folder, find_resumption, restore, verify
from qwen3_vlm.train.run import Run, sizes_of
from qwen3_vlm.train.run_files import CONFIG, RUN_FILES, RUN_LINE, SPLIT
from qwen3_vlm.train.tracking import start_accelerator, start_tracker
from qwen3_vlm.train.train_utils import EpochProgress
from qwen3_vlm.train.update import over_ranks, ranks_of
from qwen3_vlm.train.watch import Watch


def train(config: Config, resume: bool = False, overwrite: bool = False, force: bool = False) -> Path:
    """Do the same as `train_run`, disconnect the processes of the job, and return the path of the last checkpoint."""
    run = train_run(config, resume, overwrite, force)
    disconnect()
    return run.checkpoint


def train_run(config: Config, resume: bool = False, overwrite: bool = False, force: bool = False) -> Run:
    """Train the connector as `config` says, after a preflight that looks for faults.

    Args:
        config: the config of the run.
        resume: whether to continue from the newest checkpoint in `output_dir`, if there is one.
        overwrite: whether to delete the files of an earlier run in `output_dir`.
        force: whether to train even if a fault was found; this is recorded with the run.

    Returns:
        The finished run, with its data and model. The processes of the job are still connected.

    Raises:
        ValueError: the input is bad; `output_dir` contains a run and neither `resume` nor `overwrite` is set; another
            process writes to it; or it contains a file of a user that the run would replace or delete.
        FaultsFoundError: the preflight or the watch found an error, and `force` is not set.
        NonFiniteError: a loss or gradient is NaN or infinite.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the update in progress has been finished and saved.
        RankLostError: another process of the job has ended or was killed.
    """
    accelerator = start_accelerator(config.train.tracker, config.model.device, config.output_dir)
    with ranks_watched(accelerator), held_by_first(ranks_of(accelerator), lambda: _open(config)) as opened:
        resumption = find_resumption(config, resume, overwrite)
        if resumption is None:
            on_first(ranks_of(accelerator), opened.require_ours if opened else nothing)
        run = _start(config, accelerator, resumption, overwrite)
        # A resumed run was already checked when it started.
        found = [] if resumption else over_ranks(accelerator, look_before(run))[0]
        stop_on_errors(found, force)
        on_first(ranks_of(accelerator), lambda: _claim_folder(run, opened, resumption, overwrite))
        note(run, found, force)
        run.watch = Watch(run.vlm, config.train.lr, force)
        start_tracker(accelerator, opened, config.model_dump(mode="json"))
        _say(run, shape_lines(run))
        _prepare_looks(run)
        _prepare_canary(run)
        with run.interrupt.watched():
            while run.progress.epoch < config.train.epochs:
                run_epoch(run)
        note(run, look_after(run), force)
        for tracker in accelerator.trackers:
            tracker.finish()
        if run.looking is not None:
            _say(run, [read_onset(read_looks(run.folder))])
    return run


def rehearse(config: Config) -> None:
    """Do a dry run (`--dry-run`): prepare the run, do a few updates, and print what the whole run would need.

    Nothing is written.

    Raises:
        ValueError: for the same reasons as in `train`.
    """
    accelerator = start_accelerator(config.train.tracker, config.model.device, config.output_dir)
    with ranks_watched(accelerator):
        run = _start(config, accelerator, None, overwrite=True)
        _say(run, [*shape_lines(run), time_line(run)])


def _say(run: Run, lines: list[str]) -> None:
    if run.accelerator.is_main_process:
        for line in lines:
            out(line)
        sys.stdout.flush()


def _start(config: Config, accelerator: Accelerator, resumption: Resumption | None, overwrite: bool) -> Run:
    """Prepare everything that is needed before the first update, without changing `output_dir`."""
    choose_device(config.model, config.threads)
    # The first rank goes before the others, because it may have to draw the images of an embedded world.
    with accelerator.main_process_first():
        prepared = prepare_data(config, Path(config.output_dir) / SPLIT if resumption else None)
    if not len(prepared.train):
        raise ValueError(f"{config.data.json_file}: no training row is left of {len(prepared.split.train)}")
    with memory_explained(sizes_of(config), "loading"):
        vlm = build_model(config, prepared.inputs)
    trained = sum(part.parameters for part in vlm.sizes() if part.trained)
    require_space(Path(config.output_dir), config.train, len(prepared.train), trained, overwrite)
    settings = config.train
    optimizer = torch.optim.AdamW(
        vlm.connector.parameters(),
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,  # one kernel instead of twelve per tensor saves a tenth of the time on small connectors
    )
    run = Run(config, prepared, vlm, optimizer, accelerator, prepared.train, prepared.eval, EpochProgress())
    if resumption is not None:
        restore(run, resumption)
        verify(run, resumption)
    else:
        # The global generator is not used at present. It is seeded so that a run depends only on its seed if this
        # changes.
        torch.manual_seed(config.seed)
    if wants_cache(config.data, vlm, len(prepared.train) + len(prepared.eval), run.folder):
        hidden = not accelerator.is_main_process
        with memory_explained(run.sizes, "caching"):
            cached = cache_features(vlm, prepared.train, "training", run.folder, hidden)
            held_out = cache_features(vlm, prepared.eval, "held-out", run.folder, hidden)
        run.train_set, run.eval_set = cached, held_out
        name_unread(run, cached.rejects.values())
        judge_held_out(run, held_out.rejects.values())
    return run


def _prepare_looks(run: Run) -> None:
    """Prepare the looks on the main process alone, because nothing in a look waits for the other processes."""
    if not run.accelerator.is_main_process:
        return
    settings, samples, margin = run.config.train, len(run.train_set), run.config.ablation.margin_shuffled
    total_steps = settings.epochs * math.ceil(samples / settings.batch_size)
    steps = look_steps(settings.ablate_every, total_steps, settings.epochs * samples)
    with memory_explained(run.sizes, "evaluating"):
        run.looking = start_looking(steps, run.vlm, run.eval_set, margin, run.config.seed)
    _say(run, plan_line(run.looking, settings.ablate_every))


def _prepare_canary(run: Run) -> None:
    """Prepare the rows that are scored at each save, on the main process alone, which writes the checkpoints."""
    if run.config.train.canary and run.accelerator.is_main_process:
        with memory_explained(run.sizes, "evaluating"):
            run.canary = prepare_canary(run.prepared, run.eval_set, run.vlm)


def _open(config: Config) -> AbstractContextManager[RunFolder]:
    return writing(Path(config.output_dir), RUN_FILES)


def _claim_folder(run: Run, opened: RunFolder | None, resumption: Resumption | None, overwrite: bool) -> None:
    """Prepare the folder for this run, on the first process.

    Files of an earlier run are deleted only here, after all input has been read.
    """
    assert opened is not None, "the first process holds the folder"
    opened.require_ours()
    run.id = claim_folder(opened, resumption, overwrite)
    write_atomic(run.folder / CONFIG, f"{RUN_LINE}{run.id}\n{run.config.to_yaml()}")
    save_split(run.folder / SPLIT, run.prepared.split, *run.prepared.files, run=run.id)
    if resumption is not None:
        out(f"resuming from {resumption.path}")
    for part in run.vlm.sizes():
        state = "trained" if part.trained else "frozen"
        out(f"{state:>8} {part.name}: {part.parameters:,} parameters")
