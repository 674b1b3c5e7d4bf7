"""What reaches the model? Small experiments on the scoring seam with a handful of samples.

Each changes one thing that goes in and looks which losses or visual tokens change:

    pixels of image i        -> the visual tokens of sample i, and of no other
    visual tokens of row i   -> the losses of row i, and of no other
    visual tokens of slot q  -> some loss
    all visual tokens to NaN -> every loss is NaN (also where a mask hides them: 0 * NaN is NaN)
    the token beside a block -> some loss: otherwise something was written over it
    the input token at a label position -> the losses behind it, and not its own: that would be copying
    the label at a position  -> its own loss, and no other

No loss has to be good for this, so the answers are the same for a trained and an untrained connector. They are read
in `diagnosis`. Dimension suffixes as in `batch`; S visual slots of one image (Q of ours).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eyechart.faults.changed_batches import (
    random_like,
    retold,
    select,
    with_noise_image,
    with_row,
    with_slot,
    without_images,
)
from eyechart.faults.label_text import MIN_LABELS, alignment_of, answers_in_prompt
from eyechart.seam import IGNORE_INDEX, Batch, ScorerOfBatches, VisualTokens

Routes = tuple[tuple[int, ...], ...]
"""For each row that was changed, the rows in which something changed; `((0,), (1,))` is as it should be."""

_ROWS = 4
_SLOTS = 16
_FAINT = 1e-3
"""A change below this share of the largest one is rounding."""
_RESTLESS = 0.01
"""Relative difference between two equal calls that no order of summation explains."""


@dataclass(frozen=True)
class Probes:
    """What was seen."""

    rows: tuple[int, ...]
    """Data file rows of the samples that were tried."""
    finite: bool
    """Whether all visual tokens are."""
    encode_routes: Routes | None
    """By changed image: None where the batch has neither pixels nor features to change."""
    foreign_pixels: tuple[int, ...]
    """Places in the batch whose pixels are not those of the sample that stands there."""
    score_routes: Routes
    """By row with changed visual tokens."""
    unplaced_slots: tuple[int, ...]
    """Visual tokens of an image that change no loss."""
    tried_slots: int
    nan_share: float
    """Share of the label tokens whose loss is NaN when every visual token is."""
    overwritten: tuple[str, ...]
    """Tokens beside the image positions that change no loss."""
    horizon: int | None
    """How far ahead of its last visible input token a label's own token stands: 1 is next-token prediction, 0 means
    the token is predicted from itself, below 0 that later tokens are seen. None without enough label tokens."""
    reach: int | None
    """Losses until the first that a changed input token changes; 1 as it should be."""
    alignment: int | None
    """labels[t] is ids[t + alignment]; 0 as it should be. None where no shift fits."""
    alone: float
    """Mean difference of a label token's loss between its batch and alone, nats."""
    answers_in_prompt: float
    """Share of the samples whose caption, whole or nearly all of its tokens, already stands before its labels."""
    restless: tuple[str, ...] = ()
    """What differs between two equal calls by more than rounding: the visual tokens, the losses, or both."""


@torch.no_grad()
def probe(scorer: ScorerOfBatches, batch: Batch, seed: int = 0) -> Probes:
    """Run all experiments on the first few samples of a batch that have label tokens.

    About 40 forward passes of four samples. Nothing is trained and nothing is kept.

    Args:
        scorer: the model, behind the seam.
        batch: samples with their images, at least one with label tokens.
        seed: draws the replacements.

    Raises:
        ValueError: no sample of the batch has a label token.
    """
    labelled_B = (batch.labels_BT != IGNORE_INDEX).any(dim=1)
    places = labelled_B.nonzero()[:_ROWS, 0].tolist()
    if not places:
        raise ValueError("probing needs a sample with label tokens, and none of this batch has any")
    generator = torch.Generator().manual_seed(seed)
    few = select(batch, places)
    visual = scorer.encode(few).map(lambda layer: layer.detach().float().cpu())
    drawn = random_like(visual, generator)
    text = without_images(few)
    bench = _Bench(scorer, text, drawn, generator)
    reach, target, alignment = bench.reach(), bench.target(), alignment_of(text)
    known = reach is not None and target is not None and alignment is not None
    unplaced, tried = bench.unplaced_slots()
    return Probes(
        rows=tuple(s.row for s in few.samples),
        finite=all(bool(torch.isfinite(layer).all()) for layer in visual.layers),
        encode_routes=_encode_routes(scorer, few, visual, generator),
        foreign_pixels=_foreign_pixels(few),
        score_routes=bench.routes(),
        unplaced_slots=unplaced,
        tried_slots=tried,
        nan_share=bench.nan_share(),
        overwritten=bench.overwritten(),
        horizon=alignment - target + reach if known else None,  # type: ignore[operator]  # `known` says that none is None
        reach=reach,
        alignment=alignment,
        alone=bench.alone(),
        answers_in_prompt=answers_in_prompt(text),
        restless=_restless(scorer, few, visual, bench),
    )


class _Bench:
    """The experiments on the scoring half, around one undisturbed scoring with drawn visual tokens."""

    def __init__(self, scorer: ScorerOfBatches, text: Batch, visual: VisualTokens, generator: torch.Generator) -> None:
        self.scorer, self.text, self.visual, self.generator = scorer, text, visual, generator
        self.base = self._nll(text, visual)
        self.labels = [(row_T != IGNORE_INDEX).nonzero()[:, 0].tolist() for row_T in text.labels_BT]
        self.words = sorted(set(text.labels_BT[text.labels_BT != IGNORE_INDEX].tolist()))

    def _nll(self, text: Batch, visual: VisualTokens) -> list[Tensor]:
        return [nll_T.detach().float().cpu() for nll_T in self.scorer.nll(text, visual).per_sample()]

    def again(self) -> list[Tensor]:
        """The undisturbed scoring, a second time."""
        return self._nll(self.text, self.visual)

    def routes(self) -> Routes:
        other = random_like(self.visual, self.generator)
        found = []
        for row in range(len(self.base)):
            mixed = VisualTokens(
                tuple(with_row(a, b, row) for a, b in zip(self.visual.layers, other.layers, strict=True))
            )
            found.append(_changed_rows(self.base, self._nll(self.text, mixed)))
        return tuple(found)

    def unplaced_slots(self) -> tuple[tuple[int, ...], int]:
        slots = self.visual.layers[0].shape[1]
        tried = sorted({round(i * (slots - 1) / max(1, min(slots, _SLOTS) - 1)) for i in range(min(slots, _SLOTS))})
        other = random_like(self.visual, self.generator)
        silent = []
        for slot in tried:
            mixed = VisualTokens(
                tuple(with_slot(a, b, slot) for a, b in zip(self.visual.layers, other.layers, strict=True))
            )
            if not _changed_rows(self.base, self._nll(self.text, mixed)):
                silent.append(slot)
        return tuple(silent), len(tried)

    def nan_share(self) -> float:
        lost = torch.cat(self._nll(self.text, self.visual.map(lambda layer: torch.full_like(layer, torch.nan))))
        return float(lost.isnan().float().mean())

    def overwritten(self) -> tuple[str, ...]:
        """Tokens at the edges of the block and right beside it that nothing reads."""
        if len(self.words) < 2:
            return ()
        beside = {
            "before the block": (0, -1),
            "first of the block": (0, 0),
            "last of the block": (1, 0),
            "behind the block": (1, 1),
        }
        return tuple(name for name, (edge, step) in beside.items() if self._unread(edge, step))

    def _unread(self, edge: int, step: int) -> bool:
        changes = {}
        for row, block_T in enumerate(self.text.block_BT):
            inside = block_T.nonzero()[:, 0].tolist()
            if not inside:
                continue
            place = (inside[-1] if edge else inside[0]) + step
            if step == 0 and not _is_delimiter(self.text.ids_BT[row, inside].tolist(), -1 if edge else 0):
                continue
            if 0 <= place < self.labels[row][-1]:
                changes[row] = place
        if not changes:
            return False
        # Two words in its place: one of them may have the very embedding of what it replaces, as EOS has where the
        # delimiters are copies of it.
        for words in (self.words, self.words[::-1]):
            other = self._nll(self._with_ids(changes, words), self.visual)
            if any(not torch.equal(self.base[row], other[row]) for row in changes):
                return False
        return True

    def reach(self) -> int | None:
        """Losses between a changed input token and the first loss that changes; 1 as it should be."""
        middle = self._middle()
        other = (
            self._nll(self._with_ids({row: self.labels[row][m] for row, m in middle.items()}), self.visual)
            if middle
            else []
        )
        return _most_common(
            [found[0] - m for row, m in middle.items() if (found := _changed(self.base[row], other[row]))]
        )

    def target(self) -> int | None:
        """Losses between a changed label and the loss that changes; 0 as it should be."""
        middle = self._middle()
        if not middle:
            return None
        labels_BT = self.text.labels_BT.clone()
        for row, m in middle.items():
            labels_BT[row, self.labels[row][m]] = self._other(int(labels_BT[row, self.labels[row][m]]), self.words)
        other = self._nll(retold(self.text, self.text.ids_BT, labels_BT), self.visual)
        return _most_common(
            [found[0] - m for row, m in middle.items() if (found := _changed(self.base[row], other[row]))]
        )

    def alone(self) -> float:
        differences = []
        for row, in_batch_T in enumerate(self.base):
            single = self._nll(select(self.text, [row]), self.visual.rows([row]))[0]
            differences.append((single - in_batch_T).abs())
        return float(torch.cat(differences).mean())

    def _middle(self) -> dict[int, int]:
        if len(self.words) < 2:
            return {}  # there is no other word to put in
        return {row: len(places) // 2 for row, places in enumerate(self.labels) if len(places) >= MIN_LABELS}

    def _with_ids(self, changes: dict[int, int], words: Sequence[int] | None = None) -> Batch:
        """Other ids at these places: words of these captions, ids that the model knows and that mark no image."""
        ids_BT = self.text.ids_BT.clone()
        for row, place in changes.items():
            ids_BT[row, place] = self._other(int(ids_BT[row, place]), words or self.words)
        return retold(self.text, ids_BT, self.text.labels_BT)

    @staticmethod
    def _other(token: int, words: Sequence[int]) -> int:
        return next((word for word in words if word != token), token)


def _is_delimiter(block: list[int], end: int) -> bool:
    """Whether a block of ids has a delimiter at this end (0 or -1): models without any begin with an image position."""
    return len(block) > 1 and block[end] != block[1 if end == 0 else -2]


def _encode_routes(
    scorer: ScorerOfBatches, few: Batch, visual: VisualTokens, generator: torch.Generator
) -> Routes | None:
    if few.pixels_BCHW is None and few.features_BPV is None:
        return None
    whole = [torch.cat([layer[row].flatten() for layer in visual.layers]) for row in range(len(visual))]
    found = []
    for row in range(len(visual)):
        again = scorer.encode(with_noise_image(few, row, generator)).map(lambda layer: layer.detach().float().cpu())
        other = [torch.cat([layer[i].flatten() for layer in again.layers]) for i in range(len(again))]
        found.append(_changed_rows(whole, other))
    return tuple(found)


def _foreign_pixels(few: Batch) -> tuple[int, ...]:
    if few.pixels_BCHW is None:
        return ()
    return tuple(
        i
        for i, (sample, pixels_CHW) in enumerate(zip(few.samples, few.pixels_BCHW, strict=False))
        if sample.pixels_CHW is not None and not torch.equal(sample.pixels_CHW.to(pixels_CHW), pixels_CHW)
    )


def _restless(scorer: ScorerOfBatches, few: Batch, visual: VisualTokens, bench: _Bench) -> tuple[str, ...]:
    again = scorer.encode(few).map(lambda layer: layer.detach().float().cpu())
    seen = {
        "visual tokens": list(zip(visual.layers, again.layers, strict=True)),
        "losses": list(zip(bench.base, bench.again(), strict=True)),
    }
    return tuple(
        name
        for name, pairs in seen.items()
        if any(float((a - b).norm()) > _RESTLESS * float(a.norm()) for a, b in pairs)
    )


def _changed(before_T: Tensor, after_T: Tensor) -> list[int]:
    """Where two rows of numbers differ by more than rounding."""
    difference_T = (before_T - after_T).abs().nan_to_num(nan=float("inf"))
    largest = float(difference_T.max()) if len(difference_T) else 0.0
    if largest == 0:
        return []
    return (difference_T > _FAINT * min(largest, 1e30)).nonzero()[:, 0].tolist()


def _changed_rows(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[int, ...]:
    largest_B = torch.stack(
        [(a - b).abs().nan_to_num(nan=float("inf")).max() for a, b in zip(before, after, strict=True)]
    )
    return tuple(_changed(torch.zeros_like(largest_B), largest_B))


def _most_common(values: Sequence[int]) -> int | None:
    return Counter(values).most_common(1)[0][0] if values else None
