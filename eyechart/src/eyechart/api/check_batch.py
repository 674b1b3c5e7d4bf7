"""`eyechart.check_batch`: finds the faults that are visible in a batch dict, without a forward pass."""

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

    `print` shows all three parts. Iteration and `len` use only the findings.
    """

    findings: list[Finding]
    """The findings, the most likely cause first."""
    facts: BatchFacts
    """Figures that describe the batch."""
    unchecked: list[Unchecked]
    """The checks that could not be made, each with the reason."""
    _evidence: BatchEvidence = field(repr=False, compare=False)

    @property
    def errors(self) -> list[Finding]:
        """The findings that are errors."""
        return [found for found in self.findings if found.severity == "error"]

    def row(self, row: int = 0) -> str:
        """Return a text that shows one row as the model gets it: images, prompt, and which tokens have a label.

        Raises:
            InputError: the batch has no row with this index.
        """
        return row_text(self._evidence, row)

    def html(self, row: int = 0) -> str:
        """Return an HTML page with the findings and one row: its images, its prompt, and its labels in colour.

        Raises:
            InputError: the batch has no row with this index.
        """
        return render_batch(self.findings, self.facts, self.unchecked, self._evidence, row)

    def save(self, path: str | Path, row: int = 0) -> None:
        """Write the page that `html` returns to a file.

        Raises:
            InputError: the batch has no row with this index.
        """
        write_atomic(Path(path), self.html(row))

    def __iter__(self) -> Iterator[Finding]:
        """Iterate over the findings."""
        return iter(self.findings)

    def __len__(self) -> int:
        """Return the number of findings."""
        return len(self.findings)

    def __str__(self) -> str:
        """Return a text of about one screen: findings, figures of the batch, and what could not be checked."""
        return batch_text(self.findings, self.facts, self.unchecked)


def check_batch(batch: Mapping[str, Any], processor: Any = None, model: Any = None) -> BatchCheck:
    """Find the faults that are visible in a batch, without a forward pass and without changing anything.

    Args:
        batch: what a collator returns: a dict or `BatchFeature` with `input_ids`, and with pixels, masks and labels in
            the form that the model expects. The values may be PyTorch tensors, NumPy or MLX arrays, or lists.
        processor: the model's processor (or tokenizer). If it is given, its chat template is used to find the answers,
            and pixels are compared with its settings.
        model: the model, which may be wrapped (PEFT, DDP, torch.compile), or its config. If it is given, ids, positions
            and keys of the batch are compared with what the model expects.

    Returns:
        The findings, figures of the batch, and a list of what could not be checked, for example because processor or
        model is missing. Rows without images and rows with several images are valid.

    Raises:
        InputError: `batch` is not a batch, or the shapes of its arrays do not match.
    """
    inner = _unwrapped(model)
    evidence = gather(batch, processor, _config_of(inner), _accepted(inner))
    findings = diagnose_batch(evidence)
    return BatchCheck(findings, facts_of(evidence), list(evidence.unchecked), evidence)


def _unwrapped(model: Any) -> Any:
    """Return the model inside DDP (`module`), torch.compile (`_orig_mod`) and PEFT (`get_base_model`)."""
    for _ in range(8):  # no model has this many wrappers
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
    """Return the config of a model. If `model` is a config itself, it is returned unchanged."""
    return getattr(model, "config", None) if hasattr(model, "forward") else model


def _accepted(model: Any) -> frozenset[str] | None:
    """Return the argument names of a model's `forward`; None if an unknown wrapper hides them."""
    forward = getattr(model, "forward", None)
    named = frozenset(inspect.signature(forward).parameters) if forward is not None else frozenset()
    return named if "input_ids" in named else None
