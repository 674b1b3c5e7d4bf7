"""The training loop over epochs. It can be interrupted and resumed between any two updates."""

from __future__ import annotations

import importlib.metadata
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache, partial

import torch
from torch.utils.data import DataLoader

from eyechart.data.dataset import count_rejects, judge_rejects, too_many_rejected
from eyechart.exits import NonFiniteError
from eyechart.printing import out
from eyechart.progress import duration, progress_bar, say
from eyechart.reporting.looks import look_line
from eyechart.scoring.batching import collate
from eyechart.seam import Batch, Reject
from qwen3_vlm.build import backbone_identities
from qwen3_vlm.train.checkpoint import Payload, connector_state, prune_checkpoints, save_checkpoint
from qwen3_vlm.train.evidence.record import KEY, make_evidence
from qwen3_vlm.train.guards import memory_explained
from qwen3_vlm.train.judging import note_non_finite, watch_epoch, watch_look, watch_update
from qwen3_vlm.train.looks import append_look
from qwen3_vlm.train.run import Run
from qwen3_vlm.train.schedule import Window, learning_rate, micro_batches
from qwen3_vlm.train.train_utils import LOG_NAME, EpochProgress, EpochRecord, append_record
from qwen3_vlm.train.update import UpdateResult, evaluate, sum_over_ranks, update

_TIMED_UPDATES = 20
"""Number of updates after which a run estimates its total time."""
_NAMED = 3
"""Number of unreadable rows that are named individually; the others are only counted."""


def run_epoch(run: Run) -> None:
    """Train for the rest of the current epoch, log the epoch, and save a checkpoint.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite.
        FaultsFoundError: a parameter that should change does not change, or a frozen one changes.
        KeyboardInterrupt: Ctrl-C was pressed; the state after the last update is saved.
    """
    settings, progress = run.config.train, run.progress
    windows = run.plan(progress.epoch)
    total_updates = settings.epochs * len(windows)
    todo = windows[_windows_of(windows, progress.batches) :]
    with progress_bar(
        len(run.train_set),
        f"epoch {progress.epoch + 1}/{settings.epochs}",
        "sample",
        initial=progress.stats.samples + progress.rejected.total(),
        hidden=not run.accelerator.is_main_process,
    ) as bar:
        began = time.monotonic()
        for window, batches in zip(todo, _read(run, todo), strict=True):
            rate = learning_rate(run.updates, total_updates, settings)
            for group in run.optimizer.param_groups:
                group["lr"] = rate
            with memory_explained(run.sizes, "training"):
                result = _update(run, batches, run.step + len(window))
            save_due = _advance(run, len(window), result)
            watch_update(run, result.grad_norm, rate)
            progress.seconds += time.monotonic() - began
            _look(run, run.step - len(window))
            began = time.monotonic()
            if run.updates == _TIMED_UPDATES and run.accelerator.is_main_process:
                each = progress.seconds / _windows_of(windows, progress.batches)
                say(f"time: about {duration(each * total_updates)} of training in total, by the updates so far")
            bar.update(result.stats.samples + len(result.rejects))
            loss = result.nll / max(1, result.tokens)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            run.accelerator.log({"loss": loss, "learning_rate": rate, "grad_norm": result.grad_norm}, step=run.step)
            name_unread(run, result.rejects)
            stop = _stop_asked(run)
            if (save_due or stop) and window is not windows[-1]:
                save(run)
                _stop_if(stop, run)
    held_out_rejects = _close_epoch(run, rate, result.grad_norm)
    save(run)
    watch_epoch(run)
    judge_held_out(run, held_out_rejects)
    if run.progress.epoch < settings.epochs:
        _stop_if(_stop_asked(run), run)


def _update(run: Run, batches: list[Batch], step: int) -> UpdateResult:
    try:
        return update(run.vlm, run.optimizer, batches, run.accelerator, run.config.train.clip, step=step)
    except NonFiniteError as error:
        note_non_finite(run, error, step)
        raise


def first_updates(run: Run, count: int) -> list[float]:
    """Run the first `count` updates and return the seconds that each took, including reading the images.

    Nothing is saved or logged.
    """
    windows = run.plan(0)[:count]
    seconds, began = [], time.monotonic()
    for window, batches in zip(windows, _read(run, windows), strict=True):
        with memory_explained(run.sizes, "training"):
            update(run.vlm, run.optimizer, batches, run.accelerator, run.config.train.clip, step=len(window))
        seconds.append(time.monotonic() - began)
        began = time.monotonic()
    return seconds


def name_unread(run: Run, rejects: Iterable[Reject]) -> None:
    """Name the first training rows that could not be read, count all of them, and stop if there are too many.

    Raises:
        ValueError: the share of unusable training rows is above `data.max_rejected`.
    """
    for reject in rejects:
        if reject.row not in run.unread and len(run.unread) < _NAMED and run.accelerator.is_main_process:
            more = f"; more are only counted, see {LOG_NAME}" if len(run.unread) == _NAMED - 1 else ""
            say(f"row {reject.row} is left out: {reject.reason} ({reject.detail}){more}")
        run.unread[reject.row] = reject
    unusable = [*run.prepared.rejects["train"], *run.unread.values()]
    too_many_rejected(unusable, len(run.prepared.split.train), run.config.data.max_rejected)


def judge_held_out(run: Run, rejects: Iterable[Reject]) -> None:
    """Stop if too many held-out rows could not be read.

    Raises:
        ValueError: the share of unusable held-out rows is above `data.max_rejected`.
    """
    unusable = [*run.prepared.rejects["eval"], *rejects]
    judge_rejects(unusable, len(run.prepared.split.eval), run.config.data.max_rejected, "held-out")


def _advance(run: Run, batches: int, result: UpdateResult) -> bool:
    """Count an update, and return whether a checkpoint was due at one of its steps."""
    before, run.step, run.updates = run.step, run.step + batches, run.updates + 1
    run.progress.batches += batches
    run.progress.nll += result.nll
    run.progress.stats = run.progress.stats + result.stats
    run.progress.rejected.update(reject.reason for reject in result.rejects)
    every = run.config.train.save_every
    return every is not None and run.step // every > before // every


def _look(run: Run, before: int) -> None:
    """Take a look if one is due. This happens before the step is saved, so that a checkpoint never lacks its look."""
    if run.looking is None or not run.looking.due(before, run.step):
        return
    with memory_explained(run.sizes, "evaluating"):
        look = run.looking.look(run.vlm, run.step)
    if look is None:
        say(f"look at step {run.step}: a held-out loss is not finite, so this look is skipped")
        return
    append_look(run.folder, look)
    figures = {"correct": look.correct, "gap_shuffled": look.gap_shuffled, "gap_zero": look.gap_zero}
    run.accelerator.log({f"look_{name}": value for name, value in figures.items()}, step=run.step)
    say(look_line(look))
    watch_look(run)


def _stop_asked(run: Run) -> bool:
    """Whether any rank was asked to stop.

    All ranks must stop at the same update, because a rank that continued would wait forever for the others.
    """
    return sum_over_ranks(run.accelerator, [float(run.interrupt.asked)])[0] > 0


def _stop_if(stop: bool, run: Run) -> None:
    if stop:
        raise KeyboardInterrupt(f"saved {run.checkpoint}; continue with the same command and --resume")


def _windows_of(windows: list[Window], batches: int) -> int:
    """Return how many whole windows `batches` batches fill. Checkpoints are saved only at the end of a window."""
    count, seen = 0, 0
    while seen < batches:
        seen += len(windows[count])
        count += 1
    assert seen == batches, "a checkpoint inside an accumulation window"
    return count


def _read(run: Run, windows: list[Window]) -> Iterator[list[Batch]]:
    """Yield this rank's micro-batches for each window; `data.workers` processes read ahead."""
    settings, accelerator = run.config.train, run.accelerator
    size = settings.micro_batch_size or settings.batch_size
    lengths = run.train_set.lengths
    plans = [micro_batches(w, lengths, size, accelerator.process_index, accelerator.num_processes) for w in windows]
    loader: DataLoader[Batch] = DataLoader(
        run.train_set,  # type: ignore[arg-type]  # map-style, but not a subclass of torch's Dataset
        batch_sampler=[positions for plan in plans for positions in plan],
        collate_fn=partial(collate, pad_id=run.prepared.inputs.pad_id),
        num_workers=run.config.data.workers,
        # A separate generator: creating the iterator would otherwise draw from the global one, and a resumed run would
        # differ.
        generator=torch.Generator().manual_seed(run.config.seed),
    )
    stream = iter(loader)
    for plan in plans:
        yield [next(stream) for _ in plan]


def _close_epoch(run: Run, last_lr: float, grad_norm: float) -> tuple[Reject, ...]:
    """Evaluate, write the record, print the line, and go to the next epoch.

    Returns:
        The held-out rows that could not be read.
    """
    config, progress, stats = run.config, run.progress, run.progress.stats
    with memory_explained(run.sizes, "evaluating"):
        held_out = evaluate(
            run.vlm,
            run.eval_set,
            run.prepared.inputs.pad_id,
            config.ablation.batch_size,
            run.accelerator,
            frozenset(run.prepared.split.eval[: config.ablation.num_samples]),
        )
    before = Counter(count_rejects(run.prepared.rejects["train"]))
    record = EpochRecord(
        epoch=progress.epoch + 1,
        step=run.step,
        updates=run.updates,
        train_loss=progress.nll / max(1, stats.label_tokens),
        eval_loss=held_out.loss,
        samples=stats.samples,
        truncated=stats.truncated,
        zero_label=stats.zero_label,
        label_tokens=stats.label_tokens,
        truncated_pct=stats.truncated_pct,
        zero_label_pct=stats.zero_label_pct,
        avg_label_tokens=stats.avg_label_tokens,
        learning_rate=last_lr,
        grad_norm=grad_norm,
        seconds=progress.seconds,
        samples_per_second=stats.samples / max(1e-9, progress.seconds),
        peak_memory_gb=peak_memory_gb(),
        lengths=dict(sorted(stats.lengths.items())),
        rejected=dict(before + progress.rejected),
        eval_rejected=count_rejects(run.prepared.rejects["eval"], held_out.rejects),
        eval_part=held_out.part,
    )
    if run.accelerator.is_main_process:
        append_record(run.folder, record)
        losses = {"epoch_train_loss": record.train_loss, "epoch_eval_loss": record.eval_loss}
        run.accelerator.log({name: loss for name, loss in losses.items() if loss is not None}, step=run.step)
        out(record.line(config.train.epochs))
        sys.stdout.flush()
    run.progress = EpochProgress(epoch=progress.epoch + 1)
    return held_out.rejects


def save(run: Run) -> None:
    """Write checkpoint_<step>.pt. Only the main process writes the file, and all processes wait for it."""
    if run.accelerator.is_main_process:
        parts = connector_state(run.vlm.connector)
        with memory_explained(run.sizes, "evaluating"):
            evidence = make_evidence(run.config, run.prepared, run.vlm, parts, run.canary)
        payload: Payload = {
            **parts,
            "step": run.step,
            "updates": run.updates,
            "progress": run.progress.to_plain(),
            "optimizer": run.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "config": run.config.to_yaml(),
            "config_hash": run.config.fingerprint(),
            "backbones": backbone_identities(run.config.model, run.vlm),
            "data": run.data_identity(),
            "versions": _versions(),
            "run": run.id,
            KEY: evidence,
        }
        save_checkpoint(run.checkpoint, payload)
        prune_checkpoints(run.folder, run.config.train.keep_last, run.config.train.keep_every)
    run.accelerator.wait_for_everyone()


@cache
def _versions() -> dict[str, str]:
    # Cached: looking one up reads its metadata from disk, which takes longer than writing a small checkpoint.
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")}


def peak_memory_gb() -> float:
    """Return the peak memory in GB: allocated memory on a GPU, otherwise resident memory of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
