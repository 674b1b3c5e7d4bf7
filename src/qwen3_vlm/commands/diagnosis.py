"""Which fault, from which evidence: the preflight, and with a checkpoint what its weights and its scores show."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eyechart.exits import InputError
from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.faults.probes import probe
from eyechart.faults.slots import measure_slots
from eyechart.faults.table import finding, rank
from eyechart.faults.weights import ConnectorEvidence, flatten
from eyechart.progress import progress_bar
from eyechart.results import Ablation, Finding
from eyechart.scoring.batching import collate
from eyechart.scoring.conditions import parse_conditions
from qwen3_vlm.build import Prepared, build_model, prepare_data
from qwen3_vlm.commands.loaded import Loaded, restored
from qwen3_vlm.commands.scoring import score, training_of_run
from qwen3_vlm.config import Config
from qwen3_vlm.models.connector import fresh_connector
from qwen3_vlm.preflight import ROWS, Preflight, View, findings_of_error, preflight
from qwen3_vlm.train.checkpoint import PARTS, Payload, config_tree, connector_state, load_checkpoint
from qwen3_vlm.train.findings_log import read_findings
from qwen3_vlm.train.train_utils import read_records_of_run

_SLOT_SAMPLES = 32


@dataclass(frozen=True)
class Diagnosis:
    """What was found, the most likely fault first."""

    findings: list[Finding]
    view: View | None
    """One sample as the model reads it; None where the data or a backbone could not be used."""
    looked_at: str
    """What the findings rest on, in words."""

    @property
    def code(self) -> int:
        """Exit code: 1 with an error, else 0."""
        return int(any(f.severity == "error" for f in self.findings))

    def to_json(self) -> str:
        """For programs: `diagnosis` as in results.json, and the decoded sample."""
        tree = {
            "diagnosis": [f.model_dump(mode="json") for f in self.findings],
            "looked_at": self.looked_at,
            "sample": asdict(self.view) if self.view else None,
        }
        return json.dumps(tree, indent=1, ensure_ascii=False)


def diagnose(config: Config, checkpoint: str | Path | None = None, rows: int = ROWS) -> Diagnosis:
    """Look for every fault that can be seen without training.

    Args:
        config: the run.
        checkpoint: a `checkpoint_<step>.pt`, to look at its connector and at what it does with held-out pictures too.
        rows: rows of each side of the split that are read with their images.

    Returns:
        The findings. Input that would stop a training run is one of them where it has the name of a fault.

    Raises:
        ValueError: bad input without such a name, one line.
    """
    path = Path(checkpoint) if checkpoint else None
    payload = load_checkpoint(path) if path else None
    try:
        prepared = prepare_data(config, path.parent / "split.json" if path else None)
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
        loaded = restored(config, prepared.inputs, vlm, payload, path)
    except InputError as error:
        found = diagnose_run(RunEvidence(read_findings(path.parent), _of_weights(initial, None, payload, path)))
        if not any(f.severity == "error" for f in found):
            found.append(finding("connector-not-loaded", error.message, error.fix))
        flight = preflight(prepared, vlm, rows, _bar)  # a backbone that is not training's may be at fault itself
        looked_at = f"{_words(flight)} and the weights of {path.name}"
        return Diagnosis(rank([*found, *flight.findings]), flight.view, looked_at)
    return _of_checkpoint(loaded, prepared, path, initial, rows)


def findings_of_score(loaded: Loaded, prepared: Prepared, checkpoint: Path, ablation: Ablation) -> list[Finding]:
    """What a scored checkpoint's results should be read with: the same as `diagnose` finds, from the same evidence.

    Args:
        loaded: the checkpoint.
        prepared: the data of its run.
        checkpoint: its path.
        ablation: its check 1.
    """
    # The connector as it is before training: that is what the checkpoint is compared with.
    connector = loaded.vlm.connector
    initial = connector_state(fresh_connector(connector.shape, loaded.config.seed, connector.text_rms))
    return _of_checkpoint(loaded, prepared, checkpoint, initial, ROWS, ablation).findings


def refused(error: ValueError, config: Config) -> Diagnosis:
    """Input that was refused, as a diagnosis where it has the name of a fault; without one, it is raised again."""
    named = findings_of_error(error, config)
    if not named:
        raise error
    return Diagnosis(rank(named), None, "the input of this config")


def _bar(total: int) -> AbstractContextManager[Any]:
    return progress_bar(total, "preflight", "row")


def _words(flight: Preflight) -> str:
    return f"{flight.rows} rows and a batch of {flight.batch}"


def _exact(config: Config, payload: Payload, path: Path) -> bool:
    """Whether training and scoring both compute in float32; false where an older checkpoint does not say."""
    if "config" not in payload or config.model.precision != "fp32":
        return False
    model = config_tree(payload, path).get("model")
    return isinstance(model, dict) and model.get("precision", "fp32") == "fp32"


def _of_weights(initial: Payload, in_use: Payload | None, payload: Payload, path: Path) -> ConnectorEvidence:
    """The connector before training, in the checkpoint, and as it is used where it could be restored."""
    records = [r for r in read_records_of_run(path.parent) if r.step <= int(payload.get("step", 0))]
    return ConnectorEvidence(
        flatten(initial),
        flatten({part: payload[part] for part in PARTS if part in payload}),
        flatten(in_use) if in_use else None,
        payload.get("updates"),
        tuple(r.grad_norm for r in records),
    )


def _of_checkpoint(
    loaded: Loaded, prepared: Prepared, path: Path, initial: Payload, rows: int, scored: Ablation | None = None
) -> Diagnosis:
    """What its weights, the preflight and its scores show.

    Args:
        loaded: the checkpoint.
        prepared: the data of its run.
        path: of the checkpoint.
        initial: its connector before training.
        rows: as in `diagnose`.
        scored: its check 1 if there is one: with the conditions that are read here it is not run again.
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
    except Exception as error:  # a broken pipeline raises anything; without a finding that explains it, it goes on
        named = findings_of_error(error, config) if isinstance(error, ValueError) else []
        if not named and not flight.errors:
            raise
        # What the preflight found is most likely why it cannot be scored.
        found = diagnose_run(replace(evidence, findings=[*evidence.findings, *named]))
        looked_at = f"{_words(flight)} and the weights of {path.name}, which could not be scored"
        return Diagnosis(found, flight.view, looked_at)
    ratio = ablation.connector.rms_ratio if ablation.connector else None
    evidence = replace(
        evidence,
        probes=probe(vlm, batch, config.seed) if batch.stats.label_tokens else None,
        slots=measure_slots(vlm, batch, ratio) if batch.stats.label_tokens else None,
        ablation=ablation,
    )
    return Diagnosis(diagnose_run(evidence), flight.view, f"{_words(flight)}, {path.name} and {samples} scored samples")
