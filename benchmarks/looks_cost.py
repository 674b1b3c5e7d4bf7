"""What checks, looks and the final score of `eyechart.attach` cost in a training of 1,000 steps.

    python benchmarks/looks_cost.py                    LLaVA, the smallest model of `make bench-threads`
    python benchmarks/looks_cost.py --model qwen2_5_vl --steps 1000 --batch 4

One run of transformers' Trainer on the CPU with the defaults of `attach`. Every call of the callback is timed; the rest
of `trainer.train()` is the training. Shares are of the training, in processor time of one process.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

import eyechart
from thread_stack import job_of

_EVENTS = {
    "on_train_begin": "checks of the first batch, and preparation of the looks",
    "arrived": "comparison in the first step",
    "on_step_end": "looks",
    "on_train_end": "final score and page",
}


class Timed(eyechart.Callback):
    """The callback, with the processor time of each of its events."""

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self.spent: Counter[str] = Counter()

    def _timed(self, event: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return call(*given, **named)
        finally:
            self.spent[event] += time.process_time() - began

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        """Time the checks."""
        self._timed("on_train_begin", super().on_train_begin, *given, **named)

    def on_step_end(self, *given: Any, **named: Any) -> None:
        """Time a look."""
        self._timed("on_step_end", super().on_step_end, *given, **named)

    def on_train_end(self, *given: Any, **named: Any) -> None:
        """Time the final score."""
        self._timed("on_train_end", super().on_train_end, *given, **named)

    def _arrived(self, *given: Any) -> None:
        self._timed("arrived", super()._arrived, *given)


def measure(family: str, steps: int, batch: int, folder: Path) -> tuple[float, Timed]:
    """Train once; return the processor seconds of `train()` and the callback with its times."""
    job = job_of("Trainer", family, 0, folder)
    args = transformers.TrainingArguments(
        output_dir=str(job.output),
        max_steps=steps,
        per_device_train_batch_size=batch,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        logging_steps=100,
        disable_tqdm=True,
        learning_rate=1e-3,
        remove_unused_columns=False,
    )
    trainer = transformers.Trainer(
        model=job.model,
        args=args,
        train_dataset=job.rows,
        data_collator=job.collate,
        processing_class=job.made.processor,
    )
    callback = Timed()
    trainer.add_callback(callback.of(trainer))
    began = time.process_time()
    trainer.train()
    return time.process_time() - began, callback


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llava", help="a family of tests/tiny_architectures.py")
    parser.add_argument("--steps", type=int, default=1000, help="updates of the training")
    parser.add_argument("--batch", type=int, default=4, help="rows of a batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        whole, callback = measure(options.model, options.steps, options.batch, Path(folder))
    training = whole - sum(callback.spent.values())
    print(
        f"{options.model}: {options.steps} steps of {options.batch} rows: {training:.1f} s, {len(callback.looks)} looks"
    )
    for event, name in _EVENTS.items():
        print(f"  {name}: {callback.spent[event]:.2f} s, {callback.spent[event] / training:.2%} of the training")
    looks = callback.spent["on_step_end"]
    print(f"looks: {looks / training:.2%} (aim: under 2%); one look: {looks / max(len(callback.looks), 1):.2f} s")


if __name__ == "__main__":
    main()
