"""How a set-up of `threads.py` is trained: transformers' Trainer, TRL's SFTTrainer, or a loop with `eyechart.watch`.

A `Job` holds the parts of one short training. Cases change these parts before they run: the collator, the processor,
the rows, arguments, the model, or a function of the stack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import transformers

import eyechart
from batches import Made
from eyechart.exits import InputError
from eyechart.processors.loading import load_processor
from eyechart.results import Finding
from thread_checkpoints import checkpoint
from thread_outcome import Checked, Outcome, Timed, last_mean, said
from thread_rows import items_of, trl_rows

Stack = Literal["Trainer", "TRL", "loop"]
STEPS, ROWS, BATCH = 20, 32, 4


@dataclass
class Job:
    """One training, before it runs."""

    stack: Stack
    folder: Path
    """The checkpoint that the model is loaded from."""
    output: Path
    seed: int
    model: Any
    made: Made
    rows: Any
    """`Item` rows, or rows in TRL's layouts."""
    collate: Callable[[list[Any]], dict[str, Any]] | None = None
    """None uses TRL's own collator."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of TrainingArguments or SFTConfig that differ from `_ARGUMENTS`."""
    kind: type | None = None
    """Subclass of the Trainer."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the trainer, such as `peft_config`."""
    patches: list[AbstractContextManager[Any]] = field(default_factory=list)
    """Replaced functions of the stack, while the trainer is made and runs."""
    check: Literal["attach", "watch", "check_batch"] = "attach"

    def through(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Pass every batch of the collator through a function."""
        inner = self.collate
        assert inner is not None
        self.collate = lambda items: change(inner(items))


def job_of(stack: Stack, family: str, seed: int, root: Path) -> Job:
    """The healthy training of a stack with its own defaults: TRL labels all tokens, the others only answers."""
    folder = checkpoint(root / "models", family, seed)
    made = Made(load_processor(str(folder)), transformers.AutoConfig.from_pretrained(folder))
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    items = items_of(ROWS, seed)
    job = Job(stack, folder, root / "runs", seed, model, made, items)
    if stack == "TRL":
        job.rows = trl_rows(items)
    else:
        job.collate = made.batch
    return job


def run(job: Job, checked: bool = True) -> Outcome:
    """Train, with the checks or without them; an exception is part of the outcome."""
    with ExitStack() as patches:
        for patch in job.patches:
            patches.enter_context(patch)
        return _loop(job, checked) if job.stack == "loop" else _trainer(job, checked)


_ARGUMENTS: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": BATCH,
    "report_to": [],
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "learning_rate": 1e-3,
}


def _trainer(job: Job, checked: bool) -> Outcome:
    timed = Timed.of(Checked(watching=eyechart.Watching(looks="off", score=0)) if checked else None)
    error = ""
    try:
        trainer = _made(job)
        trainer.add_callback(timed.before)
        if timed.checked is not None:
            trainer.add_callback(timed.checked.of(trainer))
        trainer.add_callback(timed.after)
        trainer.train()
    except Exception as raised:  # noqa: BLE001 - what the stack raises is what its user sees
        error = said(raised)
    outcome = timed.outcome()
    outcome.error = error
    return outcome


def _made(job: Job) -> Any:
    arguments = {**_ARGUMENTS, "output_dir": str(job.output), "seed": job.seed, **job.arguments}
    parts = {"model": job.model, "processing_class": job.made.processor, **job.more}
    if job.stack == "TRL":
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        rows = Dataset.from_list(job.rows) if isinstance(job.rows, list) else job.rows
        kind = job.kind or SFTTrainer
        options = {"max_length": None, **arguments}
        return kind(args=SFTConfig(**options), train_dataset=rows, data_collator=job.collate, **parts)
    options = {"remove_unused_columns": False, **arguments}
    args = transformers.TrainingArguments(**options)
    return (job.kind or transformers.Trainer)(args=args, train_dataset=job.rows, data_collator=job.collate, **parts)


def _loop(job: Job, checked: bool) -> Outcome:
    """Train in a loop as people write it, with AdamW and clipped gradients."""
    assert job.collate is not None
    outcome, began = Outcome(), time.process_time()
    torch.manual_seed(job.seed)
    optimizer = torch.optim.AdamW([w for w in job.model.parameters() if w.requires_grad], lr=1e-3)
    watched = eyechart.watch(job.model) if checked and job.check == "watch" else None
    losses, norms, times = [], [], []
    job.model.train()
    try:
        for batch in _batches(job):
            if checked and job.check == "check_batch" and not losses:
                outcome.note(eyechart.check_batch(batch, job.made.processor).findings)
                outcome.checks = time.process_time() - began
            start = time.process_time()
            loss = job.model(**{key: torch.as_tensor(value) for key, value in batch.items()}).loss
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(job.model.parameters(), 1.0)))
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            times.append(time.process_time() - start)
            if watched is not None and len(losses) == 1:
                outcome.note(findings_of(watched))
                outcome.seconds = time.process_time() - began
    except (ValueError, RuntimeError, IndexError, InputError) as error:
        outcome.error = said(error)
    outcome.loss, outcome.gradient = last_mean(losses), last_mean(norms)
    outcome.one_step = median(times[1:] or [0])
    if watched is not None:
        outcome.checks = max(0.0, times[0] - outcome.one_step) if times else 0.0
        watched.remove()
    if outcome.findings:
        outcome.step, outcome.seconds = 0, outcome.seconds or outcome.checks
    return outcome


def _batches(job: Job) -> Iterator[Mapping[str, Any]]:
    assert job.collate is not None
    order = np.random.default_rng(job.seed).permutation(len(job.rows))
    for step in range(STEPS):
        yield job.collate([job.rows[int(order[(step * BATCH + i) % len(order)])] for i in range(BATCH)])


def findings_of(watched: Any) -> list[Finding]:
    """What the lines of `watch` mean: the pixels are not used, or features are not injected."""
    found = []
    for passage in watched.passages:
        if not passage.inputs or not passage.read:
            found.append(_line("pixels-unused", "no images arrive, or nothing reads them"))
        elif passage.output_change == 0:
            found.append(_line("not-injected", f"the logits do not depend on images after {passage.last_module}"))
    return found


def _line(code: str, message: str) -> Finding:
    return Finding(code=code, severity="error", message=message, evidence={}, fix="")
