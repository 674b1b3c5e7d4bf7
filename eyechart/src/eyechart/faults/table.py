"""The faults that this package can detect: code, severity, title, and which fault explains which.

Each fault has a page, docs/faults/<code>.md, with its symptom, mechanism, detection, fix and a public example.

One cause usually leads to several findings. For example, if the visual tokens are never placed at the image positions,
the connector gets no gradient, check 1 gives the same loss for every image, and the visual tokens collapse. `rank` puts
the cause first. It uses two tables in this file. `FAULTS` lists the faults in the order of processing: data, prompt,
labels, pixels, model, training, scoring, patterns of scores. `EXPLAINS` lists the possible effects of each fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eyechart.results import Finding

Severity = Literal["error", "warning", "note"]
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Fault:
    """One entry of the table."""

    severity: Severity
    """The default severity. A fault with `by_share` is only a warning if it affects a smaller share of rows than the
    config allows."""
    title: str
    """What is wrong, in a few words."""
    by_share: bool = False
    synonyms: tuple[str, ...] = ()
    """Codes of other faults that the same evidence can indicate, if there is no reference to compare it with."""


FAULTS: dict[str, Fault] = {
    # Files.
    "file-damaged": Fault("error", "the checkpoint is not the file that was saved"),
    "data-changed": Fault("error", "the data are not those of the training"),
    "images-unreadable": Fault("error", "images that cannot be read", by_share=True),
    "images-degenerate": Fault("warning", "repeated or blank images"),
    "captions-degenerate": Fault("warning", "few different captions"),
    "duplicate-ids": Fault("warning", "several rows share an id"),
    "split-leak": Fault("error", "held-out images are in training", by_share=True),
    "held-out-differs": Fault("warning", "held-out captions use different words than training captions"),
    # Text and tokenisation.
    "tokenizer-changed": Fault("error", "the tokenizer is not that of the training"),
    "older-image-block": Fault("warning", "the checkpoint was trained with another image block"),
    "token-id-mismatch": Fault("error", "tokenizer and language model disagree about an id"),
    "placeholder-split": Fault("error", "the image block is not one id per position"),
    "no-placeholder": Fault("error", "the text has no placeholder for the row's image", by_share=True),
    "placeholder-in-caption": Fault("error", "a caption contains an image token", by_share=True),
    "placeholder-count": Fault("error", "image positions and visual tokens differ in number"),
    "special-token-is-eos": Fault("warning", "a delimiter of the image block has the same embedding as the EOS token"),
    "delimiters-alike": Fault("warning", "start and end of the image block have the same embedding"),
    "template-unstable": Fault("error", "the prompt alone is not a prefix of prompt and answer"),
    "image-truncated": Fault("error", "max_seq_len cuts into the image block"),
    "answer-truncated": Fault("error", "max_seq_len cuts captions or their end", by_share=True),
    "padding-misaligned": Fault("error", "the attention mask does not match the padding"),
    "token-types-misaligned": Fault("error", "token types do not mark the image positions"),
    "positions-wrong": Fault("error", "position ids do not match the tokens or the image grid"),
    # Labels.
    "no-labels": Fault("error", "rows without a label token", by_share=True),
    "image-labelled": Fault("error", "image positions have labels"),
    "prompt-labelled": Fault("error", "prompt tokens have labels"),
    "padding-labelled": Fault("error", "padding has labels"),
    "answer-partly-labelled": Fault("error", "part of the caption has no label"),
    "eos-unlabelled": Fault("error", "the end of a caption is never learnt"),
    "prompt-changed": Fault("error", "the token ids or labels are not those of the training"),
    # Inputs and model.
    "wrong-preprocessing": Fault("error", "pixels are not preprocessed as in the tower's training"),
    "resolution-differs": Fault("warning", "images have another resolution than the processor's"),
    "tower-uninitialised": Fault("error", "frozen weights are random"),
    "dropout-active": Fault("error", "a frozen part is in train mode, and its dropout is active"),
    "captions-unread": Fault("error", "the language model does not read these captions"),
    "frozen-moved": Fault("error", "a frozen part changed"),
    "backbone-changed": Fault("error", "a frozen part is not that of the training"),
    "non-finite": Fault("error", "NaN or infinity"),
    "connector-not-loaded": Fault("error", "the trained connector is not the one in use", synonyms=("no-gradient",)),
    "pixels-unused": Fault("error", "the pixels never reach the model"),
    "features-altered": Fault("error", "the connector does not receive the features of the tower's last layer"),
    "image-order": Fault("error", "samples get each other's images"),
    "pixels-changed": Fault("error", "the pixels are not those of the training"),
    "not-injected": Fault("error", "visual tokens are computed but not placed", synonyms=("image-masked",)),
    "image-masked": Fault("error", "attention cannot see the image positions", synonyms=("not-injected",)),
    "placeholder-offset": Fault("error", "visual tokens are placed next to their positions"),
    "labels-unshifted": Fault("error", "each token is predicted from itself"),
    "labels-shifted": Fault("error", "labels are off by one"),
    "loss-altered": Fault("error", "the loss is not the plain cross-entropy of the caption"),
    "leak": Fault("error", "the answer or the picture reaches the model by a wrong path"),
    "batch-dependent": Fault("error", "a caption's loss depends on its neighbours in the batch"),
    # Training and scores.
    "resume-drift": Fault("error", "the resumed run is not the run that was interrupted"),
    "learning-rate-too-high": Fault("error", "the learning rate is far too high for the connector's weights"),
    "learning-rate-too-low": Fault("error", "the learning rate is far too low for the connector's weights"),
    "no-gradient": Fault("error", "the connector's weights do not change", synonyms=("connector-not-loaded",)),
    "gradients-kept": Fault("error", "gradients of earlier updates are never cleared"),
    "scale-mismatch": Fault("error", "visual tokens are far larger or smaller than text embeddings"),
    "pairs-mismatched": Fault("error", "captions belong to other images", synonyms=("constant-prompt",)),
    "collapsed": Fault(
        "error", "the connector's output is nearly the same for all images", synonyms=("constant-prompt",)
    ),
    "constant-prompt": Fault(
        "error",
        "the visual tokens act as a constant prompt",
        synonyms=("pairs-mismatched", "collapsed"),
    ),
    "visual-tokens-changed": Fault("error", "the same pixels give other visual tokens than in training"),
    "loss-not-reproduced": Fault("error", "scoring gives a different loss than training logged"),
    "picture-harmful": Fault("error", "captions are less likely with the right picture than without a picture"),
    "slots-dead": Fault("warning", "at least half of the visual tokens contain no information"),
    "eval-too-small": Fault("note", "too few samples to decide"),
    "under-trained": Fault("note", "training may have ended too early"),
}

_BLIND = ("constant-prompt", "collapsed", "pairs-mismatched", "picture-harmful", "slots-dead", "under-trained")
"""Possible effects of any fault that prevents the connector from learning from pictures, or from using them."""
_UNTRAINED = ("no-gradient", "connector-not-loaded", "scale-mismatch", *_BLIND)
"""Possible effects of any fault that prevents the connector's weights from changing."""
_UNLIKE_TRAINING = ("loss-not-reproduced", "under-trained")
"""Possible effects if the connector or the data differ between training and scoring."""
_WRONG_LOSS = ("loss-not-reproduced", "under-trained", *_BLIND)

EXPLAINS: dict[str, tuple[str, ...]] = {
    "images-unreadable": ("images-degenerate", "no-labels"),
    "images-degenerate": ("collapsed", "split-leak", "constant-prompt", "pairs-mismatched", "eval-too-small"),
    "captions-degenerate": ("constant-prompt", "pairs-mismatched", "eval-too-small", "under-trained"),
    "held-out-differs": (
        "captions-unread",
        "pairs-mismatched",
        "constant-prompt",
        "picture-harmful",
        "under-trained",
        "eval-too-small",
    ),
    "older-image-block": ("placeholder-split", "special-token-is-eos", "loss-not-reproduced"),
    "token-id-mismatch": (
        "placeholder-count",
        "placeholder-split",
        "not-injected",
        "tower-uninitialised",
        "captions-unread",
        *_UNTRAINED,
    ),
    "placeholder-split": ("placeholder-count", "image-truncated", "answer-truncated", "not-injected", *_UNTRAINED),
    "no-placeholder": ("placeholder-count", "not-injected", "image-masked", "pixels-unused", *_UNTRAINED),
    "placeholder-in-caption": ("placeholder-count", "image-labelled", "placeholder-offset"),
    "placeholder-count": ("not-injected", "placeholder-offset", "slots-dead"),
    "template-unstable": ("prompt-labelled", "answer-partly-labelled", "image-labelled", "eos-unlabelled", "no-labels"),
    "image-truncated": (
        "placeholder-count",
        "template-unstable",
        "answer-truncated",
        "no-labels",
        "eos-unlabelled",
        "not-injected",
    ),
    "padding-misaligned": ("token-types-misaligned", "image-masked", "padding-labelled", *_WRONG_LOSS),
    "token-types-misaligned": ("positions-wrong", *_WRONG_LOSS),
    "positions-wrong": ("batch-dependent", *_WRONG_LOSS),
    "answer-truncated": ("no-labels", "eos-unlabelled", "answer-partly-labelled"),
    "no-labels": ("no-gradient", "eos-unlabelled", "answer-partly-labelled", "non-finite"),
    "image-labelled": ("prompt-labelled", "captions-unread", "loss-not-reproduced"),
    "prompt-labelled": ("captions-unread", "loss-not-reproduced"),
    "padding-labelled": ("captions-unread", "loss-not-reproduced"),
    "resolution-differs": ("placeholder-count", *_UNLIKE_TRAINING),
    "wrong-preprocessing": ("tower-uninitialised", *_WRONG_LOSS),
    "tower-uninitialised": ("captions-unread", "scale-mismatch", *_WRONG_LOSS),
    "dropout-active": ("features-altered", "image-order", "batch-dependent", "frozen-moved", *_WRONG_LOSS),
    "captions-unread": ("scale-mismatch", *_BLIND),
    "frozen-moved": ("captions-unread", *_WRONG_LOSS),
    "non-finite": ("no-gradient", "loss-not-reproduced", "scale-mismatch", *_BLIND),
    "connector-not-loaded": ("no-gradient", "scale-mismatch", *_WRONG_LOSS),
    "pixels-unused": ("no-gradient", "image-order", *_WRONG_LOSS),
    "features-altered": ("image-order", *_WRONG_LOSS),
    "image-order": ("batch-dependent", *_WRONG_LOSS),
    "not-injected": ("image-masked", "placeholder-offset", *_UNTRAINED),
    "image-masked": ("placeholder-offset", *_UNTRAINED),
    "placeholder-offset": ("slots-dead", *_WRONG_LOSS),
    "labels-unshifted": ("leak", "picture-harmful", *_WRONG_LOSS),
    "labels-shifted": ("tower-uninitialised", "captions-unread", *_WRONG_LOSS),
    "loss-altered": ("tower-uninitialised", "captions-unread", *_WRONG_LOSS),
    "leak": ("labels-unshifted", *_WRONG_LOSS),
    "batch-dependent": ("loss-not-reproduced", "picture-harmful"),
    "resume-drift": ("loss-not-reproduced",),
    "learning-rate-too-high": (
        "non-finite",
        "pixels-unused",
        "connector-not-loaded",
        "scale-mismatch",
        "captions-unread",
        *_BLIND,
    ),
    "learning-rate-too-low": ("captions-unread", "scale-mismatch", *_BLIND),
    "no-gradient": ("connector-not-loaded", *_BLIND),
    "gradients-kept": ("non-finite", *_BLIND),
    "scale-mismatch": ("collapsed", "constant-prompt", "slots-dead", "picture-harmful", *_UNLIKE_TRAINING),
    "pairs-mismatched": ("constant-prompt", "collapsed", "picture-harmful", *_UNLIKE_TRAINING),
    "collapsed": ("constant-prompt", "slots-dead", "picture-harmful", *_UNLIKE_TRAINING),
    "slots-dead": _UNLIKE_TRAINING,
    "constant-prompt": ("picture-harmful", "under-trained", "eval-too-small"),
    "loss-not-reproduced": ("picture-harmful", "under-trained"),
}
"""Maps each fault to its possible direct effects. The relation is transitive: a fault also explains the effects of its
effects."""

_OF_THE_TEXT = ("token-id-mismatch", "placeholder-split", "placeholder-count", "placeholder-in-caption")
_OF_LABELS = ("answer-truncated", "no-labels", "image-labelled", "prompt-labelled", "eos-unlabelled")
_OF_FEATURES = ("frozen-moved", "non-finite", "connector-not-loaded", "pixels-unused", "features-altered")
_OF_VISUAL_TOKENS = ("batch-dependent", "scale-mismatch", "collapsed", "constant-prompt", "slots-dead")
_SHOWN_AT_OPENING: dict[str, tuple[str, ...]] = {
    "prompt-changed": (
        *("data-changed", "tokenizer-changed", "older-image-block", "no-placeholder", "template-unstable"),
        *("image-truncated", "answer-partly-labelled", *_OF_THE_TEXT, *_OF_LABELS),
    ),
    "pixels-changed": ("data-changed", "images-unreadable", "images-degenerate", "wrong-preprocessing", "image-order"),
    "visual-tokens-changed": (
        *("file-damaged", "pixels-changed", "wrong-preprocessing", "backbone-changed", "tower-uninitialised"),
        *("image-order", *_OF_FEATURES, *_OF_VISUAL_TOKENS),
    ),
    "loss-not-reproduced": ("prompt-changed", "visual-tokens-changed"),
    "captions-unread": ("tokenizer-changed", "backbone-changed"),
    "non-finite": ("file-damaged",),
}
"""Maps each fault that is detected when a checkpoint is opened to the faults that can have caused it."""
for _effect, _causes in _SHOWN_AT_OPENING.items():
    for _cause in _causes:
        EXPLAINS[_cause] = (*EXPLAINS.get(_cause, ()), _effect)


def finding(code: str, message: str, fix: str, severity: Severity | None = None, **evidence: object) -> Finding:
    """Make a finding for a fault of the table; `evidence` contains the numbers on which the message is based.

    Args:
        code: a key of `FAULTS`.
        message: one sentence that can be understood without context.
        fix: what the user should change.
        severity: the severity of this finding, if it differs from the table's.
        evidence: plain values (numbers, strings, or lists of them) for results.json.
    """
    return Finding(code=code, severity=severity or FAULTS[code].severity, message=message, evidence=evidence, fix=fix)


def agree(count: int, one: str, many: str) -> str:
    """Return the singular or plural form that fits a count, for messages: `agree(n, "row has", "rows have")`."""
    return one if count == 1 else many


def page_of(code: str) -> str:
    """Return the path of a fault's page, relative to the root of the repository."""
    return f"docs/faults/{code}.md"


BLINDING = frozenset(
    {"no-placeholder", "no-labels", "pixels-unused", "not-injected", "image-masked", "image-truncated"}
)
"""Faults with which a model learns nothing from its images, or nothing at all."""


def blinds(code: str) -> bool:
    """Return whether a model that is trained with this fault learns nothing from its images, or nothing at all."""
    return code in BLINDING


def explains(cause: str, consequence: str) -> bool:
    """Return whether `cause` by itself can lead to `consequence`, directly or through other faults."""
    seen, queue = {cause}, [cause]
    while queue:
        for code in EXPLAINS.get(queue.pop(), ()):
            if code == consequence and code != cause:
                return True
            if code not in seen:
                seen.add(code)
                queue.append(code)
    return False


def rank(findings: Sequence[Finding]) -> list[Finding]:
    """Return one finding per fault, the most likely cause first.

    Errors come before warnings, and warnings before notes. Within one severity, a finding comes first if it is not
    explained by another finding of the same or a higher severity. Otherwise the order of `FAULTS` decides. Of several
    findings with the same code, the first one with the highest severity is kept. The messages of the others are added
    to its evidence as `also`. A finding's `explained_by` lists the codes of the findings that explain it.
    """
    assert all(f.code in FAULTS for f in findings), "a finding that is not in the table has no page and no rank"
    merged = [
        _merge([f for f in findings if f.code == code]) for code in FAULTS if any(f.code == code for f in findings)
    ]
    causes = {
        f.code: [other.code for other in merged if _badness(other) <= _badness(f) and _before(other.code, f.code)]
        for f in merged
    }
    table = list(FAULTS)
    ordered = sorted(merged, key=lambda f: (_badness(f), bool(causes[f.code]), table.index(f.code)))
    return [f.model_copy(update={"explained_by": causes[f.code]}) for f in ordered]


def _before(cause: str, consequence: str) -> bool:
    """Return whether `cause` explains `consequence`. If each explains the other, only the first in the table counts."""
    if not explains(cause, consequence):
        return False
    table = list(FAULTS)
    return not explains(consequence, cause) or table.index(cause) < table.index(consequence)


def _badness(found: Finding) -> int:
    return _SEVERITIES.index(found.severity)


def _merge(same: Sequence[Finding]) -> Finding:
    kept = min(same, key=_badness)
    also = list(dict.fromkeys(f.message for f in same if f.message != kept.message))
    return _with(kept, also=also) if also else kept


def _with(found: Finding, **more: object) -> Finding:
    return found.model_copy(update={"evidence": {**found.evidence, **more}})
