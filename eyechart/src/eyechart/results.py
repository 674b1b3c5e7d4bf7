"""The schema of results.json, which every measuring command writes, and from which every page and table is rendered.

It has figures, codes and enumerations. Its only sentences are the message and fix of a finding, written by its
detector, and the notes of a user's scorer. `reporting` writes all other sentences from a code and its figures.

This file has over 300 lines because it contains the whole schema, with the unit and meaning of each figure.

Losses and gaps are in nats per label token unless a name says otherwise. The schema has a version: a file with another
`schema` is rejected when it is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eyechart.outside import bounds
from eyechart.outside.json_text import parse_json
from eyechart.outside.regular import read_regular

SCHEMA: Literal[2] = 2

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Standing = Literal["costs", "ruled out", "open"]
"""The standing of a claim: its lower bound is above the margin, its upper bound is not above the margin, or neither."""
EXIT_CODES: dict[str, int] = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
"""Exit codes of a command that gives a verdict. The codes 2 (bad input), 4 (internal error) and 130 (interrupt) are not
verdicts."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)


ReasonCode = Literal[
    "gap-costs",
    "gap-ruled-out",
    "gap-unmoved",
    "gap-open",
    "one-distinct-image",
    "not-finite",
    "nothing-scored",
    "gates-not-scored",
    "too-few-donors",
    "samples-not-scored",
    "fewer-than-requested",
    "one-image-carries",
    "one-image-decides",
    "truncated-too-many",
    "truncated-some",
    "unlabelled-too-many",
    "unlabelled-some",
    "image-cut",
    "nothing-counted",
    "raise-max-seq-len",
    "rows-rejected",
    "within-limits",
]
"""A reason for the verdict of a check; `reporting.reasons` has a sentence for each code."""
RemarkCode = Literal[
    "donors-from-all-samples",
    "noise-of-scalar-moments",
    "slot-of-another-image",
    "slots-share-images",
    "pixels-left-in-place",
    "mean-has-seen-scored-images",
    "mean-of-the-scored-file",
    "no-mean",
    "mean-needs-train-data",
    "mean-of-several-depths",
    "no-blind-prompt",
    "blind-not-trained-here",
    "donors-need-tower-features",
    "no-pixels",
    "slot-mix-of-one-image",
    "image-alone-in-prompt",
    "self-tests-passed",
    "own-chat-template",
    "no-chat-template",
    "labels-to-template-end",
    "labels-to-eos",
    "images-resized",
    "images-resized-untiled",
    "attention-both-ways-in-prompt",
    "writing-failed",
    "probes-failed",
    "door-encoder-outputs",
    "door-image-features",
    "door-pixels",
    "other-door-failed",
    "self-tests-of-pixels",
    "answers-only",
    "answers-by-labels",
    "text-only-rows",
    "donors-resampled",
    "unequal-visual-tokens",
    "mean-of-scored-images",
    "needs-rows",
    "not-for-pixels",
]
"""A remark on how something was made, or why it was left out; `reporting.remarks` has a sentence for each code."""
DoorName = Literal["encoder-outputs", "image-features", "pixels"]
"""How images of a transformers model are replaced: by an argument of its forward pass, by the return value of
`get_image_features`, or by other pixels."""


Topic = Literal["headline", "pattern", "order", "information", "matching", "twins", "likeness", "words", "coverage"]
ConclusionCode = Literal[
    "check-1-not-run",
    "picture-used",
    "gates-met-with-error",
    "picture-used-check-2-not-passed",
    "nothing-scored",
    "content-used-rest-undecided",
    "undecided",
    "loss-not-finite",
    "content-not-used",
    "content-used-but-gate-fails",
    "gate-fails",
    "content-and-presence",
    "content-without-presence",
    "presence-without-content",
    "nothing-costs",
    "no-content-rest-open",
    "presence-content-open",
    "content-open",
    "wrong-picture-costs-more",
    "wrong-picture-costs-no-more",
    "wrong-picture-open",
    "blind-prompt-under-trained",
    "information-shown",
    "information-ruled-out",
    "information-open",
    "matching-not-measured",
    "own-picture-found",
    "own-picture-not-found",
    "own-picture-open",
    "found-among-alike",
    "not-found-among-alike",
    "among-alike-open",
    "alike-pictures-cost",
    "only-unlike-pictures-cost",
    "likeness-not-shown",
    "words-rest-on-picture",
    "words-not-shown",
    "check-2-not-run",
    "captions-damaged",
    "no-captions-counted",
    "captions-within-limits-with-warnings",
    "captions-within-limits",
    "captions-whole",
]
"""A conclusion of a run; `verdict.conclusions` chooses it, and `reporting.conclusions` has a sentence for each code."""


class Conclusion(_Model):
    """One conclusion, with the claims that it is based on."""

    topic: Topic
    code: ConclusionCode
    asserts: dict[str, Standing] = Field(default_factory=dict)
    """The claims that it states, by name, with the standing of each."""


class Reason(_Model):
    """One reason of a verdict."""

    code: ReasonCode
    effect: Literal["fails", "undecided", "passes", "warns", "advises"]
    """The effect on the verdict; warnings and advice do not change it."""
    about: str = ""
    """The condition that the reason is about, if any; its figures are stored with that condition."""
    figures: dict[str, Any] = Field(default_factory=dict)
    """Figures in the sentence, in addition to those of the condition."""


class Remark(_Model):
    """A remark for the reader on how a condition or the whole score was made."""

    code: RemarkCode
    about: str
    """The condition or other subject of the remark."""
    left_out: bool = False
    """Whether the condition was not scored for this reason."""
    figures: dict[str, Any] = Field(default_factory=dict)


class Condition(_Model):
    """One condition of check 1 over all scored samples."""

    loss: float | None
    """Token-weighted mean NLL. None (null in the file) if a loss was not finite; the verdict then says so."""
    loss_per_caption: float | None = None
    """Mean over captions of the summed NLL, in nats per caption."""
    gate: bool = False
    """Whether the verdict depends on this condition."""
    gap: float | None = None
    """Loss minus the loss under `correct`, paired; None for `correct` itself."""
    se: float | None = None
    """Standard error of `gap`, clustered by image; dyadic for donor conditions."""
    ci95: tuple[float, float] | None = None
    margin: float | None = None
    """The value with which the gap is compared: the margin of a gate, otherwise 0."""
    lower99: float | None = None
    """One-sided 99% lower bound of `gap`."""
    upper: float | None = None
    """One-sided upper bound of `gap`, at `upper_level`."""
    upper_level: float | None = None
    """Confidence of `upper`: 0.99, and 1 - 0.01/(number of gates) for gates, because one gate is enough for a FAIL."""
    standing: Standing | None = None
    """Whether the gap exceeds `margin` (`verdict.standing`); None without a gap."""
    above_zero: bool = False
    """Whether `lower99` is above 0: the condition raises the loss, possibly by less than the margin."""
    needed_samples: int | None = None
    """Number of samples that would decide an open gate if the gap stays the same; None if no number is enough."""
    win_rate: float | None = None
    """Share of captions whose summed NLL is lower with the correct image."""
    gap_without_eos: float | None = None
    """The gap over label tokens other than EOS."""


class Estimated(_Model):
    """A figure with its uncertainty; what it measures and its unit are documented where it is used."""

    value: float | None
    """The estimate; None if it could not be estimated."""
    se: float | None = None
    ci95: tuple[float, float] | None = None
    margin: float | None = None
    """The value with which the estimate is compared; None if nothing is claimed about it."""
    lower99: float | None = None
    upper99: float | None = None
    standing: Standing | None = None
    """Whether the estimate exceeds `margin`, with 99% confidence in both directions; None without a margin."""


class Decomposition(_Model):
    """The parts of the gaps of zero and shuffled, in nats per label token, separated by a trained blind prompt."""

    information: Estimated
    """blind - correct: what the picture contributes beyond the best constant prompt."""
    shock: Estimated
    """zero - blind: the cost of zeros that is only due to the model never having seen zeros."""
    misdirection: Estimated
    """shuffled - blind: how much more a wrong picture costs than the best constant prompt."""
    blind_rival: str | None = None
    """The condition with the lowest loss among zero, no-image and mean-token; the best constant prompt is not worse."""
    blind_deficit: Estimated | None = None
    """blind - the rival; if its standing is `costs`, the prompt is under-trained and the figures above are None."""
    blind_captions: int | None = None
    """Number of training captions that the blind prompt was trained on, including repeats; None if unknown."""
    blind_learning_rate: float | None = None
    """Learning rate of the blind prompt, chosen on training captions that were set aside."""
    blind_still_falling: bool | None = None
    """Whether the blind prompt's loss was still falling when its budget ended: information is then too large."""

    @property
    def blind_under_trained(self) -> bool:
        """Whether the blind prompt is worse than its rival, with 99% confidence."""
        return self.blind_deficit is not None and self.blind_deficit.standing == "costs"


class Decile(_Model):
    """One decile of the (caption, donor) pairs, ranked by the similarity of their images."""

    similarity: tuple[float, float]
    """Smallest and largest cosine of pooled tower features among these pairs."""
    pairs: int
    gap: Estimated
    """Loss with these donors minus the loss with the caption's own image, in nats per label token."""


class Matching(_Model):
    """Whether a caption is likelier with its own image than with others; the caption's prior cancels out."""

    k: int
    """Number of candidate images per caption, including its own image; by chance, image R@1 is 1/k."""
    wanted_k: int = 0
    """The requested number of candidate images."""
    captions: int
    problem: Literal["no-two-samples-differ", "not-finite"] | None = None
    """The reason why matching could not be measured; None if it was measured."""
    r_at_1: Estimated
    """Share of captions that are likeliest with their own image; a tie counts as a fraction."""
    mrr: Estimated
    """Mean reciprocal rank of the caption's own image; tied images get their mean rank."""
    hard_r_at_1: Estimated
    """As `r_at_1`, but the other images are the nearest neighbours of the caption's own image."""
    image_specific_gain: Estimated
    """log p(caption | its own image) minus the mean of log p(caption | donor) over the donors, in nats per caption."""
    emap_gain: Estimated | None = None
    """The gain after double-centring a full block of n x n pairs, in nats per caption."""
    infonce: Estimated
    """InfoNCE lower bound on the mutual information of caption and image, in nats; at most ln k."""
    infonce_saturated: bool = False
    """Whether the bound is above 90% of ln k, its maximum; the true value may then be much larger."""
    temperature: float = 1.0
    """Temperature of the InfoNCE scores, chosen on pairs other than those that it is used for."""
    deciles: list[Decile] = Field(default_factory=list)
    """The shuffled gap, from the least similar donors to the most similar."""


class WordGap(_Model):
    """One word over all scored captions."""

    word: str
    count: int
    gap: float
    """How much a wrong picture raises the word's negative log-likelihood, in mean nats per occurrence."""
    share: float | None = None
    """Share of the sum of all gaps; None if the gap of shuffled is not above 0 with 99% confidence."""


class Words(_Model):
    """Which words rely on the picture: nll(shuffled) - nll(correct) per token, summed over the tokens of a word."""

    most_reliant: list[WordGap]
    """The words with the largest mean gap among those that occur at least `min_count` times."""
    least_reliant: list[WordGap]
    largest_share: list[WordGap]
    """The words with the largest share of the whole gap."""
    min_count: int
    """Number of occurrences that a word needs to be in `most_reliant`."""
    distinct_words: int
    first_content_word: Estimated
    """Mean gap of the first content word of each caption, in nats per word; later words can be guessed from it."""
    eos: Estimated
    """Mean gap at EOS, in nats."""
    gap_with_eos: float
    """Gap over all label tokens including EOS, in nats per label token."""
    gap_without_eos: float | None
    captions: int = 0
    without_content_word: int = 0
    """Number of captions without a content word."""
    half_of_gap: int | None = None
    """Smallest number of different words that account for half of the total gap; None if the gap is not above 0."""


class Internals(_Model):
    """Figures of the connector's stages, measured without the language model."""

    variance_share: dict[str, float]
    """By stage (tower, resampler, projector): share of the variance that is between images, 0 to 1."""
    rms_ratio: float
    """RMS of the visual tokens divided by the RMS of the text embeddings."""
    image_share: dict[str, float] = {}
    """By stage: share of the mean square that differs between images, 0 to 1; near 0 if it is nearly constant."""
    effective_rank: float
    """exp of the entropy of the normalised singular values of one image's visual tokens, averaged over images."""
    effective_rank_of: int
    """Largest possible effective rank."""
    knn_overlap: float | None = None
    """Share of the 10 nearest images by tower features that are still the nearest after the connector."""
    neighbours: int = 10
    compared: int = 0
    """Number of images among which neighbours were searched."""
    images: int = 0
    stages: list[str] = []
    """Every stage in order, including those without a share."""


class Unigram(_Model):
    """Check 0: whether the language model predicts these captions better than the frequencies of their tokens do."""

    loss: float
    """Loss of a unigram model with add-one smoothing on the scored captions, in nats per label token."""
    condition: str
    """The condition compared with the unigram: `correct` or `no-image`, whichever has the lower loss. If `no-image` was
    not scored, `zero` is used instead."""
    gain: Estimated
    """Loss of the unigram minus the model's, paired, in nats per label token. It must exceed 0: `costs` means that the
    captions are read."""
    source: Literal["training", "scored"]
    """The captions that were counted: training captions, or, for each caption, the scored captions of other images."""
    captions: int
    """Number of captions counted; if `source` is `scored`, the number of all scored captions."""
    tokens: int
    """Number of label tokens in these captions, including the end tokens."""
    vocabulary: int
    """Number of tokens in the vocabulary; the smoothing adds one to the count of each."""


class Ablation(_Model):
    """Check 1: whether the loss rises when the picture is removed."""

    verdict: Verdict
    reasons: list[Reason]
    samples: int
    """Number of scored samples."""
    requested: int
    """Number of requested samples (`--num_samples`)."""
    available: int | None = None
    """Number of samples available for scoring, including unusable ones; None if unknown."""
    label_tokens: int
    clusters: int
    """Number of distinct images among the scored samples."""
    seed: int
    derangements: int
    """Number of derangements scored for `shuffled`."""
    conditions: dict[str, Condition]
    """Conditions by name, in the order in which they were scored; `correct` is the first."""
    order: list[str]
    """Condition names in order of increasing loss."""
    shuffled_beyond: dict[str, Estimated] = Field(default_factory=dict)
    """Loss under `shuffled` minus that under no-image, mean-token and blind, paired: whether a wrong picture is worse
    than none. Empty if `shuffled` was not scored, or none of the other three."""
    needed_samples: int | None = None
    """Number of samples that would decide an inconclusive verdict, even if fewer exist."""
    door: DoorName | None = None
    """How the model's images were replaced; None for a user's own scorer and for models of qwen3_vlm."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Held-out rows that could not be scored, by reason."""
    remarks: list[Remark] = Field(default_factory=list)
    """Remarks on conditions that are made differently in other runbooks, and on conditions that were left out."""
    notes: dict[str, str] = Field(default_factory=dict)
    """The scorer's own notes on how it scores, by keyword (`seam.Description.notes`)."""
    unigram: Unigram | None = None
    """Check 0; None if nothing could be compared."""
    decomposition: Decomposition | None = None
    matching: Matching | None = None
    words: Words | None = None
    connector: Internals | None = None


class Coverage(_Model):
    """Check 2: how many captions are truncated at max_seq_len, and whether every row has label tokens."""

    verdict: Verdict
    reasons: list[Reason]
    source: Literal["training", "audit", "score"]
    """Source of the counts: the training log, the command `audit`, or the scored rows."""
    split: Literal["train", "eval"] | None = None
    """The part of the split; None if the data is not split."""
    images_opened: bool = True
    """Whether images were opened; if not, rows with unreadable images are counted as samples."""
    epoch: int | None = None
    """Training epoch of the counts."""
    samples: int
    truncated: int
    zero_label: int
    truncated_pct: float
    zero_label_pct: float
    avg_label_tokens: float
    max_seq_len: int
    smallest_max_seq_len: int
    """The smallest max_seq_len that truncates at most the allowed share."""
    wrapper_tokens: float
    """Average number of prompt tokens around the image block, which a shorter wrapper could save."""
    image_block_tokens: int
    image_cut: int = 0
    """Number of samples whose image block was truncated by max_seq_len."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Number of rows that could not be used, by reason."""
    lengths: dict[int, int] = Field(default_factory=dict)
    """Histogram of sequence lengths before truncation, in tokens."""


class LossPoint(_Model):
    """Losses at the end of an epoch."""

    step: int
    train: float
    eval: float | None


class Look(_Model):
    """A small score of a few fixed held-out samples during training."""

    step: int
    correct: float
    """Loss with the right picture, in nats per label token."""
    gap_shuffled: float
    gap_zero: float | None = None
    """None if zeros were not scored."""
    se_shuffled: float | None = None
    """Standard error of `gap_shuffled`, dyadic; None if undefined."""
    se_zero: float | None = None
    shuffled: Standing = "open"
    """Whether a wrong picture costs more than the margin of check 1, at the confidence level shared by all looks."""
    zero: Standing = "open"
    """Whether zeros cost more than 0, at the same level."""
    lower_shuffled: float | None = None
    upper_shuffled: float | None = None
    r_at_1: float | None = None
    """Image R@1 among `k` images; by chance it is 1/k."""
    k: int = 0
    seconds: float = 0.0


class EvalPart(_Model):
    """The held-out loss of training over the rows that check 1 scores."""

    rows: int
    """Number of rows, counted from the first held-out row and including unusable ones."""
    samples: int
    """Number of usable rows among them."""
    loss: float | None
    """Loss over them in nats per label token; None if no row was usable."""


class Training(_Model):
    """The training of the run, as logged."""

    step: int
    """Number of batches of `train.batch_size` samples over all ranks."""
    updates: int
    epochs: int
    train_samples: int
    eval_samples: int
    trained_parameters: int
    train_loss: float
    eval_loss: float | None
    """Loss over all held-out samples."""
    eval_part: EvalPart | None = None
    """Loss over the first held-out rows; None in logs of versions that did not record it."""
    seconds: float
    samples_per_second: float
    peak_memory_gb: float
    curve: list[LossPoint] = Field(default_factory=list)
    looks: list[Look] = Field(default_factory=list)
    forced: list[str] = Field(default_factory=list)
    """Codes of preflight errors that `--force` ignored."""


class Finding(_Model):
    """One diagnosed fault, warning or note."""

    code: str
    """A code of `faults.table.FAULTS`; its page is docs/faults/<code>.md."""
    severity: Literal["error", "warning", "note"]
    message: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    fix: str = ""
    explained_by: list[str] = Field(default_factory=list)
    """Codes of other findings of the run that can have caused this one, the most likely first."""


class WrittenCaption(_Model):
    """A held-out image with its true and its written caption."""

    row: int
    image: str
    true: str
    written: str


END = "<end>"
"""The text shown for the token that ends a caption."""


class Piece(_Model):
    """A part of a caption with one colour on the page: a word with the space before it, or `END` for a final EOS."""

    text: str
    gap: float
    """nll(shuffled) - nll(correct), summed over its tokens and averaged over the derangements, in nats."""


class ScoredSample(_Model):
    """One scored caption for the gallery. Its per-token losses are in samples.parquet."""

    row: int
    image: str
    caption: str
    label_tokens: int
    losses: dict[str, float]
    """Summed NLL per condition in nats, averaged over the derangements."""
    pieces: list[Piece] = Field(default_factory=list)
    written: str | None = None
    """The caption that the model writes for this image; None if none was requested."""


class Results(_Model):
    """Everything that one run measured."""

    schema_: Literal[2] = Field(default=SCHEMA, alias="schema")
    verdict: Verdict
    """The worst verdict of the checks; INCONCLUSIVE instead of PASS if the diagnosis has an error."""
    conclusions: list[Conclusion] = Field(default_factory=list)
    """Conclusions of these results, one code per topic, the headline first."""
    checkpoint: str | None = None
    command: str = ""
    """The command line that made this file."""
    run: str | None = None
    """Id of the training run that the checkpoint is of; None for other models and for runs of earlier versions."""
    measurement: str | None = None
    """Id of this measurement, which its page, runbook.md, samples.parquet and samples.png also have."""
    created: str = ""
    """UTC time, ISO 8601."""
    training: Training | None = None
    ablation: Ablation | None = None
    coverage: Coverage | None = None
    """Check 2 on the training split."""
    diagnosis: list[Finding] = Field(default_factory=list)
    samples: list[WrittenCaption] = Field(default_factory=list)
    scored: list[ScoredSample] = Field(default_factory=list)
    """Every scored sample or, if there are very many, an evenly spaced selection by gap. `ablation.samples` is the
    total."""
    environment: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    judged_by: str | None = None
    """Where margins, thresholds and the other settings for judging come from: `defaults`, or a config; never from the
    checkpoint."""


def to_json(results: Results) -> str:
    """Serialise the results with the key names of the schema, and without NaN or infinity."""
    return json.dumps(results.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False, allow_nan=False)


def read(path: Path) -> Results:
    """Read a results.json.

    Raises:
        ValueError: the file is missing, is not JSON, or has another schema; the message names the file.
    """
    schema: int | None = None
    try:
        data = read_regular(path, bounds.RESULTS_BYTES)
        schema = _schema(parse_json(data))
        results = Results.model_validate_json(data)
        if "schema_" not in results.model_fields_set:
            raise ValueError("schema: expected a schema number, but there is none")
    except OSError as error:
        raise ValueError(
            f"{path}: cannot read results ({error.strerror}); expected the folder of a run or of a score"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {_why_not(schema, error)}") from error
    return results


def _schema(tree: object) -> int | None:
    """Return the number of the schema in a parsed results file; None if there is none."""
    found = tree.get("schema") if isinstance(tree, dict) else None
    return found if isinstance(found, int) else None


def _why_not(found: int | None, error: ValueError) -> str:
    """Return what is wrong with a results file of schema `found`, and how to fix it, in one line."""
    if found is not None and found < SCHEMA:
        return (
            f"results of schema {found}, written by an earlier version, but this version reads schema {SCHEMA}; score "
            "again with this version (the pages in that folder are not changed)"
        )
    if found is not None and found > SCHEMA:
        return f"results of schema {found}, but this version reads schema {SCHEMA}; use the version that wrote them"
    # The address of pydantic's documentation is removed.
    said = " ".join(str(error).splitlines()[:3]).partition(" For further information visit ")[0]
    return f"not a results file of schema {SCHEMA}: {said}"
