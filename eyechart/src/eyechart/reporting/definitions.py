"""What each figure of report.html means. The page carries these texts itself, and docs/report.md repeats them."""

from __future__ import annotations

from typing import NamedTuple


class Definition(NamedTuple):
    """One term, as a paragraph."""

    title: str
    text: str


DEFINITIONS: dict[str, Definition] = {
    "loss": Definition(
        "Loss of a condition",
        "The caption is given to the language model word for word (teacher forcing), and the negative "
        "log-likelihood of its tokens is summed over all scored captions and divided by their number of label "
        "tokens, the end token included. The unit is nats per label token. It is bound to the tokenizer, so nats "
        "per caption stand beside it. A condition says what stands in the image positions: the right picture "
        "(correct), another sample's picture (shuffled), zeros, noise, and so on.",
    ),
    "gap": Definition(
        "Gap",
        "Loss under a condition minus loss with the right picture, for the same captions. Above zero, the picture "
        "made the captions likelier. Only the gap of shuffled tests what is in the picture: a connector that puts "
        "out the same tokens for every picture can have a large gap of zero and of noise, and has none of shuffled.",
    ),
    "interval": Definition(
        "Interval and bounds",
        "95% intervals come from paired differences per caption, summed by image, with Student's t. For shuffled "
        "each image takes part twice, as the right picture and as a wrong one, which the standard error allows for. "
        "The bound that the verdict uses is one-sided: with 99% confidence the gap is larger. Intervals around "
        "losses are those of the gaps. The figure behind +- is the standard error.",
    ),
    "own-better": Definition(
        "Own better",
        "Share of captions whose summed loss is lower with their own picture than under the condition; for shuffled, "
        "of all pairs of a caption and a wrong picture. A tie does not count. It says how often the picture helps, "
        "the gap how much.",
    ),
    "verdict": Definition(
        "Verdict",
        "PASS: for shuffled, zero and noise alike, the 99% lower bound of the gap lies above its margin. FAIL: one "
        "of them is shown to lie at or below its margin, or a loss is not finite. INCONCLUSIVE: neither. The "
        "verdict of the page is the worst of both checks.",
    ),
    "sample-gap": Definition(
        "Gap of one sample",
        "Summed loss of one caption with wrong pictures, averaged over the wrong pictures tried, minus its loss "
        "with its own, divided by its label tokens. Below zero, a wrong picture made this caption likelier than its "
        "own did.",
    ),
    "looks": Definition(
        "Looks while training",
        "A fixed handful of held-out samples is scored at a few steps, evenly spaced in log time. Each look says "
        "where its two gaps stand, shuffled against the margin of check 1 and zero against 0: it costs, it is ruled "
        "out that it does, or it is open. The connector began to look at the picture between the last look that rules "
        "it out and the first after it that costs. Lines through the points of shuffled are the bounds that this is "
        "read from; all looks of a run share their error, so that nominally one run in a hundred is said to look "
        "although no gap exceeds the margin. The training loss alone does not show when: it also falls while the "
        "style of the captions is learnt.",
    ),
    "coverage": Definition(
        "Truncation and label coverage",
        "Counted by the collator over the samples that the table names: how many lose tokens to max_seq_len, and how "
        "many carry no label token. The histogram shows lengths in tokens before the cut, image block included; what "
        "lies beyond the line is cut.",
    ),
    "matching": Definition(
        "Matching",
        "Each caption is scored with its own image and with K-1 others. R@1 is the share of captions that are "
        "likeliest with their own image, chance 1/K; hard R@1 takes the most similar images as the others; MRR is "
        "the mean of one over the rank of the own image. How likely a caption is without any picture cancels out, "
        "so style cannot raise these figures. Intervals are bootstrapped over captions.",
    ),
    "gain": Definition(
        "Image-specific gain and InfoNCE",
        "Image-specific gain: log-likelihood of the caption with its own image minus the mean over the others, in "
        "nats per caption. InfoNCE: a lower bound, from the same scores, of the mutual information between caption "
        "and image, in nats; it cannot exceed ln K, and near it the truth may be much larger.",
    ),
    "deciles": Definition(
        "Gap by likeness of the wrong picture",
        "Wrong pictures in ten groups, by the cosine of their pooled tower features with those of the right "
        "picture. A gap only for unlike pictures means that the rough kind of picture is used and its detail is "
        "not.",
    ),
    "words": Definition(
        "Reliance of a word",
        "Loss of the word with a wrong picture minus its loss with the right one, summed over its tokens, in nats. "
        "3 nats: the right picture makes the word 20 times likelier. Words behind others can be guessed from them, "
        "so late words rely less than they would alone; the first content word has no such help.",
    ),
    "decomposition": Definition(
        "Information, shock and misdirection",
        "A constant prompt in place of the picture, trained on the same data and blind to every picture, splits the "
        "gaps. Information: blind minus correct, what the picture tells. Shock: zero minus blind, what zeros cost "
        "because they are unfamiliar. Misdirection: shuffled minus blind, what a wrong picture costs beyond having "
        "none. If the blind prompt is worse than an untrained stand-in, it is under-trained and no split is given.",
    ),
    "internals": Definition(
        "Inside the connector",
        "Variance share: how much of the variance of a stage's output lies between images instead of within them; a "
        "stage that drops it to zero puts out the same for every image. RMS ratio: size of the visual tokens over "
        "that of text embeddings. Effective rank: how many different directions one image's visual tokens use. "
        "Neighbours kept: share of an image's 10 nearest images by tower features that are still the nearest behind "
        "the connector.",
    ),
    "diagnosis": Definition(
        "Diagnosis",
        "Faults that the evidence points to, the worst first: an error spoils the result, a warning may, a note is "
        "only said. Each names what was measured and what to change.",
    ),
}
