"""Puts the conclusions from three measurements into sentences, with one function for each code.

The measurements are matching (is a caption likelier with its own picture than with others?), the words of captions, and
the blind prompt (a trained constant prompt that replaces the picture). As in `conclusions`, the codes were chosen by
`verdict.conclusions`, and this module only adds words and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eyechart.reporting.conditions import IN_PLACE
from eyechart.reporting.wording import between, percent, signed
from eyechart.results import Ablation, Conclusion, ConclusionCode, Matching, Results


def _ablation(results: Results) -> Ablation:
    assert results.ablation is not None, "these codes are chosen only if check 1 was run"
    return results.ablation


def _matched(results: Results) -> Matching:
    matching = _ablation(results).matching
    assert matching is not None, "these codes are chosen only if matching was measured"
    return matching


def _information(verb: str) -> Callable[[Conclusion, Results], str]:
    def sentence(_: Conclusion, results: Results) -> str:
        blind = _ablation(results).conditions["blind"]
        assert blind.gap is not None
        told = f"The difference is {signed(blind.gap)} nats per token{between(blind.ci95)}."
        return f"{verb} {told}{_still_falling(results)}"

    return sentence


def _still_falling(results: Results) -> str:
    split = _ablation(results).decomposition
    if split is None or not split.blind_still_falling:
        return ""
    return (
        f" The loss of the blind prompt was still falling when its budget of {split.blind_captions:,} captions ended: "
        "with a larger ablation.blind_captions, `information` may be smaller and the other parts larger."
    )


def _blind_under_trained(_: Conclusion, results: Results) -> str:
    split = _ablation(results).decomposition
    assert split is not None and split.blind_deficit is not None and split.blind_deficit.value is not None
    return (
        f"The gaps are not split: the blind prompt is under-trained. It is {signed(split.blind_deficit.value)} nats "
        f"per token worse than {IN_PLACE.get(split.blind_rival or '', '')}, but the best constant prompt cannot be "
        "worse than that. Raise ablation.blind_captions."
    )


def _r_at_1(verb: str) -> Callable[[Conclusion, Results], str]:
    def sentence(_: Conclusion, results: Results) -> str:
        found = _matched(results)
        assert found.r_at_1.value is not None
        ends, chance = found.r_at_1.ci95, 1 / found.k
        interval = f" (95% interval {percent(ends[0])} to {percent(ends[1])})" if ends else ""
        fewer = ""
        if found.wanted_k > found.k:
            fewer = (
                f" {found.wanted_k} images per caption were requested and {found.k} were used, because at least one "
                "caption has no other wrong image that differs in both content and caption."
            )
        return (
            f"Among {found.k} images (its own and {found.k - 1} random others), {percent(found.r_at_1.value)} of the "
            f"captions are likeliest with their own image{interval}; guessing gives {percent(chance)}. {verb}.{fewer}"
        )

    return sentence


def _hard(verb: str) -> Callable[[Conclusion, Results], str]:
    def sentence(_: Conclusion, results: Results) -> str:
        found = _matched(results)
        assert found.hard_r_at_1.value is not None
        return (
            f"Against the {found.k - 1} most similar images, {percent(found.hard_r_at_1.value)} of the captions are "
            f"likeliest with their own image. {verb}."
        )

    return sentence


def _likeness(verb: str) -> Callable[[Conclusion, Results], str]:
    def sentence(_: Conclusion, results: Results) -> str:
        groups = _matched(results).deciles
        far, near = groups[0].gap, groups[-1].gap
        assert far.value is not None and near.value is not None
        return (
            f"The least similar tenth of the wrong pictures costs {signed(far.value)}{between(far.ci95)}, the most "
            f"similar tenth {signed(near.value)}{between(near.ci95)} nats per token{verb}."
        )

    return sentence


def _not_matched(_: Conclusion, results: Results) -> str:
    why = {
        "no-two-samples-differ": "no two samples differ in both image and caption",
        "not-finite": "some captions have a loss that is not finite",
    }
    problem = _matched(results).problem
    assert problem is not None
    return f"Matching was not measured: {why[problem]}."


def _words(_: Conclusion, results: Results) -> str:
    words = _ablation(results).words
    assert words is not None
    sentences = []
    if words.most_reliant:
        named = words.most_reliant[:3]
        most = ", ".join(f"'{w.word}' ({signed(w.gap)}, {w.count:,} times)" for w in named)
        others = [w for w in words.least_reliant[:3] if w.word not in {n.word for n in named}]
        least = ", ".join(f"'{w.word}' ({signed(w.gap)})" for w in others)
        sentences.append(
            f"Of the words that occur at least {words.min_count} times, a wrong picture costs the most for {most}"
            f"{f', and the least for {least}' if least else ''}; in nats per occurrence."
        )
    else:
        sentences.append(f"No word occurs at least {words.min_count} times, so none is listed by its mean gap.")
    if words.half_of_gap is not None:
        sentences.append(
            f"{words.half_of_gap:,} of {words.distinct_words:,} different words account for half of the total gap."
        )
    if words.first_content_word.value is not None:
        left = (
            f" ({words.without_content_word:,} of {words.captions:,} captions have no content word)"
            if words.without_content_word
            else ""
        )
        sentences.append(
            "A wrong picture changes the loss of a caption's first content word, which cannot be guessed from an "
            f"earlier one, by {signed(words.first_content_word.value)} nats{left}."
        )
    return " ".join(sentences)


def _no_words(_: Conclusion, results: Results) -> str:
    words = _ablation(results).words
    assert words is not None
    return (
        f"It is not shown that a wrong picture makes words less likely ({signed(words.gap_with_eos)} nats per token), "
        "so no word is listed as relying on the picture."
    )


SENTENCES_OF_MEASURES: Mapping[ConclusionCode, Callable[[Conclusion, Results], str]] = {
    "blind-prompt-under-trained": _blind_under_trained,
    "information-shown": _information("The pictures provide more information than the best constant prompt."),
    "information-ruled-out": _information("The pictures provide no more information than the best constant prompt."),
    "information-open": _information(
        "It is not decided whether the pictures provide more information than the best constant prompt."
    ),
    "matching-not-measured": _not_matched,
    "own-picture-found": _r_at_1("This share is better than guessing"),
    "own-picture-not-found": _r_at_1("This share is no better than guessing"),
    "own-picture-open": _r_at_1("Whether this share is better than guessing is not decided"),
    "found-among-alike": _hard("This share is better than guessing"),
    "not-found-among-alike": _hard("This share is no better than guessing"),
    "among-alike-open": _hard("Whether this share is better than guessing is not decided"),
    "alike-pictures-cost": _likeness(", so even a similar wrong picture raises the loss"),
    "only-unlike-pictures-cost": _likeness(
        ", so dissimilar pictures raise the loss; for similar ones this is not shown"
    ),
    "likeness-not-shown": _likeness(""),
    "words-rest-on-picture": _words,
    "words-not-shown": _no_words,
}
