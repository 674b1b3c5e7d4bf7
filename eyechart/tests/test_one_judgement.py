"""Ten thousand drawn results: every standing is what scipy gives, and nothing written contradicts it or another."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eyechart.faults.pattern import diagnose_ablation
from eyechart.faults.pattern_of_training import RunContext
from eyechart.reporting.conclusions import said
from eyechart.reporting.explanation import explain
from eyechart.reporting.runbook import render_runbook
from eyechart.reporting.terminal import print_results
from eyechart.reporting.tiles import tiles
from eyechart.results import EXIT_CODES, Finding, LossPoint, Matching, Results, Topic, Training
from standings import MARGINS, Gap, checked, estimated, results_of

DRAWS, PAGES = 10_000, 150
CONDITIONS = (*MARGINS, "no-image", "mean-token", "blind")
BEYOND = ("no-image", "mean-token", "blind")


@dataclass(frozen=True)
class Draw:
    """What a run might measure, however unlikely."""

    gaps: dict[str, Gap]
    beyond: dict[str, Gap]
    samples: int
    available: int
    recall: float
    recall_se: float
    curve: tuple[float, ...]
    step_known: bool


_size = st.one_of(st.floats(-3, 3), st.floats(-0.1, 0.2), st.sampled_from([0.0, 0.05]))
_error = st.one_of(st.floats(0.001, 1.5), st.floats(0.001, 0.03), st.just(0.0))


@st.composite
def draws(draw: st.DrawFn) -> Draw:
    gates = draw(st.sampled_from([tuple(MARGINS)] * 6 + [("shuffled",), ("zero", "noise"), ("shuffled", "zero")]))
    others = [name for name in BEYOND if draw(st.booleans())]
    gaps = {name: (draw(_size), draw(_error)) for name in (*gates, *others)}
    beyond = {name: (gaps["shuffled"][0] - gaps[name][0], draw(_error)) for name in others if "shuffled" in gaps}
    samples = draw(st.sampled_from([4, 16, 60, 128, 300, 5000]))
    curve = tuple(draw(st.lists(st.floats(0.1, 6), max_size=4)))
    return Draw(
        gaps,
        beyond,
        samples,
        draw(st.sampled_from([samples, 2 * samples, 100_000])),
        draw(st.floats(0, 1)),
        draw(st.floats(0.001, 0.2)),
        curve,
        draw(st.booleans()),
    )


def by_scipy(gap: Gap, margin: float, samples: int, upper_level: float) -> str:
    """The standing of a claim, from the document and scipy alone."""
    size, error = gap
    assert error is not None
    if abs(size) < 1e-7 and error < 1e-7:
        return "ruled out"
    lower = size - stats.t.ppf(0.99, samples - 1) * error
    upper = size + stats.t.ppf(upper_level, samples - 1) * error
    return "costs" if lower > margin else "ruled out" if upper <= margin else "open"


def on_edge(gap: Gap, margin: float, samples: int, upper_level: float) -> bool:
    """Where the last digit decides."""
    size, error = gap
    assert error is not None
    bounds = (size + sign * stats.t.ppf(p, samples - 1) * error for sign, p in ((-1, 0.99), (1, upper_level)))
    return any(math.isclose(bound, margin, abs_tol=1e-9) for bound in bounds)


def made(draw: Draw) -> tuple[Results, list[Finding], dict[str, str]]:
    """Results with findings, and the standings as the test computes them."""
    level = 1 - 0.01 / max(1, len(MARGINS.keys() & draw.gaps.keys()))
    expected = {
        name: by_scipy(gap, MARGINS.get(name, 0.0), draw.samples, level if name in MARGINS else 0.99)
        for name, gap in draw.gaps.items()
    }
    expected |= {f"shuffled - {n}": by_scipy(gap, 0.0, draw.samples, 0.99) for n, gap in draw.beyond.items()}
    recall = estimated(draw.recall, draw.recall_se, 1 / 8, draw.samples)
    expected["r_at_1"] = by_scipy((draw.recall, draw.recall_se), 1 / 8, draw.samples, 0.99)
    none = estimated(0.0, 0.0)
    matching = Matching(
        k=8, captions=draw.samples, r_at_1=recall, mrr=none, hard_r_at_1=recall, image_specific_gain=none, infonce=none
    )
    ablation = checked(draw.gaps, samples=draw.samples, beyond=draw.beyond, available=draw.available, matching=matching)
    training = None
    if draw.curve:
        training = Training(
            step=9, updates=9, epochs=len(draw.curve), train_samples=9, eval_samples=9, trained_parameters=1,
            train_loss=draw.curve[-1], eval_loss=draw.curve[-1], seconds=1, samples_per_second=1, peak_memory_gb=0,
            curve=[LossPoint(step=i + 1, train=loss, eval=loss) for i, loss in enumerate(draw.curve)],
        )  # fmt: skip
    findings = diagnose_ablation(ablation, RunContext(training=training, step=9 if draw.step_known else None))
    results = results_of(ablation, training=training, diagnosis=findings)
    return results, findings, expected


# What a sentence claims, by words that no other sentence uses: standing that it needs, by claim.
CLAIMS: dict[str, dict[str, str]] = {
    "The picture is used, and its content matters": dict.fromkeys(MARGINS, "costs"),
    "the content of the picture matters, but not all requirements of a PASS": {"shuffled": "costs"},
    "the content of the picture makes no difference above the margin": {"shuffled": "ruled out"},
    "although the content of the picture matters": {"shuffled": "costs"},
    "and zeros and noise in its place cost too": dict.fromkeys(MARGINS, "costs"),
    "from which picture they come": {"shuffled": "ruled out"},
    "the model loses almost nothing without the picture": dict.fromkeys(MARGINS, "ruled out"),
}


@pytest.mark.slow
@settings(max_examples=DRAWS, deadline=None)
@given(draws())
def test_no_sentence_finding_headline_or_exit_code_contradicts_a_standing_or_another(draw: Draw) -> None:
    judged(draw, sentences)


@settings(max_examples=PAGES, deadline=None)
@given(draws())
def test_no_page_does_either(draw: Draw) -> None:
    judged(draw, written)


def judged(draw: Draw, read: Callable[[Results], str]) -> None:
    """Hold everything that is said of a draw against the standings by scipy."""
    results, findings, expected = made(draw)
    ablation = results.ablation
    assert ablation is not None
    level = 1 - 0.01 / max(1, len(MARGINS.keys() & draw.gaps.keys()))
    if any(
        on_edge(gap, MARGINS.get(name, 0.0), draw.samples, level if name in MARGINS else 0.99)
        for name, gap in draw.gaps.items()
    ):
        return
    # Every standing, and what is derived from it.
    for name in draw.gaps:
        assert ablation.conditions[name].standing == expected[name], name
        above_zero = by_scipy(draw.gaps[name], 0.0, draw.samples, 0.99) == "costs"
        assert ablation.conditions[name].above_zero == above_zero or on_edge(draw.gaps[name], 0.0, draw.samples, 0.99)
    for name, found in ablation.shuffled_beyond.items():
        assert found.standing == expected[f"shuffled - {name}"], name
    gates = [expected.get(name) for name in MARGINS]
    verdict = "FAIL" if "ruled out" in gates else "PASS" if gates == ["costs"] * 3 else "INCONCLUSIVE"
    assert ablation.verdict == verdict
    if verdict == "PASS" and any(finding.severity == "error" for finding in findings):
        verdict = "INCONCLUSIVE"
    assert results.verdict == verdict
    assert EXIT_CODES[results.verdict] == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[verdict]
    # Every sentence asserts what stands.
    for conclusion in results.conclusions:
        for claim, standing in conclusion.asserts.items():
            assert expected.get(claim, expected["r_at_1"]) == standing, (conclusion, claim)
    for reason in ablation.reasons:
        needed = {"gap-costs": "costs", "gap-ruled-out": "ruled out", "gap-unmoved": "ruled out", "gap-open": "open"}
        if reason.code in needed:
            assert expected[reason.about] == needed[reason.code]
    page = read(results)
    for words, claims in CLAIMS.items():
        if words in page:
            assert all(expected.get(claim) == standing for claim, standing in claims.items()), (words, page)
    no_contradiction(page, verdict, expected)
    tiled(results, expected)
    for finding in findings:
        fits(finding, draw, verdict, expected)


def sentences(results: Results) -> str:
    """Every sentence that may stand on a page, without the page."""
    topics = [said(results, topic) for topic in get_args(Topic)]
    return " ".join(f"{explain(results)} {' '.join(topics)} VERDICT: {results.verdict}".split())


def written(results: Results) -> str:
    """All that a person reads, white space collapsed."""
    stream = io.StringIO()
    print_results(results, stream)
    return " ".join(f"{stream.getvalue()} {render_runbook(results)}".split())


def no_contradiction(page: str, verdict: str, expected: dict[str, str]) -> None:
    """Sentences that exclude each other do not stand on one page."""
    assert ("neither shows nor rules out" in page) <= (
        verdict == "INCONCLUSIVE"
        and expected.get("shuffled") != "costs"
        and "ruled out" not in expected.values()
        or verdict == "INCONCLUSIVE"
        and expected.get("shuffled") in ("open", None)
    )
    excluded = [
        ("neither shows nor rules out", "from which picture they come"),
        ("neither shows nor rules out", "and its content matters"),
        ("makes no difference above the margin", "and its content matters"),
        ("makes no difference above the margin", "although the content of the picture matters"),
        ("Whether the content of the picture matters is not decided", "makes no difference above the margin"),
        ("Whether the content of the picture matters is not decided", "and its content matters"),
        ("no better than guessing", "This share is better than guessing"),
    ]
    for one, other in excluded:
        assert not (one in page and other in page), (one, other)
    if verdict != "PASS":
        assert "VERDICT: PASS" not in page and "**PASS**" not in page


def tiled(results: Results, expected: dict[str, str]) -> None:
    """The tiles show the same states."""
    states = {"costs": "good", "ruled out": "bad", "open": "open"}
    for tile in tiles(results):
        if match := re.search(r"\((\w+)\)", tile.label):
            name = match[1] if match[1] in expected else "r_at_1"
            assert tile.state == states[expected[name]], tile


def fits(finding: Finding, draw: Draw, verdict: str, expected: dict[str, str]) -> None:
    """A finding says nothing that the standings do not."""
    told = f"{finding.message} {finding.fix}"
    if finding.code == "constant-prompt":
        assert expected["shuffled"] == "ruled out"
        assert "costs" in [expected.get(n) for n in (*MARGINS, *BEYOND) if n != "shuffled"]
    if finding.code == "eval-too-small":
        assert verdict == "INCONCLUSIVE"
        asked = re.search(r"--num_samples (\d+)", told)
        assert asked is None or int(asked[1]) <= draw.available, "no more samples than there are"
    if finding.code == "under-trained":
        assert draw.curve, "where training stands is read from curves"
        if len(draw.curve) > 1:
            assert draw.curve[-1] < draw.curve[-2], "no longer training where the loss rises"
    if re.search(r"train(?:ing)? longer", told):
        assert len(draw.curve) < 2 or draw.curve[-1] < draw.curve[-2], told


def test_the_claims_of_this_test_are_sentences_that_exist() -> None:
    """A sentence that is reworded must be reworded here too, or nothing would be tested."""
    good, none = (1.0, 0.01), (0.0, 0.001)
    seen = ""
    for gaps in (
        {"shuffled": good, "zero": good, "noise": good},
        {"shuffled": good, "zero": (-0.1, 0.01), "noise": good},
        {"shuffled": good, "zero": (0.0, 0.1), "noise": good},
        {"shuffled": none, "zero": good, "noise": good},
        {"shuffled": none, "zero": (-0.1, 0.01), "noise": (-0.1, 0.01)},
        {"shuffled": (0.0, 0.1), "zero": (0.0, 0.1), "noise": (0.0, 0.1)},
        {"shuffled": (0.0, 0.1), "zero": (-1.0, 0.1), "noise": (0.0, 0.1)},
    ):
        for recall in (0.0, 0.9):
            results, _, _ = made(Draw(gaps, {}, 100, 100, recall, 0.01, (), True))
            seen += written(results) + said(results, "matching")
    for words in CLAIMS:
        assert words in seen, words
    for words in (
        "neither shows nor rules out",
        "no better than guessing",
        "Whether the content of the picture matters",
    ):
        assert words in seen, words


@pytest.mark.parametrize("gates", [1, 2, 3])
def test_the_levels_are_those_of_the_document(gates: int) -> None:
    gaps = dict(list({"shuffled": (1.0, 0.1), "zero": (1.0, 0.1), "noise": (1.0, 0.1)}.items())[:gates])
    for condition in list(checked({**gaps, "no-image": (1.0, 0.1)}).conditions.values())[1:]:
        level = 1 - 0.01 / gates if condition.gate else 0.99
        assert condition.upper_level == level
        assert condition.upper == pytest.approx(1.0 + 0.1 * stats.t.ppf(level, 99))
        assert condition.lower99 == pytest.approx(1.0 - 0.1 * stats.t.ppf(0.99, 99))
