"""The schema of results.json: what every command that measures writes, and what every page and table is rendered from.

Losses and gaps are in nats per label token unless a name says otherwise. Versioned: a reader refuses another `schema`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Literal[1] = 1

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
EXIT_CODES: dict[str, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
"""Exit code of a command that judges. 2 is bad input, 4 a bug of ours, 130 an interrupt: none reads as a verdict."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)


class Condition(_Model):
    """One condition of check 1 over all scored samples."""

    loss: float | None
    """Token-weighted mean NLL. None (null in the file) where a loss was not finite, with a reason in the verdict."""
    loss_per_caption: float | None = None
    """Mean over captions of the summed NLL, in nats per caption."""
    gate: bool = False
    """Whether the verdict depends on this condition."""
    margin: float | None = None
    """What the lower bound must exceed, for gates."""
    gap: float | None = None
    """Paired loss difference to `correct`; None for `correct` itself."""
    se: float | None = None
    """Standard error of `gap`, clustered by image; dyadic for donor conditions."""
    ci95: tuple[float, float] | None = None
    lower99: float | None = None
    """One-sided 99% lower bound of `gap`."""
    win_rate: float | None = None
    """Share of captions whose summed NLL is lower with the correct image."""
    gap_without_eos: float | None = None
    """The gap over label tokens other than EOS."""
    meaning: str = ""
    """One line: what this gap says."""


class Ablation(_Model):
    """Check 1: does the loss rise when the picture is taken away?"""

    verdict: Verdict
    reasons: list[str]
    samples: int
    """Samples scored."""
    requested: int
    """Samples asked for (`--num_samples`)."""
    label_tokens: int
    clusters: int
    """Distinct images among the scored samples."""
    seed: int
    derangements: int
    """Derangements scored for `shuffled`."""
    conditions: dict[str, Condition]
    """By name, in the order in which they were scored; `correct` first."""
    order: list[str]
    """Condition names by rising loss."""
    order_reading: str
    """Which known pattern the order resembles, in one sentence."""
    needed_samples: int | None = None
    """How many samples would decide an inconclusive gate."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Held-out rows that could not be scored, by reason."""
    wording: dict[str, str] = Field(default_factory=dict)
    """Sentences about how the conditions were made that a reader of another runbook needs."""


class Coverage(_Model):
    """Check 2: how much of the captions survives max_seq_len, and does every row teach something?"""

    verdict: Verdict
    reasons: list[str]
    source: str
    """Where the counts come from, such as `training epoch 3` or `audit of train`."""
    samples: int
    truncated_pct: float
    zero_label_pct: float
    avg_label_tokens: float
    max_seq_len: int
    smallest_max_seq_len: int
    """The smallest max_seq_len that truncates at most the allowed share."""
    wrapper_tokens: float
    """Average tokens of the prompt around the image block: what shortening the wrapper could save."""
    image_block_tokens: int
    rejected: dict[str, int] = Field(default_factory=dict)
    """Rows that could not be used, by reason."""


class Training(_Model):
    """What the run did."""

    step: int
    """Batches of `train.batch_size` samples over all ranks."""
    updates: int
    epochs: int
    train_samples: int
    eval_samples: int
    trained_parameters: int
    train_loss: float
    eval_loss: float | None
    seconds: float
    samples_per_second: float
    peak_memory_gb: float


class Finding(_Model):
    """One diagnosed fault, warning or note."""

    code: str
    severity: Literal["error", "warning", "note"]
    message: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    fix: str = ""


class WrittenCaption(_Model):
    """A held-out image with its true and its written caption."""

    row: int
    image: str
    true: str
    written: str


class Results(_Model):
    """Everything one run measured."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    verdict: Verdict
    """The worst of the checks' verdicts."""
    reasons: list[str]
    checkpoint: str | None = None
    command: str = ""
    """The command line that made this file."""
    created: str = ""
    """UTC time, ISO 8601."""
    training: Training | None = None
    ablation: Ablation | None = None
    coverage: Coverage | None = None
    """Check 2 on the training split."""
    diagnosis: list[Finding] = Field(default_factory=list)
    samples: list[WrittenCaption] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)


def worst(verdicts: list[Verdict]) -> Verdict:
    """The overall verdict: FAIL before INCONCLUSIVE before PASS. Nothing judged is INCONCLUSIVE."""
    for verdict in ("FAIL", "INCONCLUSIVE", "PASS"):
        if verdict in verdicts:
            return verdict
    return "INCONCLUSIVE"


def to_json(results: Results) -> str:
    """Serialise, with the schema's own key names and no NaN or infinity."""
    return json.dumps(results.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False, allow_nan=False)


def read(path: Path) -> Results:
    """Read a results.json.

    Raises:
        ValueError: missing, not JSON, or of another schema; the message names the file.
    """
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot read results ({error.strerror}); run `qwen3-vlm ablate` first") from error
    except ValueError as error:
        first = str(error).splitlines()
        raise ValueError(f"{path}: not a results file of schema {SCHEMA}: {' '.join(first[:3])}") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
