"""The conclusions of a run as sentences: one function per code of `results.ConclusionCode`.

`verdict.conclusions` chose the code from standings; this module only adds words and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eyechart.reporting.conditions import IN_PLACE, listed
from eyechart.reporting.wording import between, capital, percent, signed
from eyechart.results import Ablation, Conclusion, ConclusionCode, Coverage, Matching, Results, Standing, Topic


def said(results: Results, topic: Topic) -> str:
    """All sentences about one topic; empty if there is no conclusion."""
    chosen = [conclusion for conclusion in results.conclusions if conclusion.topic == topic]
    if topic == "order":
        return _order(chosen)
    sentences = [_SENTENCES[conclusion.code](conclusion, results) for conclusion in chosen]
    if topic == "headline" and any(conclusion.code in _WITHOUT_VERDICT for conclusion in chosen):
        sentences.append(_of_check_2(results))
    return " ".join(sentence for sentence in sentences if sentence)


def _of_check_2(results: Results) -> str:
    """What check 2 adds to a headline that does not state the verdict of the page."""
    if results.coverage is not None and results.coverage.verdict == "FAIL":
        return f"Check 2 fails: {said(results, 'coverage')}"
    return said(results, "coverage") if results.ablation is None else ""


def _order(chosen: list[Conclusion]) -> str:
    """The comparisons of a wrong picture with inputs without content, grouped by standing."""
    groups: dict[Standing, list[str]] = {}
    for conclusion in chosen:
        for claim, standing in conclusion.asserts.items():
            groups.setdefault(standing, []).append(claim.removeprefix("shuffled - "))
    told = {
        "costs": "more than {}, so it misleads the model",
        "ruled out": "no more than {}",
    }
    sentences = [
        f"A wrong picture costs {told[standing].format(listed(names, 'or'))}."
        for standing, names in groups.items()
        if standing != "open"
    ]
    if undecided := groups.get("open"):
        sentences.append(f"Whether a wrong picture costs more than {listed(undecided, 'or')} is not decided.")
    return " ".join(sentences)


def _plain(text: str) -> Callable[[Conclusion, Results], str]:
    return lambda conclusion, results: text


def _named(conclusion: Conclusion, standing: Standing, but: str = "") -> list[str]:
    """Gates for which a conclusion asserts this standing."""
    return [name for name, found in conclusion.asserts.items() if found == standing and name != but]


def _ablation(results: Results) -> Ablation:
    assert results.ablation is not None, "these codes are chosen from check 1"
    return results.ablation


def _matched(results: Results) -> Matching:
    matching = _ablation(results).matching
    assert matching is not None, "these codes are chosen from matching"
    return matching


def _covered(results: Results) -> Coverage:
    assert results.coverage is not None, "these codes are chosen from check 2"
    return results.coverage


def _wrong_picture(results: Results) -> str:
    """What another sample's picture costs, in numbers."""
    shuffled = _ablation(results).conditions["shuffled"]
    assert shuffled.gap is not None
    return f"another sample's picture costs {signed(shuffled.gap)} nats per token{between(shuffled.ci95)}"


def _margin(results: Results) -> str:
    return f"{_ablation(results).conditions['shuffled'].margin or 0.0:g}"


def _of(names: list[str], verb: str, join: str = "and", place: str = "in its place") -> str:
    """Conditions in words with their verb: `zeros and noise in its place cost`, but `noise in its place costs`."""
    return f"{listed(names, join)} {place} {verb}{'s' if names == ['noise'] else ''}"


def _used_but_gate_fails(conclusion: Conclusion, _: Results) -> str:
    return (
        "Check 1 fails, although the content of the picture matters: "
        f"{_of(_named(conclusion, 'ruled out'), 'cost')} nothing above the margin."
    )


def _gate_fails(conclusion: Conclusion, results: Results) -> str:
    none = _of(_named(conclusion, "ruled out"), "cost", place="in place of the picture")
    # If there is a pattern, its sentence states this with figures.
    rest = "" if said(results, "pattern") else " Whether the content of the picture matters is not decided."
    return f"Check 1 fails: {none} nothing above the margin.{rest}"


def _content_without_presence(conclusion: Conclusion, results: Results) -> str:
    sentences = [f"{_wrong_picture(results)}."]
    in_headline = any(other.code == "content-used-but-gate-fails" for other in results.conclusions)
    if (none := _named(conclusion, "ruled out")) and not in_headline:
        sentences.append(f"{_of(none, 'cost')} nothing above the margin.")
    if undecided := _named(conclusion, "open"):
        sentences.append(f"whether {_of(undecided, 'cost', 'or')} anything is not decided.")
    return " ".join(map(capital, sentences))


def _presence_without_content(conclusion: Conclusion, results: Results) -> str:
    raised = _of(_named(conclusion, "costs"), "raise", place="in place of the picture")
    hardly = "it hardly matters" if _ablation(results).conditions["shuffled"].above_zero else "it does not matter"
    return (
        f"{capital(raised)} the loss, but {_wrong_picture(results)}, which is not above the margin "
        f"{_margin(results)}: the presence of visual tokens matters, but {hardly} from which picture they come."
    )


def _nothing_costs(_: Conclusion, results: Results) -> str:
    return (
        f"{capital(_wrong_picture(results))}; neither this nor zeros nor noise cost more than their margins, so "
        "hardly anything is lost without the picture."
    )


def _no_content_rest_open(conclusion: Conclusion, results: Results) -> str:
    undecided = _of(_named(conclusion, "open"), "cost", "or", "in place of the picture")
    return (
        f"{capital(_wrong_picture(results))}, which is not above the margin {_margin(results)}. Whether {undecided} "
        "anything is not decided."
    )


def _presence_content_open(conclusion: Conclusion, results: Results) -> str:
    raised = _of(_named(conclusion, "costs"), "raise", place="in place of the picture")
    return (
        f"{capital(raised)} the loss. Whether the content of the picture matters is not decided: "
        f"{_wrong_picture(results)}."
    )


def _content_open(_: Conclusion, results: Results) -> str:
    return f"Whether the content of the picture matters is not decided: {_wrong_picture(results)}."


def _picture_used_but(_: Conclusion, results: Results) -> str:
    return f"The picture is used, and its content matters. Check 2 does not pass: {said(results, 'coverage')}"


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
        "with a larger ablation.blind_captions the information may be smaller and the other parts larger."
    )


def _blind_under_trained(_: Conclusion, results: Results) -> str:
    split = _ablation(results).decomposition
    assert split is not None and split.blind_deficit is not None and split.blind_deficit.value is not None
    return (
        f"The gaps are not split: the blind prompt is under-trained. It is {signed(split.blind_deficit.value)} nats "
        f"per token worse than {IN_PLACE.get(split.blind_rival or '', '')}, which cannot be true of the best constant "
        "prompt; raise ablation.blind_captions."
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
                f" {found.wanted_k} images per caption were requested and {found.k} used: at least one caption has no "
                "more wrong images that differ in content and caption."
            )
        return (
            f"Among {found.k} images (its own and {found.k - 1} random others) {percent(found.r_at_1.value)} of the "
            f"captions are likeliest with their own{interval}; guessing gives {percent(chance)}: {verb}.{fewer}"
        )

    return sentence


def _hard(verb: str) -> Callable[[Conclusion, Results], str]:
    def sentence(_: Conclusion, results: Results) -> str:
        found = _matched(results)
        assert found.hard_r_at_1.value is not None
        return (
            f"Against the {found.k - 1} most similar images, {percent(found.hard_r_at_1.value)} of the captions are "
            f"likeliest with their own: {verb}."
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
        sentences.append(f"No word occurs {words.min_count} times, so none is listed by its mean.")
    if words.half_of_gap is not None:
        sentences.append(
            f"{words.half_of_gap:,} of {words.distinct_words:,} different words account for half of the total gap."
        )
    if words.first_content_word.value is not None:
        left = (
            f" ({words.without_content_word:,} of {words.captions:,} captions have none)"
            if words.without_content_word
            else ""
        )
        sentences.append(
            f"The first content word of a caption, which cannot be guessed from an earlier one, loses "
            f"{signed(words.first_content_word.value)} nats with a wrong picture{left}."
        )
    return " ".join(sentences)


def _no_words(_: Conclusion, results: Results) -> str:
    words = _ablation(results).words
    assert words is not None
    return (
        f"It is not shown that a wrong picture makes words less likely ({signed(words.gap_with_eos)} nats per token), "
        "so no word is listed as relying on the picture."
    )


def _limit(text: str) -> Callable[[Conclusion, Results], str]:
    return lambda conclusion, results: text.format(limit=_covered(results).max_seq_len)


_SENTENCES: Mapping[ConclusionCode, Callable[[Conclusion, Results], str]] = {
    "check-1-not-run": _plain("Check 1 was not run: it is not known whether the picture is used."),
    "picture-used": _plain("The picture is used, and its content matters."),
    "picture-used-check-2-not-passed": _picture_used_but,
    "nothing-scored": _plain("Undecided: no sample was scored."),
    "content-used-rest-undecided": _plain(
        "Undecided overall: the content of the picture matters, but not all requirements of a PASS are shown."
    ),
    "undecided": _plain("Undecided: this run neither shows nor rules out that the picture is used."),
    "loss-not-finite": _plain("Check 1 fails: a loss is not finite."),
    "content-not-used": _plain("Check 1 fails: the content of the picture makes no difference above the margin."),
    "content-used-but-gate-fails": _used_but_gate_fails,
    "gate-fails": _gate_fails,
    "content-and-presence": lambda _, results: (
        f"{capital(_wrong_picture(results))}, and zeros and noise in its place cost too."
    ),
    "content-without-presence": _content_without_presence,
    "presence-without-content": _presence_without_content,
    "nothing-costs": _nothing_costs,
    "no-content-rest-open": _no_content_rest_open,
    "presence-content-open": _presence_content_open,
    "content-open": _content_open,
    "blind-prompt-under-trained": _blind_under_trained,
    "information-shown": _information("The pictures provide more information than the best constant prompt."),
    "information-ruled-out": _information("The pictures provide no more information than the best constant prompt."),
    "information-open": _information(
        "It is not decided whether the pictures provide more information than the best constant prompt."
    ),
    "matching-not-measured": _not_matched,
    "own-picture-found": _r_at_1("better than guessing"),
    "own-picture-not-found": _r_at_1("no better than guessing"),
    "own-picture-open": _r_at_1("whether that is better than guessing is not decided"),
    "found-among-alike": _hard("better than guessing"),
    "not-found-among-alike": _hard("no better than guessing"),
    "among-alike-open": _hard("whether that is better than guessing is not decided"),
    "alike-pictures-cost": _likeness(", so even a similar wrong picture raises the loss"),
    "only-unlike-pictures-cost": _likeness(
        ", so dissimilar pictures raise the loss; for similar ones this is not shown"
    ),
    "likeness-not-shown": _likeness(""),
    "words-rest-on-picture": _words,
    "words-not-shown": _no_words,
    "check-2-not-run": _plain("Check 2 was not run: truncation was not measured."),
    "captions-damaged": _limit("At max_seq_len {limit} more is lost than the limits allow."),
    "no-captions-counted": _plain("No usable sample was counted."),
    "captions-within-limits-with-warnings": _limit("Within the limits at max_seq_len {limit}, with warnings."),
    "captions-within-limits": _limit("A small share is cut off at max_seq_len {limit}, within the limits."),
    "captions-whole": _limit("Nothing is cut off at max_seq_len {limit}."),
}
_WITHOUT_VERDICT: frozenset[ConclusionCode] = frozenset(
    ("check-1-not-run", "nothing-scored", "content-used-rest-undecided", "undecided")
)
"""Headlines after which the overall verdict can still be a FAIL because of check 2, or a PASS from check 2 alone."""
ORDER_CODES: tuple[ConclusionCode, ...] = (
    "wrong-picture-costs-more",
    "wrong-picture-costs-no-more",
    "wrong-picture-open",
)
"""Written together, in one sentence per standing (`said`)."""
