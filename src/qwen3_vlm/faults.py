"""The faults this package knows by name: code, how bad, and how to say it.

Each has a page, docs/faults/<code>.md: symptom, mechanism, how it is detected, how to mend, a public example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qwen3_vlm.results import Finding

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Fault:
    """One entry of the table."""

    severity: Severity
    """As a rule; those `by_share` are a warning below the config's share of rows."""
    title: str
    """What is wrong, in a few words."""
    by_share: bool = False
    synonyms: tuple[str, ...] = ()
    """Codes that the same evidence can mean where there is no reference."""


FAULTS: dict[str, Fault] = {
    "no-placeholder": Fault("error", "the text has no place for the row's image", by_share=True),
    "placeholder-count": Fault("error", "image positions and visual tokens differ in number"),
    "placeholder-in-caption": Fault("error", "an image token stands inside a caption", by_share=True),
    "placeholder-split": Fault("error", "the image block is not one id per position"),
    "placeholder-offset": Fault("error", "visual tokens land beside their positions"),
    "token-id-mismatch": Fault("error", "tokenizer and language model disagree about an id"),
    "image-truncated": Fault("error", "max_seq_len cuts into the image block"),
    "answer-truncated": Fault("error", "max_seq_len cuts captions or their end", by_share=True),
    "no-labels": Fault("error", "rows without a label token", by_share=True),
    "eos-unlabelled": Fault("error", "the end of a caption is never learnt"),
    "prompt-labelled": Fault("error", "prompt tokens carry labels"),
    "image-labelled": Fault("error", "image positions carry labels"),
    "answer-partly-labelled": Fault("error", "part of the caption carries no label"),
    "template-unstable": Fault("error", "the prompt alone is not a prefix of prompt and answer"),
    "labels-unshifted": Fault("error", "each token is predicted from itself"),
    "labels-shifted": Fault("error", "labels are off by one"),
    "pixels-unused": Fault("error", "the pixels never reach the model"),
    "not-injected": Fault("error", "visual tokens are computed and not placed", synonyms=("image-masked",)),
    "image-masked": Fault("error", "attention cannot see the image positions", synonyms=("not-injected",)),
    "image-order": Fault("error", "samples get each other's images"),
    "wrong-preprocessing": Fault("error", "pixels are not prepared as the tower was trained"),
    "tower-uninitialised": Fault("error", "frozen weights are random"),
    "frozen-moved": Fault("error", "a frozen part changed"),
    "connector-not-loaded": Fault("error", "the trained connector is not the one in use"),
    "no-gradient": Fault("error", "the connector does not move"),
    "non-finite": Fault("error", "NaN or infinity"),
    "scale-mismatch": Fault("error", "visual tokens are far larger or smaller than text embeddings"),
    "collapsed": Fault("error", "the connector's output hardly depends on the image", synonyms=("constant-prompt",)),
    "slots-dead": Fault("warning", "most visual tokens carry nothing"),
    "constant-prompt": Fault(
        "error",
        "the visual tokens act as a constant prompt",
        synonyms=("pairs-mismatched", "collapsed"),
    ),
    "pairs-mismatched": Fault("error", "captions belong to other images", synonyms=("constant-prompt",)),
    "captions-degenerate": Fault("warning", "few different captions"),
    "images-degenerate": Fault("warning", "repeated or blank images"),
    "images-unreadable": Fault("error", "images that cannot be read", by_share=True),
    "split-leak": Fault("error", "held-out images are in training"),
    "duplicate-ids": Fault("warning", "several rows share an id"),
    "eval-too-small": Fault("note", "too few samples to decide"),
    "under-trained": Fault("note", "the connector was still improving"),
    "special-token-is-eos": Fault("warning", "a delimiter of the image block reads as end of text"),
    "resume-drift": Fault("error", "the resumed run is not the run that was interrupted"),
    "older-image-block": Fault("warning", "the checkpoint was trained with another image block"),
}


def finding(code: str, message: str, fix: str, severity: Severity | None = None, **evidence: Any) -> Finding:
    """A finding of the table; `evidence` holds the numbers that the message rests on.

    Args:
        code: a key of `FAULTS`.
        message: one sentence that a reader who has nothing else understands.
        fix: what to change.
        severity: only for faults that depend on a share of rows; by default the table's.
        evidence: plain values (numbers, strings, lists of them) for results.json.
    """
    return Finding(code=code, severity=severity or FAULTS[code].severity, message=message, evidence=evidence, fix=fix)
