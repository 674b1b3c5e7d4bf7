"""The outcome of one type in `models.py`, and the page docs/models.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

MEANINGS = {
    "right": "the losses of `correct` and `shuffled` are those of the model's own forward pass",
    "refused": "exit code 2 and one line",
    "wrong": "scored, but with wrong losses",
    "exit 4": "ended in an internal error",
    "time": "scoring did not end in time",
    "no own forward": "the model's own forward pass fails on the tiny checkpoint, so there is nothing to compare with",
    "no checkpoint": "no tiny checkpoint could be made",
}
"""Every outcome, in the order of the page."""
TEN = (
    "qwen3_vl", "qwen2_5_vl", "qwen3_5", "gemma3", "gemma3n", "gemma4", "llama4", "llava", "mistral3", "mllama"
)  # fmt: skip
"""The ten types that the page calls the most used ones; `_USED` has the basis."""
USED = (
    *TEN, "qwen3_vl_moe", "qwen3_5_moe", "qwen2_vl", "llava_next", "internvl", "glm4v", "glm4v_moe", "paligemma",
    "smolvlm",
)  # fmt: skip
"""The types that also run on older versions of transformers."""
_USED = """
## The most used types on older versions

We know of no public count of downloads by model type. The first ten are the types whose name or class is in the source
of all four of unsloth 2026.10.9, LLaMA-Factory 0.9.5, ms-swift 4.6.0 and axolotl 0.19.0. Two mixtures of experts that
are too (qwen3_vl_moe, qwen3_5_moe) count as their dense siblings, and follow. The others are in the source of three of
the four, or belong to this project's tests (paligemma, smolvlm). 5.6.0 is the oldest supported version and what
LLaMA-Factory installs, 5.16.1 is what axolotl pins, 5.17.0 the newest that unsloth allows.

"""
_HEAD = """# Every image-text-to-text type of transformers

Made by `make bench-models` on transformers {newest}, with torch {torch} and torchvision {torchvision}. Each type
gets a checkpoint with random weights and a width of 32, saved with tokenizer, processor and template. `eyechart score`
runs on six rows; a script that does not import eyechart runs the model's own forward pass on its own processor's
inputs, with the own picture and with the donor's. Allowed difference per token: 1e-4 nats, 5e-4 for mixtures of
experts. A refusal that names another `--attention` is followed, and the outcome is that of the second run.

| outcome | types | meaning |
|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """The result of one type."""

    kind: str
    outcome: str
    """One of `MEANINGS`."""
    transformers: str
    """Version of transformers."""
    line: str = ""
    """The line of a refusal or an error, or what differs."""
    difference: float | None = None
    """Largest difference of a token's loss, in nats."""
    seconds: float = 0.0


def page(found: Sequence[Outcome]) -> str:
    """Return the page: every type on the newest version of transformers that was run, and the most used on all."""
    versions = sorted({entry.transformers for entry in found}, key=_numbers)
    every = sorted(found, key=lambda entry: entry.kind)
    found = [entry for entry in every if entry.transformers == versions[-1]]
    counts = Counter(entry.outcome for entry in found)
    packages = {name: metadata.version(name) for name in ("torch", "torchvision")}
    parts = [_HEAD.format(newest=versions[-1], **packages)]
    parts += [f"| {name} | {counts[name]} | {text} |\n" for name, text in MEANINGS.items()]
    for name in MEANINGS:
        entries = [entry for entry in found if entry.outcome == name]
        if not entries:
            continue
        column = "largest difference in nats" if name == "right" else "line"
        parts.append(f"\n## {name.capitalize()}\n\n| type | {column} |\n|---|---|\n")
        parts += [f"| {entry.kind} | {_cell(entry)} |\n" for entry in entries]
    return "".join([*parts, *_on_versions(every, versions)])


def _on_versions(found: Sequence[Outcome], versions: Sequence[str]) -> Iterator[str]:
    """Yield the section about the most used types, if there is more than one version."""
    if len(versions) < 2:
        return
    by_key = {(entry.kind, entry.transformers): entry for entry in found}
    yield f"{_USED}| type | {' | '.join(versions)} |\n|---|{'---|' * len(versions)}\n"
    for kind in USED:
        entries = [by_key.get((kind, version)) for version in versions]
        cells = ["-" if entry is None else f"{entry.outcome} {_number(entry)}".strip() for entry in entries]
        yield f"| {kind} | {' | '.join(cells)} |\n"
    yield "\nWhat is not right on an older version:\n\n"
    for entry in found:
        if entry.kind in USED and entry.outcome != "right" and entry.transformers != versions[-1]:
            yield f"- {entry.kind}, {entry.transformers}: {entry.outcome}: {_cell(entry)}\n"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _number(entry: Outcome) -> str:
    return "" if entry.difference is None or entry.outcome != "right" else f"{entry.difference:.0e}"


def _cell(entry: Outcome) -> str:
    said = re.sub(r"\s+", " ", entry.line).replace("|", "\\|").replace("<", "&lt;").replace("error: ", "", 1)
    return " ".join(part for part in (_number(entry), said[:300]) if part)
