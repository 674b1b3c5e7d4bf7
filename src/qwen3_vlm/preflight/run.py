"""The preflight: checks some rows and one batch of a run, from the file to the gradient, without training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from eyechart.data.dataset import Dataset
from eyechart.exits import NamedInputError
from eyechart.faults.pairing import Pairing
from eyechart.faults.rows_twins import Namesakes
from eyechart.faults.table import rank
from eyechart.results import Finding
from eyechart.rows import Row as FileRow
from eyechart.scoring.batching import collate
from eyechart.seam import Batch, Reject, RejectKind, Sample
from qwen3_vlm.build import Prepared
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.content import (
    content_findings,
    length_findings,
    padding_findings,
    pixel_findings,
    twin_findings,
)
from qwen3_vlm.preflight.corpus import corpus_findings, left_findings, read_corpus
from qwen3_vlm.preflight.flow import flow_findings
from qwen3_vlm.preflight.frozen import Frozen
from qwen3_vlm.preflight.modes import dropout_findings
from qwen3_vlm.preflight.pairing import pairing_of
from qwen3_vlm.preflight.pixels import processor_settings, references
from qwen3_vlm.preflight.processor import settings_findings
from qwen3_vlm.preflight.reading import reading_findings
from qwen3_vlm.preflight.rows import findings_of_error, read_unprocessed, reject_findings, spread
from qwen3_vlm.preflight.text import Row, Tokens, not_in_front, rows_of
from qwen3_vlm.preflight.text_labels import label_findings
from qwen3_vlm.preflight.text_prompt import block_findings, template_findings, token_findings
from qwen3_vlm.preflight.view import View, view_of
from qwen3_vlm.preflight.walk import Walk
from qwen3_vlm.preflight.weights import weight_findings

# size: rows that are decoded
ROWS = 128
"""Number of rows per side of the split whose image is decoded."""
# size: files that are compared
_FILES = 20_000
"""Number of rows per side of which the text and the image file are checked without decoding the image."""
# size: samples of the batch
_BATCH = 4
"""Number of samples that go through the model."""
# size: samples at a time
_COLLATED = 16
# size: captions that are read
_READ_ALONE = 16
"""Number of captions that are scored by the language model without a picture."""

Progress = Callable[[int], AbstractContextManager[Any]]
"""Creates a progress bar for a number of steps."""


@dataclass(frozen=True)
class Preflight:
    """The result of the checks before training."""

    findings: list[Finding]
    """One finding per fault, with the most likely cause first."""
    view: View | None
    """One sample as readable text; None if no row could be read."""
    rows: int
    """Number of rows that were read with their images."""
    batch: int
    """Number of samples that went through the model."""
    pairing: Pairing | None = None
    """Whether captions match their images; not measured after an error, because features may be wrong."""

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop a training run."""
        return [f for f in self.findings if f.severity == "error"]


def preflight(prepared: Prepared, vlm: VLM, rows: int = ROWS, progress: Progress | None = None) -> Preflight:
    """Check rows of both sides of the split and one batch, with the pipeline that training uses.

    Args:
        prepared: the data of the run.
        vlm: the model, with a newly initialised or a trained connector; it is not changed.
        rows: number of evenly spaced rows of each side of the split that are read with their images.
        progress: creates a progress bar; None shows no bar.

    Returns:
        Findings and one decoded sample. Consequences of other findings are left out.

    Raises:
        ValueError: the data file or a backbone's files cannot be read.
    """
    was_training, dropping = vlm.training, dropout_findings(vlm)
    with torch.random.fork_rng(devices=[]):
        try:
            return _Flight(prepared, vlm.eval(), rows, progress).fly(dropping)
        finally:
            vlm.train(was_training)


class _Flight:
    def __init__(self, prepared: Prepared, vlm: VLM, rows: int, progress: Progress | None) -> None:
        self.prepared, self.vlm, self.rows = prepared, vlm, rows
        self.config = prepared.config
        self.tokens = Tokens(prepared.inputs.tokenizer)
        self.progress = progress
        self.moved: list[int] = []
        """Rows that the collator does not put at the left edge of their batch."""
        self.sides = (("train", prepared.train), ("eval", prepared.eval))

    def fly(self, dropping: list[Finding]) -> Preflight:
        """Run all checks; `dropping` are the findings about the mode of the model, which is in eval mode here."""
        raw = {side: self._raw(side) for side, _ in self.sides}
        found = [*dropping, *self._rejected(), *self._corpus(raw)]
        namesakes = Namesakes(raw["train"].values())
        by_side, unread = self._read(raw)
        rows = [row for rows in by_side.values() for row in rows]
        found += self._unreadable(unread, found)
        if not any(f.code == "split-leak" for f in found):
            found += twin_findings(by_side, namesakes, self.prepared.train, self.config.data.max_rejected)
        found += content_findings(rows, self.config.data.max_rejected)
        settings = processor_settings(self.prepared)
        tokens = token_findings(self.prepared, self.vlm, self.tokens)
        # With padding on the left, positions are not the ones that the text checks expect.
        labels = [] if self.moved else label_findings(rows, self.prepared, self.tokens)
        found += tokens
        found += padding_findings(self.moved, len(rows)) or template_findings(rows, self.prepared, self.tokens)
        found += length_findings(self.prepared, mostly_empty=_mostly_empty(labels))
        weights = weight_findings(self.prepared, self.vlm)
        if not weights and not tokens:
            captions = [row.raw.caption for row in rows[:_READ_ALONE]]
            weights = reading_findings(self.config.model.llm, self.vlm, self.tokens, captions)
        found += weights
        broken, frozen = {f.code for f in (*tokens, *weights) if f.severity == "error"}, Frozen(self.vlm)
        walk, blocks = (None, []) if broken or self.moved else self._walk(rows, settings)
        found += blocks
        flow = flow_findings(walk) if walk and not blocks else []
        # Random changes between calls have the same symptoms as other faults, such as a loss that depends on its batch.
        flow = frozen.findings("between the calls of the preflight") or flow
        # Labels that are shifted in the data and shifted back in the loss are correct. The check of the loss decides.
        if walk and not blocks and (not flow or flow[0].code in ("labels-shifted", "labels-unshifted")):
            labels = [f for f in labels if f.code != "labels-shifted"]
        found += [*labels, *(f for f in flow if f.code not in {other.code for other in found + labels})]
        if not any(f.code in ("wrong-preprocessing", "image-order", "pixels-unused") for f in found):
            found += pixel_findings(rows, self.prepared, settings)
        if not any(f.code == "wrong-preprocessing" for f in found):
            samples = [row.sample for row in by_side["train"]]
            found += settings_findings(self.prepared, settings, self.vlm, samples)
        found += left_findings(self.prepared.split)
        shown = next((row for row in rows if row.targets), rows[0] if rows else None)
        view = view_of(shown, self.vlm.patch_id, self.tokens) if shown else None
        batch = len(walk.batch) if walk else 0
        return Preflight(rank(found), view, len(rows) + len(unread), batch, self._pairing(by_side, found))

    def _raw(self, side: str) -> dict[int, FileRow]:
        """Return rows of one side as they are in the file."""
        wanted = getattr(self.prepared.split, side)
        data = self.config.data
        file = data.eval_json if side == "eval" and data.eval_json else data.json_file
        positions = spread(_FILES, len(wanted))
        return read_unprocessed(data, Path(file), sorted({wanted[p] for p in positions} | self._chosen(side)))

    def _chosen(self, side: str) -> set[int]:
        """Return the rows of one side whose images are decoded."""
        dataset: Dataset = getattr(self.prepared, side)
        usable = dataset.rows
        return {usable[p] for p in spread(self.rows, len(usable))}

    def _rejected(self) -> list[Finding]:
        rejects = [r for side, _ in self.sides for r in self.prepared.rejects[side]]
        total = len(self.prepared.split.train) + len(self.prepared.split.eval)
        return reject_findings(rejects, total, self.config)

    def _corpus(self, raw: dict[str, dict[int, FileRow]]) -> list[Finding]:
        train, held_out = (list(raw[side].values()) for side, _ in self.sides)
        corpus = read_corpus(train, held_out, Path(self.config.data.image_root))
        return corpus_findings(corpus, self.prepared)

    def _read(self, raw: dict[str, dict[int, FileRow]]) -> tuple[dict[str, list[Row]], list[Reject]]:
        """Read the chosen rows of both sides with the data set and the collator."""
        rows: dict[str, list[Row]] = {side: [] for side, _ in self.sides}
        unread: list[Reject] = []
        chosen = [(side, dataset, spread(self.rows, len(dataset))) for side, dataset in self.sides]
        bar = self.progress(sum(len(p) for _, _, p in chosen)) if self.progress else None
        with bar or tqdm(disable=True) as shown:
            for side, dataset, positions in chosen:
                for start in range(0, len(positions), _COLLATED):
                    part = positions[start : start + _COLLATED]
                    batch = collate([dataset[p] for p in part], self.prepared.inputs.pad_id)
                    unread += batch.rejects
                    self.moved += not_in_front(batch)
                    rows[side] += rows_of(batch, raw[side], self.tokens, self.config.data.max_seq_len)
                    shown.update(len(part))
        return rows, unread

    def _pairing(self, rows: dict[str, list[Row]], found: list[Finding]) -> Pairing | None:
        if any(f.severity == "error" for f in found):
            return None
        train, held_out = ([row.sample for row in rows[side]] for side, _ in self.sides)
        return pairing_of(train, held_out, self.vlm, self.prepared.inputs.pad_id, self.config.seed)

    def _unreadable(self, unread: list[Reject], found: list[Finding]) -> list[Finding]:
        """Report images that cannot be opened. Missing files have already been counted over more rows."""
        counted = any(f.code == "images-unreadable" for f in found)
        rest = [r for r in unread if r.kind is not RejectKind.NO_FILE] if counted else unread
        total = sum(len(spread(self.rows, len(dataset))) for _, dataset in self.sides)
        return reject_findings(rest, total, self.config, sampled=True)

    def _walk(self, rows: list[Row], settings: dict[str, Any]) -> tuple[Walk | None, list[Finding]]:
        """Make a batch for the model from samples with different images and captions.

        Returns:
            The batch, or None if there is none, and the findings about its image block.
        """
        distinct: dict[str, Sample] = {}
        captions: set[str] = set()
        for row in rows:
            if row.sample.image_hash not in distinct and (row.raw.caption not in captions or len(rows) < _BATCH):
                distinct[row.sample.image_hash] = row.sample
                captions.add(row.raw.caption)
        samples = list(distinct.values())[:_BATCH]
        if not samples:
            return None, []
        batch = collate(samples, self.prepared.inputs.pad_id)
        by_row = {id(row.sample): row for row in rows}
        chosen = rows_of(batch, {s.row: by_row[id(s)].raw for s in samples}, self.tokens, self.config.data.max_seq_len)
        latents = self._latents(batch)
        found = block_findings(rows, self.prepared, self.vlm, self.tokens, latents)
        readings = references([row.raw for row in chosen], self.prepared, settings)
        walk = Walk(self.vlm, batch, chosen, readings, self.prepared.inputs.pad_id, latents)
        if found:
            return walk, found
        try:
            walk.nll(walk.noise(0, 1.0))
        except NamedInputError as error:
            return walk, findings_of_error(error, self.config)
        return walk, []

    @torch.no_grad()
    def _latents(self, batch: Batch) -> int:
        """Return the number of visual tokens per image that the connector actually produces."""
        return int(self.vlm.visual(self.vlm.features(batch)).shape[1])


def _mostly_empty(labels: list[Finding]) -> bool:
    return any(f.code == "no-labels" and f.evidence["rows"] > 0.5 * f.evidence["of"] for f in labels)
