"""Identifies the components with which a connector was trained: tokenizer, prompt, image preprocessing, both backbones.

Identities are hashes or settings, stored as plain values. To identify the weights, each tensor is converted to bfloat16
and hashed, while the weights are read from their files (`eyechart.models.hashing`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eyechart.exits import NamedInputError
from eyechart.faults.table import finding
from eyechart.models.weights import fingerprint
from eyechart.results import Finding
from qwen3_vlm.build import Inputs, backbone_identities
from qwen3_vlm.config import ModelConfig, PromptConfig
from qwen3_vlm.models.vlm import VLM

_NAMED = 3


def identities(prompt: dict[str, Any], inputs: Inputs, vlm: VLM) -> dict[str, Any]:
    """Return hashes and settings that identify a run's tokenizer, prompt, image preprocessing and weights.

    `prompt` is the result of `prompt_settings`.
    """
    return {
        "tokenizer": tokenizer_parts(inputs.tokenizer),
        "prompt": prompt,
        "image": image_settings(inputs),
        "weights": {"vision": dict(vlm.tower.hashes), "llm": dict(vlm.llm.hashes)},
    }


def tokenizer_parts(tokenizer: Any) -> dict[str, str]:
    """Return a hash of each part of a fast tokenizer that affects token ids.

    The parts are taken from the JSON text to which the tokenizer serialises itself. Empty fields are left out, because
    versions of the library differ in which empty fields they write.
    """
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    model = tree.get("model") or {}
    # Newer versions of the library write a merge as a pair of strings, older versions as one string with a space.
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model.get("merges") or ()]
    added = [[token["id"], token["content"], bool(token.get("special"))] for token in tree.get("added_tokens") or ()]
    parts = {
        "vocabulary": sorted((model.get("vocab") or {}).items(), key=lambda item: (item[1], item[0])),
        "merges": merges,
        "added tokens": sorted(added),
        "normalizer": _filled(tree.get("normalizer")),
        "pre-tokenizer": _filled(tree.get("pre_tokenizer")),
        "chat template": tokenizer.chat_template,
        "end of text": tokenizer.eos_token,
    }
    return {name: _hash(part) for name, part in parts.items()}


def prompt_settings(prompt: PromptConfig, latents: int, max_seq_len: int) -> dict[str, Any]:
    """Return, by name, the settings that determine the token ids of a sequence together with the data row."""
    named = {f"prompt.{key}": value for key, value in prompt.model_dump(mode="json").items()}
    return {**named, "connector.latents": latents, "data.max_seq_len": max_seq_len}


def image_settings(inputs: Inputs) -> dict[str, Any]:
    """Return the settings of the image preprocessing, with lists instead of tuples, as in JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(inputs.spec).items()}


def refuse_other_backbones(
    then: Mapping[str, Any],
    named: ModelConfig,
    vlm: VLM,
    path: Path,
    weights: Mapping[str, dict[str, str]] | None = None,
) -> None:
    """Reject a checkpoint or export that was trained with other backbones.

    Args:
        then: name, width and digest of each backbone at the time of training. Older versions of this package recorded
            a `fingerprint` of a few values of each weight instead of the digest of all values. The oldest versions
            recorded nothing, so this is empty.
        named: the part of the config in use that contains the names of both backbones, for messages.
        vlm: the model in use.
        path: the checkpoint or export, for messages.
        weights: the hashes of all weights at the time of training, by backbone and name. They are used to name the
            first weight that differs.

    Raises:
        NamedInputError: `backbone-changed`; the message shows both identities.
    """
    now = backbone_identities(named, vlm) if then else {}
    for part, recorded in then.items():
        module = vlm.tower if part == "vision" else vlm.llm
        key = "digest" if "digest" in recorded else "fingerprint"
        found = now[part]["digest"] if key == "digest" else fingerprint(module.model)
        if recorded[key] != found:
            shown = " against ".join(
                f"{name} (width {width}, {value})"
                for name, width, value in (
                    (recorded["name"], recorded["width"], recorded[key]),
                    (now[part]["name"], now[part]["width"], found),
                )
            )
            first = _first_other((weights or {}).get(part, {}), module.hashes)
            raise NamedInputError(
                "backbone-changed",
                f"{path}: trained with another model.{part}: {shown}{first}",
                "name the backbone it was trained with",
            )


def identity_findings(then: Mapping[str, Any], prompt: dict[str, Any], inputs: Inputs) -> list[Finding]:
    """Return a finding for each of tokenizer, prompt settings and image preprocessing that differs from training.

    Args:
        then: the result of `identities` from the time when the checkpoint was saved.
        prompt: the prompt settings in use (`prompt_settings`).
        inputs: the tokenizer and the image preprocessing in use.
    """
    found = []
    if differ := _different(then["tokenizer"], tokenizer_parts(inputs.tokenizer)):
        found.append(
            finding(
                "tokenizer-changed",
                f"the tokenizer is not the one of the training: {', '.join(differ)} differ",
                "use the tokenizer files that the connector was trained with (in the folder of model.llm)",
                parts=differ,
            )
        )
    for code, key, now, fix in (
        ("prompt-changed", "prompt", prompt, "use the settings that the connector was trained with"),
        (
            "pixels-changed",
            "image",
            image_settings(inputs),
            "use the preprocessor_config.json that the connector was trained with (in the folder of model.vision)",
        ),
    ):
        if differ := _different(then[key], now):
            shown = "; ".join(f"{name} was {then[key].get(name)!r}, is {now.get(name)!r}" for name in differ[:_NAMED])
            what = "the prompt is" if key == "prompt" else "the image preprocessing is"
            found.append(finding(code, f"{what} not that of the training: {shown}", fix, settings=differ))
    return found


def _different(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ.

    Settings that exist only in one of the two are left out: other versions of this package have other settings.
    """
    return [key for key, value in then.items() if key in now and now[key] != value]


def _first_other(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    differ = sorted(name for name in {**then, **now} if then.get(name) != now.get(name))
    return f"; {len(differ)} of {len(then)} weights differ (first {differ[0]})" if then and differ else ""


def _filled(tree: Any) -> Any:
    """Return a JSON value without the empty fields of its objects, at any depth."""
    if isinstance(tree, dict):
        return {key: _filled(value) for key, value in sorted(tree.items()) if value not in (None, False, "", [], {})}
    return [_filled(value) for value in tree] if isinstance(tree, list) else tree


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:32]
