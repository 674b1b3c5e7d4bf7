"""Runs one case of the benchmark: training, the four conditions alone, then the tool's findings."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import qwen3_vlm.commands.diagnosis  # noqa: F401 - imported before the cases fork, so that all use the same source
from eyechart.exits import FaultsFoundError, NamedInputError, NonFiniteError
from eyechart.files import write_atomic
from fault_site import Case, Site
from fault_table import Row
from qwen3_vlm import ablate
from qwen3_vlm.cli import main as command
from qwen3_vlm.commands.trial import trial
from qwen3_vlm.train.checkpoint import find_checkpoints
from qwen3_vlm.train.stage1 import train

Findings = list[tuple[str, str]]
_CONDITIONS = "runbook,no-image"


@dataclass
class _Said:
    """The output of one part of the tool."""

    how: str = ""
    """How training ended or the findings were made: refused, stopped or diagnosed."""
    findings: Findings = field(default_factory=list)
    message: str = ""
    crash: str = ""


@dataclass
class _Scored:
    """The output of `ablate`."""

    four: str = "could not run"
    why: str = ""
    verdict: str = ""
    """The overall verdict; empty if `ablate` could not run."""
    findings: Findings = field(default_factory=list)


def run_case(case: Case, site: Site, trained_before: Path | None = None, tries: bool = True) -> Row:
    """Set up a case, run it with its change applied in the right phases, and collect the tool's output.

    The commands are run in the order of a user. If training was refused or stopped with findings, these are used;
    otherwise, the findings of `diagnose` with the checkpoint are used.

    Args:
        case: the case to run.
        site: its empty folder.
        trained_before: output_dir of an earlier training of this case. If given, the case is not trained again.
        tries: whether to run `trial` as well, if something was trained.
    """
    began = time.process_time()
    case.set_up(site)
    trained = _Said()
    if trained_before is not None:
        shutil.copytree(trained_before, site.run, dirs_exist_ok=True)
    elif case.where != "evaluation":
        with case.change():
            trained = _train(site, resume=case.where == "resume")
    if case.where != "evaluation":
        site.checkpoint = next(iter(reversed(find_checkpoints(site.run))), None)
    scored, diagnosed, diagnosing = _Scored(why=trained.message or trained.crash), _Said(), 0.0
    tried = _Scored()
    with _in_evaluation(case):
        if site.checkpoint is not None:
            scored = _ablate(site)
        if site.checkpoint is not None or trained.message:
            asked = time.process_time()
            diagnosed = _diagnose(site)
            diagnosing = time.process_time() - asked
        if tries and site.checkpoint is not None and case.where != "evaluation":
            tried = _trial(site)
    stopped = trained.findings or (trained.message and not diagnosed.findings)
    said = trained if stopped else diagnosed
    return Row(
        name=case.name,
        code=case.code,
        how=case.how,
        where=case.where,
        world=case.world,
        also=list(case.also),
        four=scored.four,
        four_why=scored.why,
        ablated=scored.verdict,
        ablate_findings=scored.findings,
        diagnose_findings=diagnosed.findings,
        tried=tried.verdict,
        tried_why=tried.why,
        trial_findings=tried.findings,
        ours=said.how,
        findings=said.findings,
        message=said.message,
        crash=diagnosed.crash or ("" if said.findings or said.message else trained.crash),
        seconds=time.process_time() - began,
        diagnosing=diagnosing,
    )


def _in_evaluation(case: Case) -> AbstractContextManager[object]:
    return case.change() if case.where in ("both", "evaluation") else nullcontext()


def _train(site: Site, resume: bool) -> _Said:
    """Train as a user would. If faults prevent or stop this, keep the findings and train again with `--force`."""
    said = _Said()
    for options in ({}, {"force": True}):
        try:
            with _quiet():
                train(site.config(), resume, overwrite=not resume, **options)
        except FaultsFoundError as error:
            found = _pairs(error.findings)
            if said.findings:
                return said
            # If there are checkpoints, training had started before the fault was found.
            said = _Said("stopped" if find_checkpoints(site.run) else "refused", found)
            continue
        except NonFiniteError as error:
            return said if said.findings else _Said("stopped", [("non-finite", "error")], f"stopped: {error}")
        except Exception as error:  # noqa: BLE001 - a broken run is a row of the table
            return said if said.findings else _broken(error)
        return said
    return said


def _broken(error: Exception) -> _Said:
    line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, NamedInputError):
        return _Said("refused", [(error.code, "error")], line)
    if isinstance(error, ValueError):
        return _Said("refused", [], line)
    return _Said("stopped", [], "", line)


def _ablate(site: Site) -> _Scored:
    """Run `qwen3-vlm ablate`, and return the verdict of the gates alone and the overall verdict with findings."""
    assert site.checkpoint is not None
    try:
        with _quiet():
            results = ablate(site.checkpoint, site.config(), conditions=_CONDITIONS)
    except Exception as error:  # noqa: BLE001
        return _Scored(why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    assert results.ablation is not None
    first = results.ablation.reasons[0].code if results.ablation.reasons else ""
    return _Scored(results.ablation.verdict, first, results.verdict, _pairs(results.diagnosis))


def _trial(site: Site) -> _Scored:
    """Run `qwen3-vlm trial --resume` on the finished run, which trains nothing more and judges it.

    It runs last and with `--force`, which is recorded in the run's folder: nothing reads the run after it.
    """
    try:
        with _quiet():
            results = trial(site.config(), conditions=_CONDITIONS, resume=True, force=True)
    except Exception as error:  # noqa: BLE001
        return _Scored(why=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return _Scored(verdict=results.verdict, findings=_pairs(results.diagnosis))


def _diagnose(site: Site) -> _Said:
    """Run `qwen3-vlm diagnose` as a user would."""
    path = site.folder / "run.yaml"
    write_atomic(path, site.config().to_yaml())
    arguments = ["diagnose", "--config", str(path), "--json"]
    if site.checkpoint is not None:
        arguments += ["--checkpoint", str(site.checkpoint)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command(arguments)
    except SystemExit as error:
        return _Said(crash=f"diagnose ended with {error.code}: {' '.join(err.getvalue().split())[-300:]}")
    except Exception:  # noqa: BLE001
        return _Said(crash=traceback.format_exc()[-600:])
    last = err.getvalue().strip().splitlines()[-2:]
    if code == 4:
        return _Said(crash=" ".join(last))
    if code == 2:
        return _Said("refused", message=last[-1] if last else "exit 2")
    try:
        findings = [(found["code"], found["severity"]) for found in json.loads(out.getvalue())["diagnosis"]]
    except (ValueError, KeyError) as error:
        return _Said(crash=f"diagnose --json printed no diagnosis: {error!r}")
    return _Said("diagnosed", findings)


def _pairs(findings: Iterable[object]) -> Findings:
    return [(getattr(found, "code", "?"), getattr(found, "severity", "?")) for found in findings]


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]  # noqa: ANN202
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def train_base(site: Site, save_every: int) -> Path:
    """Train the healthy run from which cases of evaluation and resumption start."""
    site.set(train__save_every=save_every)
    with _quiet():
        return train(site.config(), overwrite=True)
