"""Findings from check 0: captions that the language model does not read, regardless of the picture.

They follow from the standing of check 0 (`scoring.unigram` measures the gain, `verdict.standing` decides).
"""

from __future__ import annotations

from collections.abc import Iterator

from eyechart.faults.condition_words import worded
from eyechart.faults.table import finding
from eyechart.results import Ablation, Finding


def diagnose_text(ablation: Ablation) -> Iterator[Finding]:
    """Yield a finding if the language model does not read the captions.

    If the gates of check 1 are met, it is an error, both if the gain is ruled out and if it is open: without this
    check the run would pass. If the gates are not met, it is a note, and only if the gain is ruled out: a connector
    that is hardly trained can give the same result on correct captions of an unusual kind (of one word each, or in a
    style that the language model does not know).
    """
    unigram = ablation.unigram
    standing = unigram.gain.standing if unigram else None
    met = ablation.verdict == "PASS"
    if unigram is None or standing in (None, "costs") or (standing == "open" and not met):
        return
    loss = ablation.conditions[unigram.condition].loss
    shown = "no lower than" if standing == "ruled out" else "not shown to be lower than"
    yield finding(
        "captions-unread",
        f"with {worded([unigram.condition])} captions are predicted at {loss:.2f} nats/token, {shown} the "
        f"{unigram.loss:.2f} of counting how often each token occurs: the language model has the wrong tokenizer (or "
        "its embeddings are in another order), or this is text that it never learnt",
        "take tokenizer and weights of model.llm from one and the same trained checkpoint; if they are, take a "
        "language model that knows the language of these captions"
        + ("" if met else "; if the connector has hardly been trained, train it first"),
        None if met else "note",
        loss=loss,
        unigram=unigram.loss,
        condition=unigram.condition,
        gain=unigram.gain.value,
    )
