"""Adapts a live model (a model in memory) and the batches of its collator to the scoring interface (`eyechart.seam`).

After every call, the model's mode, weights, buffers, gradients, dtype and device are the same as before, and so are the
random generators (`unchanged`). A forward pass gets the collator's inputs without labels, and the losses of the answer
tokens are computed from its logits. A door is a way to replace the model's image features or pixels (`doors`).

The suffixes of tensor names give their dimensions: see the legend in `eyechart.seam`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from eyechart.exits import InputError
from eyechart.faults.batch_check import diagnose_batch
from eyechart.faults.batch_evidence import gather
from eyechart.faults.batch_labels import diagnose_labels
from eyechart.models.collated import Collated, RowInput, RowInputs
from eyechart.models.doors import Door, inputs_of
from eyechart.models.layout import LayoutError
from eyechart.models.live_model import LiveModel
from eyechart.results import Finding, Remark, RemarkCode
from eyechart.scoring.conditions import OF_TOKENS
from eyechart.scoring.pixels import PIXEL_CHANGES
from eyechart.scoring.samples import decoder
from eyechart.seam import Batch, Description, Grid, TokenNLL, VisualTokens, Vocabulary


class LiveScorer:
    """Implements `seam.ScorerOfBatches` for a live model and the batches of its collator."""

    def __init__(
        self,
        live: LiveModel,
        door: Door,
        sources: Sequence[Collated],
        remarks: Sequence[Remark] = (),
        together: bool = False,
    ) -> None:
        """Prepare the scorer for the rows of `sources`; other rows cannot be scored."""
        self.live, self.door, self._remarks, self._together = live, door, list(remarks), together
        self.sources = list(sources)
        self._places = {s.first_row + place: (s, place) for s in sources for place in range(s.geometry.rows)}

    def as_in_training(self) -> LiveScorer:
        """Return a faster scorer, whose `encode` processes all rows of a batch in one forward pass, as in training."""
        return LiveScorer(self.live, self.door, self.sources, self._remarks, together=True)

    @property
    def text_rows(self) -> int:
        """The number of rows that are not scored because they have no image positions."""
        return sum(not runs for source in self.sources for runs in source.geometry.runs)

    @property
    def unavailable(self) -> dict[str, RemarkCode]:
        """The conditions (replacements of the image) that are not available for these batches, with their reasons."""
        found: dict[str, RemarkCode] = {"no-image": "needs-rows", **dict.fromkeys(PIXEL_CHANGES, "needs-rows")}
        return found if self.door.slots else {**found, **dict.fromkeys(OF_TOKENS, "not-for-pixels")}

    def with_remarks(self, remarks: Sequence[Remark]) -> LiveScorer:
        """Return this scorer with remarks for the results about how it scores."""
        return LiveScorer(self.live, self.door, self.sources, remarks)

    def batch_findings(self) -> list[Finding]:
        """Return the faults that can be detected in the first batch without running the model (`faults.batch_check`).

        Faults in the labels are at most warnings here, because the labels of the batch are not used for scoring.
        """
        if not self.sources:
            return []
        source = self.sources[0]
        labels = {} if source.labels_BT is None else {"labels": source.labels_BT}
        accepted = frozenset(self.live.parameters) if "input_ids" in self.live.parameters else None
        evidence = gather({**source.inputs, **labels}, source.processor, self.live.config, accepted)
        of_labels = {found.code for found in diagnose_labels(evidence)}
        return [
            found.model_copy(update={"severity": "warning"})
            if found.code in of_labels and found.severity == "error"
            else found
            for found in diagnose_batch(evidence)
        ]

    @cached_property
    def batches(self) -> list[Batch]:
        """All rows that have image positions, as batches of the scoring interface."""
        found = []
        for source in self.sources:
            places = [place for place, runs in enumerate(source.geometry.runs) if runs]
            if places:
                found.append(source.batch([self._grid(source, p) for p in range(source.geometry.rows)]).rows(places))
        return found

    @torch.no_grad()
    def encode(self, batch: Batch) -> VisualTokens:
        """Return the visual tokens of a batch, as `Scorer.encode` requires.

        Rows are encoded one by one, so that no row can depend on another. After `as_in_training`, the rows of a batch
        are encoded together.

        Raises:
            InputError: a row has more or fewer image features than image positions.
        """
        assert isinstance(batch.inputs, RowInputs), "batches of a live model have its inputs"
        if self._together:
            return self.encode_together(batch)
        with self.live.running():
            return VisualTokens.cat([self._take(part) for part in batch.inputs.parts])

    @torch.no_grad()
    def encode_together(self, batch: Batch) -> VisualTokens:
        """Return the same as `encode`, with all rows of a collator's batch in one forward pass, as in training."""
        assert isinstance(batch.inputs, RowInputs), "batches of a live model have its inputs"
        found: dict[int, VisualTokens] = {}
        with self.live.running():
            for places in _by_source(batch.inputs.parts):
                parts = [batch.inputs.parts[place] for place in places]
                with _readable(parts):
                    found |= dict(zip(places, self.door.take_together(parts), strict=True))
        return VisualTokens.cat([found[place].map(lambda layer: layer.cpu()) for place in range(len(found))])

    @torch.no_grad()
    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        """Return the losses of the batch's labels with these visual tokens, as `Scorer.nll` requires."""
        assert visual is not None, "`no-image` is left out for batches of a collator"
        return self._scored(batch, [RowInput(*self._places[sample.row]) for sample in batch.samples], visual)

    @torch.no_grad()
    def own(self, batch: Batch, visual: VisualTokens | None) -> Tensor:
        """Return the losses [N] of the unmodified model on the batch's own pixels (`experiments.OwnLosses`).

        Visual tokens, if given, replace those that the model computes from the pixels.
        """
        assert isinstance(batch.inputs, RowInputs), "batches of a live model have its inputs"
        return self._scored(batch, batch.inputs.parts, visual).nll_N

    def describe(self) -> Description:
        """Return a description of the model and of how it is scored."""
        config, processor = self.live.config, self.sources[0].processor if self.sources else None
        tokenizer = getattr(processor, "tokenizer", processor)
        text = getattr(config, "text_config", config)
        decode = decoder(tokenizer) if hasattr(tokenizer, "decode") else None
        vocabulary = Vocabulary(decode, self._end_id(tokenizer), None, getattr(text, "vocab_size", None))
        remarks = list(self._remarks)
        if self.text_rows:
            remarks.append(Remark(code="text-only-rows", about="rows", figures={"rows": self.text_rows}))
        name = str(getattr(config, "_name_or_path", "") or type(self.live.model).__name__)
        return Description(name, {"class": type(self.live.model).__name__}, {}, vocabulary, remarks, self.door.name)

    def _end_id(self, tokenizer: Any) -> int | None:
        """Return the id of the token that ends an answer: the one that the chat template writes, otherwise EOS."""
        turns = self.sources[0].answers.turns if self.sources else None
        found = getattr(turns, "end_id", None)
        return found if found is not None else getattr(tokenizer, "eos_token_id", None)

    def _grid(self, source: Collated, place: int) -> Grid:
        return self.door.grid(source, place) if source.shows_image(place) else ()

    def _take(self, part: RowInput) -> VisualTokens:
        with _readable([part]):
            return self.door.take(part).map(lambda layer: layer.detach().cpu())

    def _scored(self, batch: Batch, parts: Sequence[RowInput], visual: VisualTokens | None) -> TokenNLL:
        found: dict[int, Tensor] = {}
        with self.live.running():
            for places in _by_source(parts):
                some = [parts[place] for place in places]
                seen = None if visual is None else visual.rows(places)
                found |= dict(zip(places, self._rows(batch, places, some, seen), strict=True))
        losses = [found[place] for place in range(len(parts))]
        return TokenNLL(torch.cat(losses), torch.tensor([len(nll_T) for nll_T in losses]))

    def _rows(
        self, batch: Batch, places: Sequence[int], parts: Sequence[RowInput], visual: VisualTokens | None
    ) -> list[Tensor]:
        """Return the losses of several rows, which all come from the same batch of the collator."""
        source = parts[0].source
        ids_BT = torch.as_tensor(source.geometry.ids_BT)[[part.place for part in parts]]
        targets_BT = torch.full_like(ids_BT, -100)
        for row, (place, part) in enumerate(zip(places, parts, strict=True)):
            positions_T = torch.from_numpy(source.positions[part.place])
            ids_BT[row, positions_T] = batch.ids_BT[place, : len(positions_T)].cpu()
            targets_BT[row, positions_T] = batch.labels_BT[place, : len(positions_T)].cpu()
        if visual is None:
            return self.live.losses({**inputs_of(parts), "input_ids": ids_BT}, targets_BT)
        with self.door.giving(parts, visual) as inputs:
            return self.live.losses({**inputs, "input_ids": ids_BT}, targets_BT)


def _by_source(parts: Sequence[RowInput]) -> list[list[int]]:
    """Return the indices of the rows in groups, one group for each batch of the collator."""
    found: dict[int, list[int]] = {}
    for place, part in enumerate(parts):
        found.setdefault(part.source.number, []).append(place)
    return list(found.values())


@contextmanager
def _readable(parts: Sequence[RowInput]) -> Iterator[None]:
    """Convert an error about the structure of image features to an `InputError` that names the rows."""
    try:
        yield
    except LayoutError as error:
        rows = ", ".join(str(part.source.first_row + part.place) for part in parts)
        raise InputError(
            f"model: its image features of row {rows} have an unexpected form: {error}",
            "leave these rows out, and check that text and pixels of a row belong together",
        ) from error
