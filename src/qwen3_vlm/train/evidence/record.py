"""The evidence in a checkpoint: made when it is saved, and compared in one function whenever it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from eyechart.exits import InputError, NamedInputError
from eyechart.results import Finding
from qwen3_vlm.build import Inputs, Prepared
from qwen3_vlm.config import Config
from qwen3_vlm.data.recorded import RecordedSplit
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.train.checkpoint import PARTS, Payload, config_tree
from qwen3_vlm.train.damage import refuse_damaged, tensor_digests
from qwen3_vlm.train.evidence.canary import Canary
from qwen3_vlm.train.evidence.comparison import canary_findings
from qwen3_vlm.train.evidence.identity import (
    identities,
    identity_findings,
    prompt_settings,
    refuse_other_backbones,
)

KEY = "evidence"
_SCHEMA: Literal[1] = 1
_OF_THE_DRAW = ("max_samples", "eval_ratio")
_EFFECTS = {
    "tokenizer-changed": ("prompt-changed",),
    "prompt-changed": ("prompt-changed",),
    "pixels-changed": ("pixels-changed", "visual-tokens-changed"),
}
"""The stages of the canary at which a difference of tokenizer, prompt settings or preprocessing shows first."""


def make_evidence(
    config: Config, prepared: Prepared, vlm: VLM, parts: dict[str, dict[str, Tensor]], canary: Canary | None
) -> dict[str, Any]:
    """Return the evidence to save in a checkpoint as plain values and tensors.

    Args:
        config: the config of the run.
        prepared: its data.
        vlm: its model.
        parts: the connector's tensors that are saved, by part.
        canary: the rows to score; None leaves the canary out.
    """
    evidence = {
        "schema": _SCHEMA,
        "split": RecordedSplit(*prepared.files, prepared.split).to_plain(),
        **identities(_prompt(config), prepared.inputs, vlm),
        "connector": tensor_digests(parts),
        "canary": canary.score(vlm, config.model.precision) if canary is not None else None,
    }
    return {**evidence, "seal": _seal(evidence)}


def evidence_of(payload: Payload, path: Path) -> dict[str, Any] | None:
    """Return the evidence in a checkpoint after checking that it and the connector's tensors are undamaged.

    Returns:
        The evidence; None if the checkpoint is of an older version, which recorded none.

    Raises:
        NamedInputError: `file-damaged`: the connector's tensors or the evidence are not those that were saved.
        InputError: the evidence has a later schema.
    """
    if KEY not in payload:
        return None
    evidence: dict[str, Any] = payload[KEY]
    if evidence.get("schema") != _SCHEMA:
        raise InputError(
            f"{path}: its evidence has schema {evidence.get('schema')}, this version reads {_SCHEMA}",
            "open it with the version of this package that saved it",
        )
    if _seal({key: value for key, value in evidence.items() if key != "seal"}) != evidence.get("seal"):
        raise NamedInputError(
            "file-damaged",
            f"{path}: the file is damaged: the evidence in it is not what was saved",
            "take another copy of the file, or an older checkpoint",
        )
    refuse_damaged(evidence["connector"], {part: payload[part] for part in PARTS if payload.get(part)}, path)
    return evidence


def recorded_split(payload: Payload, config: Config, path: Path) -> RecordedSplit | None:
    """Return the split that a checkpoint records; None if it is of an older version.

    Raises:
        NamedInputError: `data-changed`: the config asks for another draw than the one in training.
    """
    evidence = evidence_of(payload, path)
    if evidence is None:
        return None
    then = config_tree(payload, path).get("data", {})
    for key in _OF_THE_DRAW:
        if key in then and then[key] != getattr(config.data, key):
            raise NamedInputError(
                "data-changed",
                f"{path}: its rows were drawn with data.{key} {then[key]}, got {getattr(config.data, key)}: another "
                "split could hold out rows that were trained on",
                f"leave data.{key} as it was in training",
            )
    return RecordedSplit.from_plain(evidence["split"], path)


def compare(
    payload: Payload, config: Config, inputs: Inputs, vlm: VLM, path: Path, prepared: Prepared | None
) -> list[Finding]:
    """Compare a checkpoint's evidence with what it is opened with. Every command that opens a checkpoint calls this.

    The connector must already be restored in `vlm`, because the canary is scored with it.

    Args:
        payload: the content of the checkpoint.
        config: the config in use.
        inputs: tokenizer and preprocessing in use.
        vlm: the model in use, in eval mode.
        path: the checkpoint, for messages.
        prepared: the data in use; without data (for writing captions, exporting), the canary is not compared.

    Returns:
        A finding for the first stage that differs, and warnings or notes on what differs without an effect on the
        canary's rows; an empty list if there are none, or if the checkpoint is of an older version.

    Raises:
        NamedInputError: the file is damaged.
    """
    evidence = evidence_of(payload, path)
    if evidence is None:
        return []
    found = identity_findings(evidence, _prompt(config), inputs)
    canary = evidence["canary"]
    if canary is None or prepared is None:
        return found[:1]
    differ = canary_findings(canary, prepared, vlm)
    stage = differ[0].code if differ else ""
    causes = [f for f in found if stage in _EFFECTS[f.code]]
    # The others have no effect on these rows: a larger limit on tokens, a token that does not occur. Other rows may
    # contain such a token.
    harmless = [
        f.model_copy(update={"severity": "warning" if f.code == "tokenizer-changed" else "note"})
        for f in found
        if f not in causes
    ]
    return [*(causes[:1] or differ), *harmless]


def refuse_backbones_of(payload: Payload, config: Config, inputs: Inputs, vlm: VLM, path: Path) -> None:
    """Reject a checkpoint that was trained with other backbones than those in `vlm`.

    Raises:
        NamedInputError: `backbone-changed`, or the code of an earlier stage that differs as well: another language
            model often has another tokenizer.
    """
    evidence: Mapping[str, Any] = payload.get(KEY) or {}
    try:
        refuse_other_backbones(payload.get("backbones", {}), config.model, vlm, path, evidence.get("weights"))
    except NamedInputError as error:
        earlier = identity_findings(evidence, _prompt(config), inputs) if evidence else []
        if not earlier:
            raise
        raise NamedInputError(earlier[0].code, f"{error.message}; {earlier[0].message}", error.fix) from error


def sealed(payload: Payload) -> Payload:
    """Return a payload whose digests are those of its own tensors, as if they had been saved like this."""
    evidence = {key: value for key, value in payload[KEY].items() if key != "seal"}
    evidence["connector"] = tensor_digests({part: payload[part] for part in PARTS if payload.get(part)})
    return {**payload, KEY: {**evidence, "seal": _seal(evidence)}}


def _prompt(config: Config) -> dict[str, Any]:
    return prompt_settings(config.prompt, config.connector.latents, config.data.max_seq_len)


def _seal(value: Any) -> str:
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()[:32]


def _add(digest: Any, value: Any) -> None:
    """Add a plain value or tensor to a digest; dictionaries by key, so that their order does not matter."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        for key in sorted(value):
            digest.update(f"{key}:".encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _add(digest, item)
    else:
        digest.update(f"{value!r};".encode())
