"""Derives the conclusions about a run from its standings.

A standing says whether a figure exceeds its margin (`verdict.standing`). A conclusion is a code together with the
standings that it asserts. It is chosen here, from standings and verdicts alone, and stored in the results;
`reporting.conclusions` has one sentence for each code. This ensures that no sentence claims more than the standings on
which its conclusion is based, and that no two sentences contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eyechart.results import Ablation, Conclusion, ConclusionCode, Coverage, Finding, Matching, Standing, Topic
from eyechart.verdict.overall import first_error

_GATES = ("shuffled", "zero", "noise")


def conclude(
    ablation: Ablation | None, coverage: Coverage | None, findings: Sequence[Finding] = ()
) -> list[Conclusion]:
    """Return all conclusions about a run: at most one per topic, except for `order` with one per comparison."""
    found = [_headline(ablation, coverage, faulty=first_error(findings) is not None)]
    if ablation is not None:
        found += [*_pattern(ablation), *_order(ablation), *_information(ablation)]
        if ablation.matching is not None:
            found += _matching(ablation.matching)
        if ablation.words is not None:
            sure = ablation.conditions["shuffled"].above_zero
            found.append(_said("words", "words-rest-on-picture" if sure else "words-not-shown"))
    found.append(_said("coverage", _coverage(coverage)))
    return found


def standings(ablation: Ablation) -> dict[str, Standing]:
    """Return the standing of each gate (a condition that decides the verdict) whose gap was measured."""
    measured = {name: ablation.conditions.get(name) for name in _GATES}
    return {name: c.standing for name, c in measured.items() if c is not None and c.standing is not None}


def _said(topic: Topic, code: ConclusionCode, asserts: dict[str, Standing] | None = None) -> Conclusion:
    return Conclusion(topic=topic, code=code, asserts=asserts or {})


def _headline(ablation: Ablation | None, coverage: Coverage | None, faulty: bool) -> Conclusion:
    if ablation is None:
        return _said("headline", "check-1-not-run")
    stand = standings(ablation)
    content = stand.get("shuffled")
    if ablation.verdict == "PASS":
        whole = coverage is None or coverage.verdict == "PASS"
        if whole and faulty:
            return _said("headline", "gates-met-with-error", stand)
        return _said("headline", "picture-used" if whole else "picture-used-check-2-not-passed", stand)
    if ablation.verdict == "INCONCLUSIVE":
        if not ablation.samples:
            return _said("headline", "nothing-scored")
        if content == "costs":
            return _said("headline", "content-used-rest-undecided", {"shuffled": "costs"})
        return _said("headline", "undecided", stand)
    if any(reason.code == "not-finite" for reason in ablation.reasons):
        return _said("headline", "loss-not-finite")
    if content == "ruled out":
        return _said("headline", "content-not-used", {"shuffled": "ruled out"})
    # Here, the standing of `shuffled` is `costs` or `open`, so the gate that failed is zero or noise.
    asserts = {name: standing for name, standing in stand.items() if name == "shuffled" or standing == "ruled out"}
    return _said("headline", "content-used-but-gate-fails" if content == "costs" else "gate-fails", asserts)


def _pattern(ablation: Ablation) -> Iterator[Conclusion]:
    """Yield the conclusion on whether the model uses the picture or has only learnt the style of the captions."""
    stand = standings(ablation)
    content, presence = stand.get("shuffled"), [stand.get("zero"), stand.get("noise")]
    if content is None or None in presence:
        return
    code: ConclusionCode
    if content == "costs":
        code = "content-and-presence" if presence == ["costs", "costs"] else "content-without-presence"
    elif content == "ruled out":
        if "costs" in presence:
            code = "presence-without-content"
        else:
            code = "nothing-costs" if presence == ["ruled out", "ruled out"] else "no-content-rest-open"
    else:
        code = "presence-content-open" if "costs" in presence else "content-open"
    yield _said("pattern", code, stand)


def _order(ablation: Ablation) -> Iterator[Conclusion]:
    codes: dict[Standing, ConclusionCode] = {
        "costs": "wrong-picture-costs-more",
        "ruled out": "wrong-picture-costs-no-more",
        "open": "wrong-picture-open",
    }
    for name, found in ablation.shuffled_beyond.items():
        if found.standing is not None:
            yield _said("order", codes[found.standing], {f"shuffled - {name}": found.standing})


def _information(ablation: Ablation) -> Iterator[Conclusion]:
    """Yield the conclusion on what the picture contributes beyond the best constant prompt."""
    split, blind = ablation.decomposition, ablation.conditions.get("blind")
    if split is None:
        return
    if split.blind_under_trained:
        yield _said("information", "blind-prompt-under-trained", {f"blind - {split.blind_rival}": "costs"})
    elif blind is not None and blind.standing is not None:
        codes: dict[Standing, ConclusionCode] = {
            "costs": "information-shown",
            "ruled out": "information-ruled-out",
            "open": "information-open",
        }
        yield _said("information", codes[blind.standing], {"blind": blind.standing})


def _matching(found: Matching) -> Iterator[Conclusion]:
    if found.problem is not None:
        yield _said("matching", "matching-not-measured")
        return
    own: dict[Standing, ConclusionCode] = {
        "costs": "own-picture-found",
        "ruled out": "own-picture-not-found",
        "open": "own-picture-open",
    }
    twins: dict[Standing, ConclusionCode] = {
        "costs": "found-among-alike",
        "ruled out": "not-found-among-alike",
        "open": "among-alike-open",
    }
    if found.r_at_1.standing is not None:
        yield _said("matching", own[found.r_at_1.standing], {"r_at_1": found.r_at_1.standing})
    if found.hard_r_at_1.standing is not None:
        yield _said("twins", twins[found.hard_r_at_1.standing], {"hard_r_at_1": found.hard_r_at_1.standing})
    if found.deciles:
        far, near = found.deciles[0].gap.standing, found.deciles[-1].gap.standing
        if far is not None and near is not None:
            code: ConclusionCode = "likeness-not-shown"
            if near == "costs":
                code = "alike-pictures-cost"
            elif far == "costs":
                code = "only-unlike-pictures-cost"
            yield _said("likeness", code, {"most alike": near, "least alike": far})


def _coverage(coverage: Coverage | None) -> ConclusionCode:
    if coverage is None:
        return "check-2-not-run"
    if coverage.verdict == "FAIL":
        return "captions-damaged"
    if coverage.verdict == "INCONCLUSIVE":
        return "no-captions-counted"
    if any(reason.effect == "warns" for reason in coverage.reasons):
        return "captions-within-limits-with-warnings"
    return "captions-within-limits" if coverage.truncated_pct else "captions-whole"
