"""Defines the terms that report.html uses. The page contains these texts, and docs/report.md repeats them."""

from __future__ import annotations

from typing import NamedTuple


class Definition(NamedTuple):
    """The definition of one term, with its title and a paragraph of text."""

    title: str
    text: str


DEFINITIONS: dict[str, Definition] = {
    "loss": Definition(
        "Loss of a condition",
        "The caption is given to the language model word for word (teacher forcing), and the negative "
        "log-likelihood of its tokens is summed over all scored captions and divided by their number of label "
        "tokens, the end token included. The unit is nats per label token. This depends on the tokenizer, so nats per "
        "caption are also reported. A condition defines what is in the image positions: the right picture "
        "(correct), another sample's picture (shuffled), zeros, noise, and so on.",
    ),
    "gap": Definition(
        "Gap",
        "Loss under a condition minus loss with the right picture, for the same captions. If the gap is above 0, the "
        "right picture made the captions likelier. Only the gap of shuffled tests what is in the picture: a connector "
        "whose output is the same for every picture can have large gaps of zero and noise, but its gap of shuffled is "
        "0.",
    ),
    "interval": Definition(
        "Interval and bounds",
        "95% intervals come from paired differences per caption, summed by image, with Student's t. For shuffled "
        "each image takes part twice, as the right picture and as a wrong one, which the standard error takes into "
        "account. "
        "The lower bound that the verdict uses is one-sided: with 99% confidence, the gap is above it. An interval "
        "drawn around a loss is the interval of its gap. The figure after +- is the standard error.",
    ),
    "unigram": Definition(
        "Loss of a unigram (check 0)",
        "The loss of a predictor that knows only how often each token occurs in the training captions, with one "
        "added to every count. Without training captions, the scored captions of other images are counted. A "
        "model that reads the captions has a lower loss than this predictor, with 99% confidence, with the right "
        "picture or without any. Otherwise the language model has the wrong tokenizer or never learnt such text, "
        "and there is no PASS.",
    ),
    "own-better": Definition(
        "Own better",
        "Share of captions whose summed loss is lower with their own picture than under the condition; for shuffled, "
        "of all pairs of a caption and a wrong picture. Ties do not count. This share shows how often the picture "
        "helps; the gap shows how much.",
    ),
    "verdict": Definition(
        "Verdict",
        "PASS: for each of shuffled, zero and noise, the 99% lower bound of the gap is above its margin. FAIL: for at "
        "least one of them, the upper bound of the gap is at or below its margin, or a loss is not finite. "
        "INCONCLUSIVE: neither. The verdict of the page is the worse verdict of the two checks.",
    ),
    "sample-gap": Definition(
        "Gap of one sample",
        "Summed loss of one caption with a wrong picture, averaged over the wrong pictures used, minus its summed "
        "loss with its own picture, divided by its number of label tokens. If it is below 0, the wrong pictures made "
        "this caption likelier than its own picture did.",
    ),
    "looks": Definition(
        "Looks while training",
        "A look scores a few fixed held-out samples at some training steps, evenly spaced in log time. Each look "
        "compares two gaps with their margins, shuffled with the margin of check 1 and zero with 0. The result is one "
        "of three: the gap is above the margin (costs), not above it (ruled out), or undecided (open). The connector "
        "began to use the picture between the last look at which the gap of shuffled is ruled out and the first later "
        "look at which it costs. The vertical lines at the points of shuffled show the bounds used for this. All looks "
        "of a run share one error rate: nominally, one run in a hundred is falsely reported to use the picture "
        "although no gap exceeds the margin. The training loss alone does not show when this begins: it also falls "
        "while the style of the captions is learnt.",
    ),
    "coverage": Definition(
        "Truncation and label coverage",
        "Counted by the collator over the samples named in the table: how many lose tokens to max_seq_len, and how "
        "many have no label token. The histogram shows lengths in tokens before truncation, including the image "
        "block; tokens beyond the line are cut off.",
    ),
    "matching": Definition(
        "Matching",
        "Each caption is scored with its own image and with K-1 others. R@1 is the share of captions that are "
        "likeliest with their own image (chance: 1/K); hard R@1 compares the caption's own image with the "
        "most similar images; MRR is the mean reciprocal rank of the caption's own image. How likely a caption is "
        "without any picture cancels out, so style cannot raise these figures. Intervals are bootstrapped over "
        "captions.",
    ),
    "gain": Definition(
        "Image-specific gain and InfoNCE",
        "Image-specific gain: log-likelihood of the caption with its own image minus the mean over the others, in "
        "nats per caption. InfoNCE: a lower bound, from the same scores, of the mutual information between caption "
        "and image, in nats; it cannot exceed ln K, and when it is close to ln K the true value may be much larger.",
    ),
    "deciles": Definition(
        "Gap by similarity of the wrong picture",
        "Wrong pictures in ten groups, by the cosine similarity of their pooled tower features to those of the right "
        "picture. A gap only for dissimilar pictures means that the model uses the general kind of picture but not "
        "its details.",
    ),
    "words": Definition(
        "Reliance of a word",
        "Loss of the word with a wrong picture minus its loss with the right one, summed over its tokens, in nats. A "
        "value of 3 nats means that the right picture makes the word 20 times likelier. Later words can be guessed "
        "from earlier ones, so they rely on the picture less than they would alone; the first content word cannot.",
    ),
    "decomposition": Definition(
        "Information, shock and misdirection",
        "A constant prompt, trained on the same data without any picture, replaces the picture and splits the gaps "
        "into parts. Information: blind minus correct, what the picture contributes. Shock: zero minus blind, what "
        "zeros cost because they are unfamiliar input. Misdirection: shuffled minus blind, what a wrong picture costs "
        "in addition to having no picture. If the blind prompt is worse than an untrained replacement, it is "
        "under-trained and the gaps are not split.",
    ),
    "internals": Definition(
        "Inside the connector",
        "Variance share: how much of the variance of a stage's output is between images instead of within them; a "
        "stage that reduces it to zero has the same output for every image. RMS ratio: RMS of the visual tokens "
        "divided by that of text embeddings. Effective rank: how many different directions one image's visual tokens "
        "use. Neighbours kept: share of an image's 10 nearest images by tower features that are still the nearest "
        "after the connector.",
    ),
    "diagnosis": Definition(
        "Diagnosis",
        "Faults that the evidence points to, the most severe first: an error invalidates the result, a warning may do "
        "so, and a note is informational. Each entry states what was measured and what to change.",
    ),
}
