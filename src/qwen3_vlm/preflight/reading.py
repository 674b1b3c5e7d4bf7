"""Checks how well the language model predicts the captions without a picture.

If it predicts them worse than a random guess, the tokenizer may not belong to the language model, or the model was not
trained on captions of this kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from eyechart.faults.table import finding
from eyechart.results import Finding
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.text import Tokens

# size: tokens of an answer that are not judged
_OUTER = 2
"""Number of tokens of an answer whose losses are not judged: the first one, which has no context, and EOS."""
# size: tokens needed for a finding
_JUDGED = 32
"""Minimum number of judged tokens. With fewer tokens, the check reports no finding."""
# size: random exchanges of ids
_EXCHANGES = 8
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_CLEARLY = 2.5
"""Number of standard deviations by which the loss must be below the mean loss with random ids to be clearly lower.

The standard deviation is that of the losses with random ids."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_UPPER = 0.5
"""Share of upper-case letters among all letters above which the captions count as written in upper case."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_LETTERS = 2.5
"""Number of characters per token below which the tokenizer counts as not trained on the words of the captions.

The tokenizer of the tiny language model has 4.9 characters per token for the captions of scenes and 4.5 for digits
(the built-in demo data sets). For captions of scenes in upper case, in German or enciphered, it has 1.0 to 1.4. The
limit is applied only if the language model is worse than a random guess. Captions that the model predicts better are
therefore never reported."""


@torch.no_grad()
def reading_findings(name: str, vlm: VLM, tokens: Tokens, captions: Sequence[str]) -> list[Finding]:
    """Check that the language model, without a picture, predicts the captions better than a random guess does.

    A model that assigns the same probability to every token has a loss of ln V nats per token, where V is the size of
    the vocabulary. If the loss is above ln V, the model confidently predicts other tokens. There are two possible
    causes: the model was trained with other ids for these words, or it was never trained on this kind of text.

    The text is reported as the cause in two cases: the captions are in upper case and their loss is less than half as
    high in lower case, or the tokenizer splits the captions into pieces of hardly more than one letter. In all other
    cases, the ids of the captions are replaced by random ones. If the loss then becomes clearly higher, the ids are
    right and only the text is unfamiliar, and there is no finding. If it does not, the two causes cannot be
    distinguished, and the finding names both. Every finding is a warning.
    """
    rows = len(vlm.llm.model.get_input_embeddings().weight)
    answers = [tokens.answer(caption) for caption in captions]
    if not answers or max(map(max, answers)) >= rows:
        return []  # Another check reports ids that have no row in the embedding table.
    judged = sum(max(0, len(answer) - _OUTER) for answer in answers)
    if judged < _JUDGED:
        return []  # There are too few tokens. How very short captions begin and end depends on the data set.
    nll, guess = _read(vlm, tokens.eos, answers), math.log(rows)
    if not nll > guess:
        return []
    # If the ids are right and only the text is unfamiliar, the loss is still lower than with random ids. If the ids are
    # wrong, it is not.
    known = sorted({i for answer in answers for i in answer} - {tokens.eos})
    rng = np.random.default_rng(0)
    if found := [*_in_another_case(name, vlm, tokens, captions, nll), *_in_pieces(name, answers, captions, nll)]:
        return found[:1]
    exchanged = []
    for _ in range(_EXCHANGES):
        other = dict(zip(known, rng.choice(rows, len(known), replace=False).tolist(), strict=True))
        exchanged.append(_read(vlm, tokens.eos, [[other.get(i, i) for i in answer] for answer in answers]))
    if nll < float(np.mean(exchanged)) - _CLEARLY * float(np.std(exchanged)):
        return []
    return [
        finding(
            "token-id-mismatch",
            f"model.llm {name} reads these captions worse than a random guess: {nll:.2f} nats per token without "
            f"any picture, while a random guess among its {rows} tokens costs {guess:.2f}; its tokenizer gives "
            "words other ids than it was trained with, its weights were not trained, or it was never trained on such "
            "text",
            "use tokenizer.json and weights from the same trained checkpoint; if they already are, use a language "
            "model that was trained on the language of these captions",
            "warning",
            nats_per_token=round(nll, 4),
            with_other_ids=round(float(np.mean(exchanged)), 4),
            ln_vocabulary=round(guess, 4),
            captions=len(captions),
        )
    ]


def _in_another_case(name: str, vlm: VLM, tokens: Tokens, captions: Sequence[str], nll: float) -> Iterator[Finding]:
    """Yield a finding if the captions are in upper case, and the language model can predict them only in lower case."""
    letters = [letter for caption in captions for letter in caption if letter.isalpha()]
    if sum(map(str.isupper, letters)) <= _UPPER * len(letters):
        return
    lowered = [tokens.answer(caption.lower()) for caption in captions]
    if sum(max(0, len(answer) - _OUTER) for answer in lowered) < _JUDGED:
        return
    lower = _read(vlm, tokens.eos, lowered)
    if lower < nll / 2:
        yield finding(
            "captions-unread",
            f"the captions are in upper case, and model.llm {name} reads them in lower case alone: {nll:.2f} nats per "
            f"token as they are (worse than a random guess) and {lower:.2f} in lower case, both without any picture",
            "write the captions in the case that the language model was trained on, in training and in scoring, or "
            "take a language model that knows text in upper case",
            "warning",
            nats_per_token=round(nll, 4),
            in_lower_case=round(lower, 4),
            captions=len(captions),
        )


def _in_pieces(name: str, answers: Sequence[Sequence[int]], captions: Sequence[str], nll: float) -> Iterator[Finding]:
    """Yield a finding if the tokenizer splits the captions into pieces of hardly more than one letter.

    This does not happen to a tokenizer whose ids are permuted: it still has whole words for text of the kind that it
    was trained on.
    """
    per_token = sum(map(len, captions)) / max(1, sum(len(answer) - 1 for answer in answers))
    if per_token < _LETTERS:
        yield finding(
            "captions-unread",
            f"model.llm {name} reads these captions worse than a random guess ({nll:.2f} nats per token without any "
            f"picture), and its tokenizer has {per_token:.1f} characters per token for them: both were trained on "
            "text of another kind, such as another language, another alphabet or another case",
            "take a language model that knows the language of these captions, or captions in the language and the "
            "case that it knows",
            "warning",
            nats_per_token=round(nll, 4),
            characters_per_token=round(per_token, 2),
            captions=len(captions),
        )


def _read(vlm: VLM, eos: int, answers: Sequence[Sequence[int]]) -> float:
    """Return the loss of texts in nats per judged token, with EOS as the context of each text.

    Each text has its own forward pass. The model receives embeddings instead of ids, as in training.
    """
    nll, count = 0.0, 0
    for answer in answers:
        ids_T = torch.tensor([eos, *answer], device=vlm.device)
        embeds_1TE = vlm.llm.model.get_input_embeddings()(ids_T[None])
        logits_TK = vlm.llm.model(inputs_embeds=embeds_1TE, use_cache=False).logits[0].float()
        nll += float(F.cross_entropy(logits_TK[1:-2], ids_T[2:-1], reduction="sum"))
        count += max(0, len(answer) - _OUTER)
    return nll / count
