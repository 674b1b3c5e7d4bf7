"""The evidence in a checkpoint: what it was trained with, which tensors were saved, and scores of a few held-out rows.

`make_evidence` collects the evidence when a checkpoint is saved. `compare` compares it with the config,
model and data in use whenever a checkpoint is opened.
"""

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
"""For each fault of tokenizer, prompt settings or preprocessing, the faults that the canary reports as a consequence.

The canary is a set of held-out rows that are scored when a checkpoint is saved and when it is opened. Only the first
stage at which their results differ is reported. If the canary reports no such fault, its rows are not affected."""


def make_evidence(
    config: Config, prepared: Prepared, vlm: VLM, parts: dict[str, dict[str, Tensor]], canary: Canary | None
) -> dict[str, Any]:
    """Return the evidence that is saved in a checkpoint, as plain values and tensors.

    Args:
        config: the config of the run.
        prepared: the data of the run.
        vlm: the model of the run.
        parts: the tensors of the connector that are saved, by part.
        canary: the held-out rows to score. If this is None, the evidence contains no canary.
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
    """Return the evidence in a checkpoint, after checking that the evidence and the connector's tensors are undamaged.

    Returns:
        The evidence; None if the checkpoint was saved by an older version of this package, which recorded no evidence.

    Raises:
        NamedInputError: `file-damaged`: the connector's tensors or the evidence differ from those that were saved.
        InputError: the evidence has another schema version than this code reads.
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
    """Return the split that is recorded in a checkpoint; None if an older version of this package saved it.

    Raises:
        NamedInputError: `data-changed`: a setting that determines how rows are drawn differs from that of the training.
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
    """Compare the evidence in a checkpoint with the config, model and data with which the checkpoint is opened.

    Every command that opens a checkpoint calls this function. The checkpoint's connector must already be loaded into
    `vlm`, because the canary's rows are scored with it.

    Args:
        payload: the content of the checkpoint.
        config: the config in use.
        inputs: the tokenizer and the image preprocessing in use.
        vlm: the model in use, in eval mode.
        path: the checkpoint, for messages.
        prepared: the data in use. Commands without data (writing captions, exporting) pass None, and the canary is not
            compared.

    Returns:
        A finding for the first stage that differs, and a warning or note for each difference that has no effect on the
        canary's rows. The list is empty if nothing differs, or if the checkpoint contains no evidence because an older
        version of this package saved it.

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
    # The other differences have no effect on the canary's rows: for example, a higher limit on the number of tokens, or
    # a token that does not occur in these rows. Other rows may contain such a token, so another tokenizer is a warning.
    harmless = [
        f.model_copy(update={"severity": "warning" if f.code == "tokenizer-changed" else "note"})
        for f in found
        if f not in causes
    ]
    return [*(causes[:1] or differ), *harmless]


def refuse_backbones_of(payload: Payload, config: Config, inputs: Inputs, vlm: VLM, path: Path) -> None:
    """Reject a checkpoint that was trained with backbones other than those in `vlm`.

    Raises:
        NamedInputError: `backbone-changed`, or the code of an earlier stage if that differs as well. For example,
            another language model often has another tokenizer.
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
    """Return a checkpoint's content with digests recomputed from its tensors, as if these tensors had been saved."""
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
    """Add a plain value or tensor to a digest.

    Dictionaries are added in sorted order of keys, so that their own order does not matter.
    """
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
