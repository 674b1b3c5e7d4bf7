"""The outcome of one type in `models.py`, and the page docs/models.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
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
_HEAD = """# Every image-text-to-text type of transformers

Made by `make bench-models` on transformers {transformers}, with torch {torch} and torchvision {torchvision}. For each
type, a checkpoint with random weights and a width of 32 is made, with tokenizer, processor and template. `eyechart
score` scores six rows with it. For comparison, a script that does not import eyechart runs the model's own forward pass
on the inputs of its own processor, with each row's own picture and with the donor's. The losses of a token may differ
by 1e-4 nats (5e-4 for mixtures of experts). If a refusal recommends another `--attention`, the score is repeated with
it, and the outcome is that of the second run.

| outcome | types | meaning |
|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """The result of one type."""

    kind: str
    outcome: str
    """One of `MEANINGS`."""
    line: str = ""
    """The line of a refusal or an error, or what differs."""
    difference: float | None = None
    """Largest difference of a token's loss, in nats."""
    seconds: float = 0.0


def page(found: Sequence[Outcome]) -> str:
    """Return the page."""
    versions = {name: metadata.version(name) for name in ("transformers", "torch", "torchvision")}
    counts = Counter(entry.outcome for entry in found)
    parts = [_HEAD.format(**versions)]
    parts += [f"| {name} | {counts[name]} | {text} |\n" for name, text in MEANINGS.items()]
    for name in MEANINGS:
        entries = [entry for entry in found if entry.outcome == name]
        if not entries:
            continue
        column = "largest difference in nats" if name == "right" else "line"
        parts.append(f"\n## {name.capitalize()}\n\n| type | {column} |\n|---|---|\n")
        parts += [f"| {entry.kind} | {_cell(entry)} |\n" for entry in entries]
    return "".join(parts)


def _cell(entry: Outcome) -> str:
    said = re.sub(r"\s+", " ", entry.line).replace("|", "\\|").replace("<", "&lt;").replace("error: ", "", 1)
    number = "" if entry.difference is None or entry.outcome != "right" else f"{entry.difference:.0e}"
    return " ".join(part for part in (number, said[:300]) if part)
