"""How a run handles faults: when it checks for them, how it reports them, and when it stops.

Checks take place before the first update, between updates and at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.exits import FaultsFoundError, NonFiniteError
from eyechart.faults.learning_rate import diagnose_step, typical_size
from eyechart.faults.pairing import diagnose_pairing
from eyechart.faults.rows_pictures import diagnose_equal_pixels
from eyechart.faults.table import finding, page_of, rank
from eyechart.progress import progress_bar, say
from eyechart.results import Finding
from eyechart.scoring.batching import collate
from qwen3_vlm.preflight import preflight
from qwen3_vlm.preflight.corpus import leak_named
from qwen3_vlm.train.features import CachedDataset
from qwen3_vlm.train.findings_log import write_findings
from qwen3_vlm.train.looks import read_looks
from qwen3_vlm.train.readiness import cache_findings, optimizer_findings, order_findings
from qwen3_vlm.train.run import Run
from qwen3_vlm.train.watch import beats_fresh, end_findings, never_opened

_LOOKED_AT = 16
"""Number of held-out samples, as in a look."""


def look_before(run: Run) -> list[Finding]:
    """Run the preflight of a run and check its optimizer and its feature cache.

    Only the main process does this; the other processes return an empty list.
    """
    if not run.accelerator.is_main_process:
        return []
    flight = preflight(run.prepared, run.vlm, progress=lambda total: progress_bar(total, "preflight", "row"))
    found = [
        *flight.findings,
        *optimizer_findings(run.vlm, run.optimizer),
        *order_findings(len(run.train_set), run.plan(0)),
        *diagnose_step(run.config.train.lr, typical_size(dict(run.vlm.connector.named_parameters()))),
    ]
    if flight.pairing is not None:
        found += diagnose_pairing(flight.pairing, ignored=False)  # the connector is not trained yet
    if run.train_set is not run.prepared.train and flight.batch:
        found += cache_findings(run.vlm, run.train_set, run.prepared.train)
    if isinstance(run.train_set, CachedDataset) and isinstance(run.eval_set, CachedDataset):
        leaked = diagnose_equal_pixels(run.train_set.hashes, run.eval_set.hashes, run.config.data.max_rejected)
        found += [] if leak_named(found) else leaked
    return rank(found)


def look_after(run: Run) -> list[Finding]:
    """Return `end_findings` of a run on the main process, and an empty list on the others."""
    if not run.accelerator.is_main_process:
        return []
    return end_findings(run.vlm, run.eval_set, run.prepared.inputs.pad_id, read_looks(run.folder), run.config.seed)


def note(run: Run, found: Sequence[Finding], force: bool) -> None:
    """Record findings in the folder of the run, and report the errors and warnings among them."""
    if run.accelerator.is_main_process:
        write_findings(run.folder, found, run.step, force)
        for f in found:
            if f.severity != "note":
                say(f"{f.severity} {_said(f)}")


def note_non_finite(run: Run, error: NonFiniteError, step: int) -> None:
    """Record which value was not finite, before the run stops."""
    if run.accelerator.is_main_process:
        write_findings(run.folder, [finding("non-finite", error.message, error.fix, step=step)], step)


def watch_update(run: Run, grad_norm: float, learning_rate: float) -> None:
    """Run the checks that follow an update.

    Raises:
        FaultsFoundError: see `Watch.after_update`.
    """
    if run.watch is not None:
        _act(run, run.watch.after_update(grad_norm, learning_rate), run.watch.force)


def watch_epoch(run: Run) -> None:
    """Run the checks that follow an epoch.

    Raises:
        FaultsFoundError: see `Watch.after_epoch`.
    """
    if run.watch is not None:
        _act(run, run.watch.after_epoch(), run.watch.force)


def watch_look(run: Run) -> None:
    """After a look in the second half of a run, report if there is no gap yet.

    This finding is not recorded, because a gap may still develop; `look_after` decides at the end.
    """
    if run.looking is None or not run.looking.steps[-1] / 2 <= run.step < run.looking.steps[-1]:
        return
    for f in never_opened(read_looks(run.folder), lambda: _learnt(run)):
        say(f"so far {f.severity} {_said(f)}")


def _learnt(run: Run) -> bool:
    """Return whether held-out samples have a lower loss with the visual tokens than with those of fresh connectors."""
    items = [run.eval_set[place] for place in range(min(_LOOKED_AT, len(run.eval_set)))]
    was_training = run.vlm.training
    try:
        return beats_fresh(run.vlm.eval(), collate(items, run.prepared.inputs.pad_id), run.config.seed)
    finally:
        run.vlm.train(was_training)


def _act(run: Run, found: list[Finding], force: bool) -> None:
    if found:
        if force or not any(f.severity == "error" for f in found):
            note(run, found, force)
        elif run.accelerator.is_main_process:
            write_findings(run.folder, found, run.step)
        stop_on_errors(found, force)


def stop_on_errors(findings: Sequence[Finding], force: bool) -> None:
    """Stop a run if there are errors among its findings.

    Raises:
        FaultsFoundError: `findings` contains an error and `force` is not set.
    """
    errors = [f for f in findings if f.severity == "error"]
    if errors and not force:
        listed = " | ".join(_said(f) for f in errors)
        raise FaultsFoundError(f"{listed}. Fix it, or continue with --force", list(findings))


def _said(found: Finding) -> str:
    return f"{found.code}: {found.message}. Fix: {found.fix} ({page_of(found.code)})"
