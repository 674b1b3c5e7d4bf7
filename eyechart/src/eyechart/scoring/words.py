"""Computes how much each word of the captions relies on the picture.

    gap of a token = nll(shuffled) - nll(correct), averaged over the derangements
    gap of a word  = sum of the gaps of its tokens

`correct` is the loss with the right picture. Under `shuffled`, every sample gets the picture of another sample; each
such assignment is a derangement.

Under teacher forcing, later words can be guessed from earlier ones: after "a black and white ...", "cow" is likely even
without the picture. The gaps of late words therefore understate how much these words rely on the picture. The first
content word of a caption cannot be guessed in this way.

Content words are found without language-specific word lists. The most frequent words that together make up a third of
all words of the scored captions count as glue, that is, as words without content ("a", "of", "on"). The first content
word of a caption is its first word that is not glue.

Dimension suffixes: S captions, T label tokens of one caption, R derangements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from eyechart.results import Estimated, WordGap, Words
from eyechart.scoring.summary import SampleScore
from eyechart.scoring.word_pieces import Decode, Span, gaps_of, spans_of
from eyechart.seam import IntArray
from eyechart.settings import AblationSettings
from eyechart.verdict.pair_statistics import as_result
from eyechart.verdict.statistics import FloatArray, Pairs, clusters_of

GLUE_SHARE = 1 / 3
"""The most frequent words that together make up this share of all words of the scored captions count as glue."""
_LISTED = 20


@dataclass
class _Tally:
    """Sums over all scored captions, computed in one pass.

    Only the pieces of the captions are stored, and equal pieces only once.
    """

    spans: list[tuple[Span, ...]] = field(default_factory=list)
    words: dict[str, tuple[int, float]] = field(default_factory=dict)
    """For each word, its number of occurrences and the sum of its gaps in nats."""
    tokens: int = 0
    total: float = 0.0
    """Sum of the gaps of all label tokens, averaged over derangements."""
    known: dict[Span, Span] = field(default_factory=dict)

    def add(self, spans: Sequence[Span], gaps_TR: FloatArray) -> None:
        """Add the words and the gaps of one caption."""
        self.spans.append(tuple(self.known.setdefault(span, span) for span in spans))
        for span in spans:
            count, total = self.words.get(span.word, (0, 0.0))
            gap = float(gaps_TR[span.first : span.stop].sum(axis=0).mean())
            self.words[span.word] = (count + 1, total + gap)
        self.tokens += len(gaps_TR)
        self.total += float(gaps_TR.mean(axis=1).sum())

    def table(self, sure: bool) -> list[WordGap]:
        """Return the mean gap of every word, including punctuation and emoji.

        EOS is not listed as a word, but its gap is part of the total.
        """
        return [
            WordGap(word=word, count=count, gap=gap / count, share=gap / self.total if sure else None)
            for word, (count, gap) in self.words.items()
        ]


def words_of(
    scores: Sequence[SampleScore], decode: Decode, eos_id: int | None, settings: AblationSettings, sure: bool
) -> Words | None:
    """Compute the gaps of words from the gaps of their tokens, over all scored captions.

    Args:
        scores: scored samples with the conditions `correct` and `shuffled`.
        decode: converts token ids to text and keeps special tokens and all spaces.
        eos_id: id of the token that ends a caption.
        settings: settings of check 1, of which `words_min_count` is used.
        sure: whether the gap of `shuffled` is above 0 with 99% confidence; if not, no shares are computed.

    Returns:
        The tables; None if `shuffled` was not scored or a loss is not finite, which the verdict of check 1 reports.
    """
    if not scores or any("shuffled" not in score.nll for score in scores):
        return None
    tally = _Tally()
    hashes, donors = [], []
    ends_SR = np.full((len(scores), len(scores[0].donors)), np.nan)
    firsts_SR = np.full_like(ends_SR, np.nan)
    for i, score in enumerate(scores):
        spans, has_end = spans_of(score.label_ids_T.tolist(), decode, eos_id)
        gaps_TR = gaps_of(score)
        if not np.isfinite(gaps_TR).all():
            return None
        tally.add(spans, gaps_TR)
        if has_end:
            ends_SR[i] = gaps_TR[-1]
        hashes.append(score.image_hash)
        donors.append(score.donors)
    contents = first_content_words(tally.spans)
    for i, span in enumerate(contents):
        if span is not None:
            firsts_SR[i] = gaps_of(scores[i])[span.first : span.stop].sum(axis=0)
    clusters_S, donors_SR = clusters_of(hashes), np.array(donors, dtype=np.int64)
    table = tally.table(sure)
    listed = [word for word in table if word.count >= settings.words_min_count]
    closing_SR = ends_SR[np.isfinite(ends_SR).all(axis=1)]
    others = tally.tokens - len(closing_SR)
    return Words(
        most_reliant=sorted(listed, key=lambda word: (-word.gap, word.word))[:_LISTED],
        least_reliant=sorted(listed, key=lambda word: (word.gap, word.word))[:_LISTED],
        largest_share=sorted(table, key=lambda word: (-word.gap * word.count, word.word))[:_LISTED],
        min_count=settings.words_min_count,
        distinct_words=len(table),
        first_content_word=_mean(firsts_SR, clusters_S, donors_SR),
        eos=_mean(ends_SR, clusters_S, donors_SR),
        gap_with_eos=tally.total / tally.tokens,
        gap_without_eos=(tally.total - float(closing_SR.mean(axis=1).sum())) / others if others else None,
        captions=len(contents),
        without_content_word=sum(span is None for span in contents),
        half_of_gap=_smallest_half(table),
    )


def first_content_words(captions: Sequence[Sequence[Span]]) -> list[Span | None]:
    """Return the first content word of each caption (the first that is not glue), or None if all words are glue."""
    counts = Counter(span.word for spans in captions for span in spans if span.has_word)
    glue, seen = set(), 0
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if seen >= GLUE_SHARE * counts.total():
            break
        glue.add(word)
        seen += count
    return [next((span for span in spans if span.has_word and span.word not in glue), None) for spans in captions]


def _mean(gaps_SR: FloatArray, clusters_S: IntArray, donors_SR: IntArray) -> Estimated:
    """Return the mean gap over captions, each with R donors; captions with a gap of nan are left out."""
    chosen = np.flatnonzero(np.isfinite(gaps_SR).all(axis=1))
    if not len(chosen):
        return Estimated(value=None)
    own_P = np.repeat(clusters_S[chosen], donors_SR.shape[1])
    donor_P = clusters_S[donors_SR[chosen]].ravel()
    return as_result(Pairs(gaps_SR[chosen].ravel(), np.ones_like(own_P), own_P, donor_P).estimate())


def _smallest_half(table: Sequence[WordGap]) -> int | None:
    """Return the smallest number of words that together account for half of the total gap."""
    seen = 0.0
    shares = sorted((word.share for word in table if word.share is not None), reverse=True)
    for count, share in enumerate(shares, start=1):
        seen += share
        if seen >= 0.5:
            return count
    return None
