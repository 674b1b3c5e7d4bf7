"""Diagnoses faults from the preflight and, with a checkpoint, also from its weights and scores."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eyechart.exits import InputError, NamedInputError, NonFiniteError, RankLostError
from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.faults.pattern import asks_for_rivals
from eyechart.faults.probes import probe
from eyechart.faults.rivals import Rivals
from eyechart.faults.slots import measure_slots
from eyechart.faults.table import finding, rank
from eyechart.faults.weights import ConnectorEvidence, flatten
from eyechart.progress import progress_bar
from eyechart.results import Ablation, Finding
from eyechart.scoring.batching import collate
from eyechart.scoring.conditions import parse_conditions
from qwen3_vlm.build import Prepared, build_model, prepare_data
from qwen3_vlm.commands.loaded import Loaded, data_of, restored
from qwen3_vlm.commands.recorder import fresh_reference
from qwen3_vlm.commands.scoring import score, training_of_run
from qwen3_vlm.config import Config
from qwen3_vlm.models.connector import fresh_connector
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight import ROWS, Preflight, View, findings_of_error, preflight
from qwen3_vlm.train.checkpoint import PARTS, Payload, config_tree, connector_state, load_checkpoint
from qwen3_vlm.train.findings_log import read_findings
from qwen3_vlm.train.run_files import require_one_run
from qwen3_vlm.train.train_utils import read_records_of_run
from qwen3_vlm.train.untrained import all_rivals

_SLOT_SAMPLES = 32
_RIVAL_SAMPLES = 64


@dataclass(frozen=True)
class Diagnosis:
    """The result of a diagnosis, with the most likely fault first."""

    findings: list[Finding]
    view: View | None
    """One sample as the model reads it; None if the data or a backbone could not be used."""
    looked_at: str
    """Description of what was examined."""

    @property
    def code(self) -> int:
        """Exit code: 1 if there is an error among the findings, otherwise 0."""
        return int(any(f.severity == "error" for f in self.findings))

    def to_json(self) -> str:
        """Return the diagnosis as JSON: `diagnosis` as in results.json, and the decoded sample."""
        tree = {
            "diagnosis": [f.model_dump(mode="json") for f in self.findings],
            "looked_at": self.looked_at,
            "sample": asdict(self.view) if self.view else None,
        }
        return json.dumps(tree, indent=1, ensure_ascii=False)


def diagnose(config: Config, checkpoint: str | Path | None = None, rows: int = ROWS) -> Diagnosis:
    """Look for every fault that can be found without training.

    Args:
        config: the config of the run.
        checkpoint: a `checkpoint_<step>.pt`. If given, its weights and its scores on held-out samples are checked, too.
        rows: number of rows of each side of the split that are read with their images.

    Returns:
        The findings. If the input would stop a training run because of a fault in the table, this is one of them.

    Raises:
        ValueError: the input is bad for a reason that is not in the table of faults; the message is one line.
    """
    path = Path(checkpoint) if checkpoint else None
    payload: Payload | None = None
    try:
        payload = load_checkpoint(path) if path else None
        if path is not None and payload is not None:
            require_one_run(payload, path)
        prepared = prepare_data(config) if path is None or payload is None else data_of(config, payload, path)
        vlm = build_model(config, prepared.inputs)
    except ValueError as error:
        return refused(error, config)
    if not len(prepared.train):
        raise ValueError(f"{config.data.json_file}: no training row is left of {len(prepared.split.train)}")
    if path is None or payload is None:
        flight = preflight(prepared, vlm, rows, _bar)
        evidence = RunEvidence(flight.findings, pairing=flight.pairing)
        return Diagnosis(diagnose_run(evidence), flight.view, _words(flight))
    initial = connector_state(vlm.connector)
    try:
        loaded = restored(config, prepared.inputs, vlm, payload, path, prepared)
    except InputError as error:
        found = diagnose_run(RunEvidence(read_findings(path.parent), _of_weights(initial, None, payload, path)))
        named = error.code if isinstance(error, NamedInputError) else None
        if named or not any(f.severity == "error" for f in found):
            found.append(finding(named or "connector-not-loaded", error.message, error.fix))
        flight = preflight(prepared, vlm, rows, _bar)  # if the backbones differ, they may be the cause
        looked_at = f"{_words(flight)} and the weights of {path.name}"
        return Diagnosis(rank([*found, *flight.findings]), flight.view, looked_at)
    return _of_checkpoint(loaded, prepared, path, initial, rows)


def findings_of_score(loaded: Loaded, prepared: Prepared, checkpoint: Path, ablation: Ablation) -> list[Finding]:
    """Return the findings that belong to the results of a scored checkpoint; `diagnose` finds the same.

    Args:
        loaded: the checkpoint.
        prepared: the data of its run.
        checkpoint: the path of the checkpoint.
        ablation: the results of check 1 on the checkpoint.
    """
    # The checkpoint is compared with the connector before training.
    connector = loaded.vlm.connector
    initial = connector_state(fresh_connector(connector.shape, loaded.config.seed, connector.text_rms))
    return _of_checkpoint(loaded, prepared, checkpoint, initial, ROWS, ablation).findings


def named_failure(error: Exception, prepared: Prepared, vlm: VLM) -> NamedInputError | None:
    """Return the fault of the preflight that makes scoring fail, as the error to raise; None if there is none.

    A broken pipeline (labels or an image block at wrong positions) can fail anywhere, with any exception. An error that
    already has a one-line message for the user is not replaced.
    """
    if isinstance(error, ValueError | OSError | MemoryError | NonFiniteError | RankLostError):
        return None
    named = preflight(prepared, vlm, progress=_bar).errors
    return NamedInputError(named[0].code, f"{named[0].code}: {named[0].message}", named[0].fix) if named else None


def refused(error: ValueError, config: Config) -> Diagnosis:
    """Turn an error about rejected input into a diagnosis, or raise it again if it is not in the table of faults."""
    named = findings_of_error(error, config)
    if not named:
        raise error
    return Diagnosis(rank(named), None, "the input of this config")


def _bar(total: int) -> AbstractContextManager[Any]:
    return progress_bar(total, "preflight", "row")


def _words(flight: Preflight) -> str:
    return f"{flight.rows} rows and a batch of {flight.batch}"


def _exact(config: Config, payload: Payload, path: Path) -> bool:
    """Whether training and scoring both compute in float32; False if an older checkpoint does not record this."""
    if "config" not in payload or config.model.precision != "fp32":
        return False
    model = config_tree(payload, path).get("model")
    return isinstance(model, dict) and model.get("precision", "fp32") == "fp32"


def _of_weights(initial: Payload, in_use: Payload | None, payload: Payload, path: Path) -> ConnectorEvidence:
    """Return evidence on the connector: before training, in the checkpoint, and in use if it could be restored."""
    records = [r for r in read_records_of_run(path.parent) if r.step <= int(payload.get("step", 0))]
    return ConnectorEvidence(
        flatten(initial),
        flatten({part: payload[part] for part in PARTS if part in payload}),
        flatten(in_use) if in_use else None,
        payload.get("updates"),
        tuple(r.grad_norm for r in records),
        _peak_rate(payload, path),
    )


def _peak_rate(payload: Payload, path: Path) -> float | None:
    """Return the learning rate that the checkpoint was trained with; None if an older checkpoint does not record it."""
    train = config_tree(payload, path).get("train") if "config" in payload else None
    rate = train.get("lr") if isinstance(train, dict) else None
    return float(rate) if isinstance(rate, int | float) else None


def _of_checkpoint(
    loaded: Loaded, prepared: Prepared, path: Path, initial: Payload, rows: int, scored: Ablation | None = None
) -> Diagnosis:
    """Diagnose a checkpoint from its weights, the preflight and its scores.

    Args:
        loaded: the checkpoint.
        prepared: the data of its run.
        path: the path of the checkpoint.
        initial: the state of its connector before training.
        rows: as in `diagnose`.
        scored: the results of check 1 on the checkpoint, if there are any. If they include the conditions that are
            needed here, check 1 is not run again.
    """
    config, vlm = loaded.config, loaded.vlm
    flight = preflight(prepared, vlm, rows, _bar)
    evidence = RunEvidence(
        findings=[*loaded.findings, *read_findings(path.parent), *flight.findings],
        connector=_of_weights(initial, connector_state(vlm.connector), loaded.payload, path),
        step=loaded.step,
        training=training_of_run(loaded, prepared, path.parent),
        vocabulary=vlm.llm.vocabulary,
        exact=_exact(config, loaded.payload, path),
        pairing=flight.pairing,
    )
    if not flight.batch or not len(prepared.eval):
        return Diagnosis(diagnose_run(evidence), flight.view, _words(flight))
    items = [prepared.eval[p] for p in range(min(_SLOT_SAMPLES, len(prepared.eval)))]
    batch = collate(items, prepared.inputs.pad_id)
    conditions = parse_conditions("runbook,no-image")
    samples = min(config.ablation.num_samples, len(prepared.split.eval))
    try:
        if scored is not None and set(conditions) <= set(scored.conditions):
            ablation, samples = scored, scored.samples
        else:
            ablation, _ = score(loaded, prepared, samples, conditions, path)
    except Exception as error:  # a broken pipeline raises any exception; it is raised again if no finding explains it
        named = findings_of_error(error, config) if isinstance(error, ValueError) else []
        if not named and not flight.errors:
            raise
        # The findings of the preflight are most likely the reason why the checkpoint cannot be scored.
        found = diagnose_run(replace(evidence, findings=[*evidence.findings, *named]))
        looked_at = f"{_words(flight)} and the weights of {path.name}, which could not be scored"
        return Diagnosis(found, flight.view, looked_at)
    ratio = ablation.connector.rms_ratio if ablation.connector else None
    evidence = replace(
        evidence,
        probes=probe(vlm, batch, config.seed) if batch.stats.label_tokens else None,
        slots=measure_slots(vlm, batch, ratio) if batch.stats.label_tokens else None,
        ablation=ablation,
        untrained=fresh_reference(vlm, batch, config.seed),
        rivals=_rivals(loaded, prepared, ablation),
    )
    return Diagnosis(diagnose_run(evidence), flight.view, f"{_words(flight)}, {path.name} and {samples} scored samples")


def _rivals(loaded: Loaded, prepared: Prepared, ablation: Ablation) -> Rivals | None:
    """Return the losses of tokens that learnt nothing, if they are needed to interpret the pattern of check 1."""
    if not asks_for_rivals(ablation):
        return None
    items = [prepared.eval[p] for p in range(min(_RIVAL_SAMPLES, len(prepared.eval)))]
    batch, pad_id = collate(items, loaded.inputs.pad_id), loaded.inputs.pad_id
    return all_rivals(loaded.vlm, batch, prepared.train, pad_id, loaded.config.seed) if len(batch) else None
