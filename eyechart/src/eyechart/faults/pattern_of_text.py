"""Check 0: captions that the language model does not read, whatever the picture adds.

Read from the standing that check 0 was given (`scoring.unigram` measures, `verdict.standing` decides).
"""

from __future__ import annotations

from collections.abc import Iterator

from eyechart.faults.condition_words import worded
from eyechart.faults.table import finding
from eyechart.results import Ablation, Finding


def diagnose_text(ablation: Ablation) -> Iterator[Finding]:
    """Name captions that are not read.

    An error wherever the gates of check 1 are met, be the gain ruled out or only not shown: without this check that
    would be a PASS. Where they are not met nothing is there to be barred, and a connector that has hardly been trained
    can look like this on sound captions of an unusual kind (one word each, or a style that the language model has not
    met): then a note, and none where nothing is decided.
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
