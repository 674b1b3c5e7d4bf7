"""`check_batch`: faults that are visible in a batch dict, before any forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eyechart.faults.batch_check import BatchFacts, diagnose_batch, facts_of
from eyechart.faults.batch_evidence import BatchEvidence, Unchecked, gather
from eyechart.files import write_atomic
from eyechart.reporting.batch_page import render_batch
from eyechart.reporting.batch_row import row_text
from eyechart.reporting.batch_text import batch_text
from eyechart.results import Finding


@dataclass(frozen=True)
class BatchCheck:
    """The result of `check_batch`: the findings, figures of the batch, and what could not be checked.

    `print` shows all of it. Iteration and `len` are over the findings.
    """

    findings: list[Finding]
    """Findings, the most likely cause first."""
    facts: BatchFacts
    """The batch in numbers."""
    unchecked: list[Unchecked]
    """What could not be checked, with the reason."""
    _evidence: BatchEvidence = field(repr=False, compare=False)

    @property
    def errors(self) -> list[Finding]:
        """The findings that are errors."""
        return [found for found in self.findings if found.severity == "error"]

    def row(self, row: int = 0) -> str:
        """Return one row as the model sees it, as text: images, prompt, and which tokens have a label.

        Raises:
            InputError: there is no such row.
        """
        return row_text(self._evidence, row)

    def html(self, row: int = 0) -> str:
        """Return a page with the findings and one row: its images, its prompt, and its labels in colours.

        Raises:
            InputError: there is no such row.
        """
        return render_batch(self.findings, self.facts, self.unchecked, self._evidence, row)

    def save(self, path: str | Path, row: int = 0) -> None:
        """Write the page of `html` to a file.

        Raises:
            InputError: there is no such row.
        """
        write_atomic(Path(path), self.html(row))

    def __iter__(self) -> Iterator[Finding]:
        """The findings."""
        return iter(self.findings)

    def __len__(self) -> int:
        """Number of findings."""
        return len(self.findings)

    def __str__(self) -> str:
        """One screen: findings, the batch in numbers, and what could not be checked."""
        return batch_text(self.findings, self.facts, self.unchecked)


def check_batch(batch: Mapping[str, Any], processor: Any = None, model: Any = None) -> BatchCheck:
    """Find the faults that are visible in a batch, without a forward pass and without changing anything.

    Args:
        batch: what a collator returns: a dict or `BatchFeature` with `input_ids`, and pixels, masks and labels as the
            model takes them. Its arrays may be of PyTorch, NumPy or MLX, or lists.
        processor: the model's processor (or tokenizer). With it, answers are found by the chat template, and pixels are
            compared with the processor's own settings.
        model: the model, also wrapped (PEFT, DDP, torch.compile), or its config. With it, ids, positions and keys of
            the batch are compared with what the model expects.

    Returns:
        The findings, and a list of what could not be checked without processor or model. Text-only rows and rows with
        several images are valid.

    Raises:
        InputError: the value is not a batch, or the shapes of its arrays do not match.
    """
    inner = _unwrapped(model)
    evidence = gather(batch, processor, _config_of(inner), _accepted(inner))
    findings = diagnose_batch(evidence)
    return BatchCheck(findings, facts_of(evidence), list(evidence.unchecked), evidence)


def _unwrapped(model: Any) -> Any:
    """Return the model inside DDP (`module`), torch.compile (`_orig_mod`) and PEFT (`get_base_model`)."""
    for _ in range(8):  # more than any model has wrappers
        if hasattr(model, "get_base_model"):
            inner = model.get_base_model()
        else:
            inner = getattr(model, "_orig_mod", None) or (
                getattr(model, "module", None) if not hasattr(model, "config") else None
            )
        if inner is None or inner is model:
            break
        model = inner
    return model


def _config_of(model: Any) -> Any:
    """Return the config of a model; a config is returned unchanged."""
    return getattr(model, "config", None) if hasattr(model, "forward") else model


def _accepted(model: Any) -> frozenset[str] | None:
    """Return the names of the arguments of a model's forward pass; None if a wrapper of unknown kind hides them."""
    forward = getattr(model, "forward", None)
    named = frozenset(inspect.signature(forward).parameters) if forward is not None else frozenset()
    return named if "input_ids" in named else None
