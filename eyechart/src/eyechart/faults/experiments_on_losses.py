"""The experiments on the second half of the scoring interface: from visual tokens, input ids and labels to losses.

Their purpose is described in `experiments`, which also has the classes of their results. Dimension suffixes as in
`seam`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from eyechart.faults.changes import random_like, select, with_rows, with_slots, with_text
from eyechart.faults.experiments import SlotRoutes, TextRoutes, TokenRoutes, changed, changed_rows, repeated
from eyechart.faults.label_text import alignment_of, label_places
from eyechart.seam import IGNORE_INDEX, Batch, ScorerOfBatches, VisualTokens

# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_CERTAIN = 1e-3
"""Loss in nats below which a token is so likely that its loss may stay the same although its input changes."""
# size: slots that are tested one by one
_SLOTS = 16


class LossRoute:
    """A few samples with known losses, and experiments that find out which inputs change them."""

    def __init__(self, scorer: ScorerOfBatches, text: Batch, visual: VisualTokens, seed: int = 0) -> None:
        """Score the samples once.

        Args:
            scorer: the model, adapted to the scoring interface.
            text: a few samples without images, each with at least one label token.
            visual: one row of randomly drawn visual tokens per sample, because real ones may be too similar.
            seed: seed for the random replacements.
        """
        self._scorer, self._text, self._visual = scorer, text, visual
        self._other = random_like(visual, torch.Generator().manual_seed(seed))
        self._base = self._nll(text, visual)
        rows = zip(text.labels_BT, self._base, strict=True)
        self._labels = [label_places(labels_T, len(losses_T)) for labels_T, losses_T in rows]
        outside_BT = text.attention_BT.cpu() & ~text.block_BT
        words = set(text.ids_BT[outside_BT & (text.labels_BT != IGNORE_INDEX)].tolist())
        words = words if len(words) > 1 else set(text.ids_BT[outside_BT].tolist())
        self._words = sorted(words - set(text.ids_BT[text.block_BT].tolist()))
        """Ids that occur in the samples and do not mark an image."""

    @torch.no_grad()
    def _nll(self, text: Batch, visual: VisualTokens | None = None) -> list[Tensor]:
        scored = self._scorer.nll(text, visual or self._visual)
        return [nll_T.detach().float().cpu() for nll_T in scored.per_sample()]

    def tokens(self, alone: Sequence[Batch] | None = None) -> TokenRoutes:
        """Change the visual tokens row by row, set all of them to NaN, and score each sample alone.

        Args:
            alone: each sample as a separate batch; by default, the samples are taken from this batch.
        """
        rows = range(len(self._base))
        singles = alone or [select(self._text, [row]) for row in rows]
        by_depth = self.labels_despite_nan()
        numbers, labels = max(by_depth)
        own_rows = [self._nll(single, self._visual.rows([row]))[0] for row, single in enumerate(singles)]
        return TokenRoutes(
            loss=float(torch.cat(self._base).mean()),
            labels=labels,
            numbers=numbers,
            unread_depths=tuple(depth for depth, (left, _) in enumerate(by_depth) if left == labels),
            repeated=repeated(self._base, self._nll(self._text)),
            by_row=tuple(
                changed_rows(self._base, self._nll(self._text, with_rows(self._visual, self._other, [row])))
                for row in rows
            ),
            alone=float(torch.cat([*map(_apart, own_rows, self._base)]).mean()),
        )

    def labels_despite_nan(self) -> list[tuple[int, int]]:
        """Write NaN into the visual tokens of one depth after the other.

        Returns:
            For each depth, the number of losses that are still numbers, and the number of losses.
        """
        found = []
        for depth in range(len(self._visual.layers)):
            layers = list(self._visual.layers)
            layers[depth] = torch.full_like(layers[depth], torch.nan)
            lost_N = torch.cat(self._nll(self._text, replace(self._visual, layers=tuple(layers))))
            found.append((int((~lost_N.isnan()).sum()), len(lost_N)))
        return found

    def slots(self) -> SlotRoutes:
        """Change the visual tokens slot by slot, and the text tokens at the edges of the image block."""
        slots = self._visual.layers[0].shape[1]
        tried = sorted({round(i * (slots - 1) / max(1, min(slots, _SLOTS) - 1)) for i in range(min(slots, _SLOTS))})
        unplaced = tuple(
            slot
            for slot in tried
            if not changed_rows(self._base, self._nll(self._text, with_slots(self._visual, self._other, [slot])))
        )
        beside = {
            "before the block": (0, -1),
            "first of the block": (0, 0),
            "last of the block": (1, 0),
            "after the block": (1, 1),
        }
        unread = (name for name, (edge, step) in beside.items() if self._unread(edge, step))
        return SlotRoutes(unplaced, len(tried), tuple(unread) if len(self._words) > 1 else ())

    def text(self) -> TextRoutes:
        """Change the input tokens of the second half of each caption, and then the label in the caption's middle."""
        middle = self._middle() if all(bool(nll_T.isfinite().all()) for nll_T in self._base) else {}
        inputs = {row: self._outside(row)[self._outside(row).index(m) :] for row, m in middle.items()}
        other = self._nll(self._with_ids({row: [self._labels[row][m] for m in ms] for row, ms in inputs.items()}))
        labels_BT = self._text.labels_BT.clone()
        for row, m in middle.items():
            place = self._labels[row][m]
            labels_BT[row, place] = _another(int(labels_BT[row, place]), self._words)
        relabelled = self._nll(with_text(self._text, self._text.ids_BT, labels_BT))
        ahead = [(other[row] - self._base[row])[: m + 1].abs() for row, m in middle.items()]
        return TextRoutes(
            reach=self._first_change(middle, other),
            target=self._first_change(middle, relabelled),
            alignment=alignment_of(self._text),
            look_ahead=float(torch.cat(ahead).max()) if ahead else 0.0,
        )

    def _outside(self, row: int) -> list[int]:
        """Return the indices of a row's losses whose tokens are outside the image block."""
        return [i for i, place in enumerate(self._labels[row]) if not bool(self._text.block_BT[row, place])]

    def _middle(self) -> dict[int, int]:
        """Return, by row, the index of the middle loss among those outside the image block."""
        if len(self._words) < 2:
            return {}  # there is no other word to use as a replacement
        outside = {row: self._outside(row) for row in range(len(self._base))}
        return {row: indices[len(indices) // 2] for row, indices in outside.items() if indices}

    def _first_change(self, middle: dict[int, int], after: list[Tensor]) -> int | None:
        """Return the distance from the middle loss to the first loss that changed, as found in most rows."""
        found = Counter(
            where[0] - m
            for row, m in middle.items()
            if (where := changed(self._base[row], after[row]))
            and not self._saturated(row, after, range(m + 1, where[0]))
        )
        return found.most_common(1)[0][0] if found else None

    def _saturated(self, row: int, after: list[Tensor], skipped: range) -> bool:
        """Return whether a loss that should have changed is almost 0 before and after, and so cannot show a change."""
        return any(float(max(self._base[row][i], after[row][i])) < _CERTAIN for i in skipped)

    def _unread(self, edge: int, step: int) -> bool:
        """Return whether changing the token `step` positions outside an edge (0 or 1) of the block changes no loss."""
        changes = {}
        for row, block_T in enumerate(self._text.block_BT):
            inside = block_T.nonzero()[:, 0].tolist()
            if not inside or not self._labels[row]:
                continue
            place = (inside[-1] if edge else inside[0]) + step
            if step == 0 and not is_delimiter(self._text.ids_BT[row, inside].tolist(), -1 if edge else 0):
                continue
            if 0 <= place < self._labels[row][-1]:
                changes[row] = [place]
        if not changes:
            return False
        # Two replacements are tried: one of them may have the same embedding as the token that it replaces, such as
        # EOS if the delimiters are copies of it.
        for words in (self._words, self._words[::-1]):
            other = self._nll(self._with_ids(changes, words))
            if any(not torch.equal(self._base[row], other[row]) for row in changes):
                return False
        return True

    def _with_ids(self, changes: dict[int, list[int]], words: Sequence[int] | None = None) -> Batch:
        """Return the batch with other ids at these positions of these rows."""
        ids_BT = self._text.ids_BT.clone()
        for row, places in changes.items():
            for place in places:
                ids_BT[row, place] = _another(int(ids_BT[row, place]), words or self._words)
        return with_text(self._text, ids_BT, self._text.labels_BT)


def is_delimiter(block: list[int], end: int) -> bool:
    """Return whether a block of ids has a delimiter at this end (0 or -1), and not an image position."""
    return len(block) > 1 and block[end] != block[1 if end == 0 else -2]


def _another(token: int, words: Sequence[int]) -> int:
    return next((word for word in words if word != token), token)


def _apart(alone_T: Tensor, together_T: Tensor) -> Tensor:
    """Return how much each loss of a row differs alone and in the batch; the mean if their numbers differ."""
    if alone_T.shape == together_T.shape:
        return (alone_T - together_T).abs()
    return (alone_T.sum() - together_T.sum()).abs()[None] / max(1, len(alone_T))
