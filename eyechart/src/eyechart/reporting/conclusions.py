"""Puts the conclusions of a run into sentences, with one function for each code of `results.ConclusionCode`.

`verdict.conclusions` chooses the codes from standings. A standing states whether a gap (the rise in loss if the picture
is replaced) is shown to be above its margin (`costs`), is shown not to be above it (`ruled out`), or neither (`open`).
This module only adds words and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eyechart.faults.table import FAULTS
from eyechart.reporting.conclusions_of_measures import SENTENCES_OF_MEASURES
from eyechart.reporting.conditions import listed
from eyechart.reporting.wording import between, capital, signed
from eyechart.results import Ablation, Conclusion, ConclusionCode, Coverage, Results, Standing, Topic
from eyechart.verdict.overall import first_error


def said(results: Results, topic: Topic) -> str:
    """Return all sentences about one topic, joined by spaces; empty if the run has no conclusion about it."""
    chosen = [conclusion for conclusion in results.conclusions if conclusion.topic == topic]
    if topic == "order":
        return _order(chosen)
    sentences = [_SENTENCES[conclusion.code](conclusion, results) for conclusion in chosen]
    if topic == "headline" and any(conclusion.code in _WITHOUT_VERDICT for conclusion in chosen):
        sentences.append(_of_check_2(results))
    return " ".join(sentence for sentence in sentences if sentence)


def _of_check_2(results: Results) -> str:
    """Return what a headline that does not state the overall verdict has to add about check 2; empty if nothing."""
    if results.coverage is not None and results.coverage.verdict == "FAIL":
        return f"Check 2 fails: {said(results, 'coverage')}"
    return said(results, "coverage") if results.ablation is None else ""


def _order(chosen: list[Conclusion]) -> str:
    """Compare the cost of a wrong picture with that of inputs without picture content, one sentence per standing."""
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
    """Return the gates (gaps that decide the verdict) for which a conclusion states this standing, except `but`."""
    return [name for name, found in conclusion.asserts.items() if found == standing and name != but]


def _ablation(results: Results) -> Ablation:
    assert results.ablation is not None, "these codes are chosen only if check 1 was run"
    return results.ablation


def _covered(results: Results) -> Coverage:
    assert results.coverage is not None, "these codes are chosen only if check 2 was run"
    return results.coverage


def _wrong_picture(results: Results) -> str:
    """Return how much the loss rises with another sample's picture, with the interval."""
    shuffled = _ablation(results).conditions["shuffled"]
    assert shuffled.gap is not None
    return f"another sample's picture costs {signed(shuffled.gap)} nats per token{between(shuffled.ci95)}"


def _margin(results: Results) -> str:
    return f"{_ablation(results).conditions['shuffled'].margin or 0.0:g}"


def _of(names: list[str], verb: str, join: str = "and", place: str = "in its place") -> str:
    """Join conditions with their verb: `zeros and noise in its place cost`, but `noise in its place costs`."""
    return f"{listed(names, join)} {place} {verb}{'s' if names == ['noise'] else ''}"


def _used_but_gate_fails(conclusion: Conclusion, _: Results) -> str:
    return (
        "Check 1 fails, although the content of the picture matters: "
        f"{_of(_named(conclusion, 'ruled out'), 'cost')} nothing above the margin."
    )


def _gate_fails(conclusion: Conclusion, results: Results) -> str:
    none = _of(_named(conclusion, "ruled out"), "cost", place="in place of the picture")
    # If there is a conclusion about the pattern of the gaps, its sentence already states this, with figures.
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
        f"{capital(_wrong_picture(results))}. This gap and those of zeros and noise are not above their margins, so "
        "the model loses almost nothing without the picture."
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


def _gates_met_with_error(_: Conclusion, results: Results) -> str:
    found = first_error(results.diagnosis)
    assert found is not None, "this code is chosen only if there is an error"
    title = f" ({FAULTS[found.code].title})" if found.code in FAULTS else ""
    return (
        f"Undecided: all gates are met, but the run has a fault that makes them unreliable: {found.code}{title}. Fix "
        "it and score again."
    )


def _picture_used_but(_: Conclusion, results: Results) -> str:
    return f"The picture is used, and its content matters. Check 2 does not pass: {said(results, 'coverage')}"


def _limit(text: str) -> Callable[[Conclusion, Results], str]:
    return lambda conclusion, results: text.format(limit=_covered(results).max_seq_len)


_SENTENCES: Mapping[ConclusionCode, Callable[[Conclusion, Results], str]] = {
    "check-1-not-run": _plain("Check 1 was not run: it is not known whether the picture is used."),
    "picture-used": _plain("The picture is used, and its content matters."),
    "gates-met-with-error": _gates_met_with_error,
    "picture-used-check-2-not-passed": _picture_used_but,
    "nothing-scored": _plain("Undecided: no sample was scored."),
    "content-used-rest-undecided": _plain(
        "Undecided overall: the content of the picture matters, but not all requirements of a PASS are shown to be met."
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
    **SENTENCES_OF_MEASURES,
    "check-2-not-run": _plain("Check 2 was not run: truncation was not measured."),
    "captions-damaged": _limit("At max_seq_len {limit}, truncation or missing labels exceed the limits."),
    "no-captions-counted": _plain("No usable sample was counted."),
    "captions-within-limits-with-warnings": _limit(
        "At max_seq_len {limit}, truncation and label coverage are within the limits, with warnings."
    ),
    "captions-within-limits": _limit(
        "At max_seq_len {limit}, a small share of the samples is truncated, within the limits."
    ),
    "captions-whole": _limit("Nothing is cut off at max_seq_len {limit}."),
}
_WITHOUT_VERDICT: frozenset[ConclusionCode] = frozenset(
    ("check-1-not-run", "nothing-scored", "content-used-rest-undecided", "undecided")
)
"""The headlines with which the overall verdict may be FAIL (due to check 2) or PASS (if only check 2 was run)."""
ORDER_CODES: tuple[ConclusionCode, ...] = (
    "wrong-picture-costs-more",
    "wrong-picture-costs-no-more",
    "wrong-picture-open",
)
"""The codes of the conclusions that `said` combines, so that there is one sentence per standing."""
