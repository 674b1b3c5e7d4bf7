"""What one training of `threads.py` showed, and the callbacks that note it; used beside every stack."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import transformers

import eyechart
from eyechart.results import Finding

_LAST = 5
"""Number of steps at the end whose mean is shown as the last loss, accuracy or gradient norm."""
_ACCURACY = ("mean_token_accuracy", "token_acc")
"""Token accuracy in the logs of TRL and of ms-swift."""


@dataclass
class Outcome:
    """What one training showed, and what was found."""

    loss: float | None = None
    accuracy: float | None = None
    """Token accuracy as the stack logs it."""
    gradient: float | None = None
    error: str = ""
    """The exception that ended the training."""
    findings: list[tuple[str, str]] = field(default_factory=list)
    """(code, severity), the first one first."""
    stops: bool = False
    """Whether a finding stops a training by default."""
    step: int | None = None
    """Number of updates before the first finding; None without findings."""
    seconds: float | None = None
    """From the beginning of the training to the first finding, in seconds of processor time."""
    checks: float = 0.0
    """Processor time of the checks before and in the first step, in seconds."""
    one_step: float = 0.0
    """Median processor time of a step, in seconds."""
    broken: bool = False
    """Whether the benchmark itself failed."""

    def note(self, findings: Iterable[Finding], stops: bool = False) -> None:
        """Keep findings, each code once."""
        self.findings = list(dict.fromkeys((one.code, one.severity) for one in findings))
        self.stops = stops

    def show(self, logs: Sequence[dict[str, Any]]) -> None:
        """Keep what the trainer logged in its last steps."""
        self.loss = last_mean(log["loss"] for log in logs if "loss" in log)
        self.gradient = last_mean(log["grad_norm"] for log in logs if "grad_norm" in log)
        self.accuracy = last_mean(log[name] for log in logs for name in _ACCURACY if name in log)


class Checked(eyechart.Callback):
    """The callback, which notes what it would stop and lets the training go on, so that both can be shown."""

    stops = False

    def _stops(self, found: Finding) -> bool:
        self.stops |= super()._stops(found)
        return False


class Clock(transformers.TrainerCallback):
    """Processor times of the events of a training, at one place among its callbacks."""

    def __init__(self, checked: Checked | None = None) -> None:
        """Keep the callback whose findings are counted when the training begins."""
        self.begin = 0.0
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.logs: Sequence[dict[str, Any]] = ()
        self.checked, self.found = checked, 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.begin = time.process_time()
        self.found = len(self.checked.findings) if self.checked else 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.begins.append(time.process_time())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.process_time())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the logs."""
        self.logs = list(state.log_history)


@dataclass
class Timed:
    """A callback of the checks between two clocks, in the order in which a trainer has to call them."""

    checked: Checked | None
    before: Clock
    after: Clock

    @classmethod
    def of(cls, checked: Checked | None) -> Timed:
        """Put clocks around the checks."""
        return cls(checked, Clock(), Clock(checked))

    def outcome(self) -> Outcome:
        """What the training showed until now."""
        outcome, before, after = Outcome(), self.before, self.after
        outcome.show(after.logs)
        steps = [end - begin for begin, end in zip(before.begins, before.ends, strict=False)]
        outcome.one_step = median(steps[1:] or [0])
        if self.checked is not None:
            outcome.note(self.checked.findings, self.checked.stops)
            first = before.ends[0] if before.ends else time.process_time()
            first_step = steps[0] if steps else outcome.one_step
            outcome.checks = (after.begin or first) - before.begin + max(0.0, first_step - outcome.one_step)
            if outcome.findings:
                outcome.step, outcome.seconds = 0, (after.begin if after.found else first) - before.begin
        return outcome


def last_mean(values: Iterable[float]) -> float | None:
    """Mean of the last steps; None without values."""
    last = list(values)[-_LAST:]
    return fmean(last) if last else None


def said(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
