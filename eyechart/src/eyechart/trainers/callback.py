"""A callback for transformers' Trainer and the trainers built on it (TRL, LLaMA-Factory, ms-swift, axolotl, unsloth).

    trainer = Trainer(..., callbacks=[eyechart.Callback()])  # if only callbacks can be passed
    eyechart.attach(trainer)                                 # with the trainer object: also logs to its trackers

What it does:

1. Before the first step, a few rows are read from the training data set, collated by the trainer's collator, and
   checked (`check_batch`, `check_model`). In the first step, the batch that reaches the model is compared with what the
   collator made. Rows of an iterable data set cannot be read by index, so its first batch is checked within the first
   step.
2. A fault that keeps the images from the model, or leaves no label to learn from, stops the training with
   `FaultsFoundError` before any update.
3. At a few steps, evenly spaced on a logarithmic scale, a look measures the loss of a few rows with their own picture
   and with another one.
4. At the end, more rows are scored, and the results and an HTML page are written.

Every rank does the same work on the same rows, so ranks stay synchronised without communication. Only the first rank
prints and writes files. A look or a score that fails is reported in one line and does not end the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from transformers import Trainer, TrainerCallback

from eyechart.api.check_batch import check_batch
from eyechart.api.check_model import check_model
from eyechart.api.score import score
from eyechart.exits import FaultsFoundError
from eyechart.faults.arrivals import dropped_images
from eyechart.faults.served import Served, pictures_in, served_of, wrongly_served
from eyechart.faults.table import blinds, rank
from eyechart.models.unchanged import unchanged
from eyechart.models.wrappers import unwrapped
from eyechart.progress import say
from eyechart.reporting.looks import look_line
from eyechart.reporting.output import write_results
from eyechart.reporting.training import failure_line, first_batch_lines, plan_line, stop_line, tracker_figures
from eyechart.results import Finding, Look, Results
from eyechart.trainers.data import Indexed, Source, given, indexed
from eyechart.trainers.firststep import FirstForward, image_inputs, kept
from eyechart.trainers.looking import Looking, look_steps

T = TypeVar("T")

_FEWEST, _MOST = 4, 8
"""Smallest and largest number of rows checked before the first step; between them, it is the trainer's batch size."""
_COMPARED = 16
"""Number of rows whose pictures are compared with the pixels that the collator makes from them."""


@dataclass(frozen=True)
class Watching:
    """How a training is watched."""

    looks: Literal["log", "off"] | int = "log"
    """When to look. `log`: 2 to 7 looks, one per 1,000 trained rows, at the first step and then each at twice the step
    of the one before, up to the last step. A number: the interval in steps. `off`: never."""
    samples: int = 16
    """Number of rows per look."""
    score: int = 100
    """Number of rows that are scored at the end; 0 for no score."""
    stop: Literal["blind", "error", "never"] = "blind"
    """What stops the training before its first update: with `blind`, only faults that keep the pictures or all labels
    from the loss; with `error`, every error; with `never`, nothing."""
    seed: int = 0
    """Seed for drawing rows and wrong pictures. The global random generators are not used."""


class Callback(TrainerCallback):  # type: ignore[misc]  # transformers types it as Any
    """Checks, looks and a final score during a training run.

    After `trainer.train()`, its attributes are `findings` (of the first batch), `looks` and `results` (of the final
    score).
    """

    def __init__(
        self,
        rows: Any = None,
        processor: Any = None,
        watching: Watching | None = None,
        folder: str | Path | None = None,
    ) -> None:
        """Store the arguments; no data is read before the training begins.

        Args:
            rows: held-out rows in the form that the trainer's collator takes (a data set or a list). By default the
                trainer's evaluation data set if the trainer is known (`attach`), otherwise rows of the training data.
            processor: the model's processor; by default the trainer's `processing_class`.
            watching: how to watch; the defaults are those of `Watching`.
            folder: folder of the final score's files; by default `eyechart` in the trainer's output folder.

        Raises:
            ValueError: a trainer was passed instead of a processor, as ms-swift does with what is registered.
        """
        if isinstance(processor, Trainer):
            raise ValueError(
                "Callback: expected a processor, got a trainer. In ms-swift, register "
                'callbacks_map["eyechart"] = lambda args, trainer: eyechart.Callback().of(trainer)'
            )
        self.watching = watching or Watching()
        self.findings: list[Finding] = []
        self.looks: list[Look] = []
        self.results: Results | None = None
        self._rows, self._processor, self._folder = rows, processor, None if folder is None else Path(folder)
        self._trainer: Any = None
        self._model: Any = None
        self._held: Indexed | None = None
        self._looking: Looking | None = None
        self._steps: list[int] = []
        self._first: FirstForward | None = None
        self._batch_rows = 0
        self._speaks = True

    def of(self, trainer: Any) -> Callback:
        """Give the callback access to the trainer's trackers and evaluation data; `attach` calls this."""
        self._trainer = trainer
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **handed: Any) -> None:
        """Check the first rows, prepare the looks, and register the hook for the first step.

        Raises:
            FaultsFoundError: a finding stops the training.
        """
        self._speaks = bool(state.is_world_process_zero)
        self._model, loader = unwrapped(handed["model"]), handed.get("train_dataloader")
        self._processor = self._processor or handed.get("processing_class")
        rows = int(state.max_steps) * int(args.train_batch_size) * args.gradient_accumulation_steps * args.world_size
        self._steps = look_steps(self.watching.looks, int(state.max_steps), rows)
        size = max(2, int(args.per_device_train_batch_size))
        training, collated = indexed(loader, "training"), None
        with unchanged(self._model):
            if training is not None:
                collated = self._collated(training, min(max(size, _FEWEST), _MOST))
            if training is not None and collated is not None:
                served = self._tried("comparison with the pictures of the rows", partial(self._served, training, size))
                self._check(collated, handed.get("optimizer"), [served] if served else [])
            self._held = self._held_out(loader) or (None if collated is None else training)
            if self._steps and self._held is not None:
                drawn = partial(self._held.batches, self.watching.samples, size, self.watching.seed)
                self._prepare(self._tried("looks", drawn) or [], self._held.source)
        if training is None:
            self._say(["eyechart: the training data cannot be read by index, so its first batch is checked instead"])
        self._first = FirstForward(self._model, lambda batch: self._arrived(batch, collated))

    def on_step_end(self, args: Any, state: Any, control: Any, **handed: Any) -> None:
        """Run a look if one is planned for this step."""
        if self._looking is not None and int(state.global_step) in self._steps:
            step, logged = int(state.global_step), control.should_log
            with unchanged(self._model):
                look = self._tried("look", lambda: self._looking.look(step) if self._looking else None)
            if look is None:
                self._looking = None
                return
            self.looks.append(look)
            self._say([f"eyechart: {look_line(look)}"])
            self._log(tracker_figures(look))
            control.should_log = logged  # logging the figures must not replace the trainer's own log of this step

    def on_train_end(self, args: Any, state: Any, control: Any, **handed: Any) -> None:
        """Score more rows, and write the page."""
        if self._first is not None:
            self._first.remove()
        if self.watching.score and self._held is not None:
            size = max(2, int(args.per_device_train_batch_size))
            with unchanged(self._model):
                self._tried("final score", lambda: self._score(size, Path(args.output_dir)))

    def _collated(self, training: Indexed, count: int) -> Mapping[str, Any] | None:
        """Collate a few rows; if the trainer's collator fails on them, say why, and return None."""
        seed, config = self.watching.seed, getattr(self._model, "config", None)
        try:
            return training.batches(count, count, seed)[0]
        except Exception as error:  # noqa: BLE001 - collators of others may raise anything
            failed = error
        self._say([failure_line("batch of the first rows", failed)])
        drawn = partial(training.cut, count, seed, self._processor, config, failed)
        cut = self._tried("look at the first rows", drawn)
        if cut is not None:
            self._found([cut])
        return None

    def _served(self, training: Indexed, size: int) -> Finding | None:
        """Collate rows, and compare their pixels with their pictures."""
        indices, seed = training.drawn(_COMPARED, self.watching.seed), self.watching.seed
        rows = [training.rows[index] for index in indices]
        if not any(True for row in rows for _ in pictures_in(row)):
            return None
        found, config = list[Served](), getattr(self._model, "config", None)
        for start, batch in zip(range(0, len(rows), size), training.batches(_COMPARED, size, seed), strict=True):
            some = slice(start, start + size)
            found += served_of(indices[some], rows[some], batch, self._processor, config)
        return wrongly_served(found)

    def _check(self, batch: Mapping[str, Any], optimizer: Any, found: Sequence[Finding] = ()) -> None:
        """Check a batch, print its findings and earlier ones, and raise an error if one stops the training."""
        self._batch_rows = len(batch["input_ids"]) if "input_ids" in batch else 0
        found = [*found, *check_batch(batch, self._processor, self._model).findings]
        if not any(finding.severity == "error" for finding in found):
            check = partial(check_model, self._model, batch, self._processor, optimizer=optimizer)
            found += self._tried("check of the model", check) or []
        self._found(rank(found))

    def _found(self, found: Sequence[Finding]) -> None:
        self.findings += found
        self._say(first_batch_lines(found))
        fatal = [one for one in found if self._stops(one)]
        if fatal:
            raise FaultsFoundError(stop_line(fatal), fatal)

    def _stops(self, found: Finding) -> bool:
        if self.watching.stop == "never" or found.severity != "error":
            return False
        return self.watching.stop == "error" or blinds(found.code) or self._without_answers(found)

    def _without_answers(self, found: Finding) -> bool:
        """Return whether the answers of all rows are cut off completely, so that only the prompt can be learnt."""
        return len(found.evidence.get("without_answer", ())) == self._batch_rows > 0

    def _arrived(self, batch: Mapping[str, Any], collated: Mapping[str, Any] | None) -> None:
        """Compare the first step's inputs with the collated batch; if no batch was collated, check the inputs."""
        with unchanged(self._model):
            if collated is None:
                self._check(batch, None)
                self._prepare([kept(batch)], "training")
                return
            lost = dropped_images(image_inputs(collated), image_inputs(batch), sorted(batch))
            if lost is not None:
                self._found([lost])

    def _held_out(self, loader: Any) -> Indexed | None:
        """Return the rows that were passed or, if the trainer is known, those of its evaluation data set."""
        if self._rows is not None:
            return given(self._rows, loader)
        data = getattr(self._trainer, "eval_dataset", None)
        if data is None:
            return None
        if isinstance(data, dict):
            name, data = next(iter(data.items()))
            self._say([f"eyechart: of {len(self._trainer.eval_dataset)} evaluation data sets, {name} is used"])
        return indexed(self._trainer.get_eval_dataloader(data), "held-out")

    def _prepare(self, batches: Sequence[Mapping[str, Any]], source: Source) -> None:
        """Prepare the looks on these batches, unless the model or the batches cannot be scored."""
        if not batches:
            return
        looks, seed = len(self._steps), self.watching.seed
        self._looking = self._tried("looks", lambda: Looking(self._model, batches, self._processor, looks, seed))
        if self._looking is not None:
            rows = sum(len(batch["input_ids"]) for batch in batches)
            self._say([plan_line(rows, source, self._steps)])

    def _score(self, size: int, output: Path) -> None:
        """Score rows with the standard conditions, and let the first process write results and page."""
        assert self._held is not None
        batches = self._held.batches(self.watching.score, size, self.watching.seed)
        self.results = score(self._model, batches, processor=self._processor)
        if self._speaks:
            write_results(self.results, self._folder or output / "eyechart")

    def _tried(self, what: str, action: Callable[[], T]) -> T | None:
        """Run `action`; report an error in one line, because it must not end the training."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - models and collators of users may raise anything
            self._say([failure_line(what, error)])
            return None

    def _log(self, figures: dict[str, float]) -> None:
        """Send figures to the trackers of a known trainer, without the entries that its class adds to a log."""
        if isinstance(self._trainer, Trainer):
            Trainer.log(self._trainer, dict(figures))

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines if self._speaks else ():
            say(line)
