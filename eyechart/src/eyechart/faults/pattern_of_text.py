"""Findings from check 0: captions that the language model cannot predict, with or without their images.

Check 0 compares the loss of the captions with the loss that token frequencies alone give. The module `scoring.unigram`
measures this difference, the gain. Its standing (`verdict.standing`) says whether a gain above 0 is shown (`costs`),
ruled out, or open.
"""

from __future__ import annotations

from collections.abc import Iterator

from eyechart.faults.condition_words import worded
from eyechart.faults.table import finding
from eyechart.results import Ablation, Finding


def diagnose_text(ablation: Ablation) -> Iterator[Finding]:
    """Yield a finding if the language model is not shown to predict the captions better than token frequencies do.

    If check 1 passes, the finding is an error, whether a better prediction is ruled out or left open, because the run
    would otherwise pass. If check 1 does not pass, the finding is a note, and is yielded only if a better prediction is
    ruled out. It is only a note because a connector with little training can give the same result on correct captions
    of an unusual kind: captions of one word, or in a style that the language model does not know.
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
        f"with {worded([unigram.condition])}, the loss of the captions is {loss:.2f} nats/token, {shown} the "
        f"{unigram.loss:.2f} that token frequencies alone give: the language model has the wrong tokenizer (or its "
        "embeddings are in another order), or it has never learnt text of this kind",
        "take the tokenizer and the weights of model.llm from the same trained checkpoint; if they already are, use a "
        "language model that knows the language of these captions"
        + ("" if met else "; if the connector has had little training, train it first"),
        None if met else "note",
        loss=loss,
        unigram=unigram.loss,
        condition=unigram.condition,
        gain=unigram.gain.value,
    )
