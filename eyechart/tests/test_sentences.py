"""Every code of the results has its sentence, in plain words and with its figures; and sentences follow standings."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from markupsafe import Markup

from eyechart.reporting import plots
from eyechart.reporting.conclusions import said
from eyechart.reporting.conditions import MEANINGS
from eyechart.reporting.html import render_html
from eyechart.reporting.reasons import reasons_of
from eyechart.reporting.remarks import made, sentence
from eyechart.reporting.runbook import render_runbook
from eyechart.reporting.terminal import print_results
from eyechart.results import (
    Ablation,
    ConclusionCode,
    Condition,
    Coverage,
    Decile,
    Estimated,
    Finding,
    Matching,
    Reason,
    ReasonCode,
    Remark,
    RemarkCode,
    Results,
    Topic,
    WordGap,
    Words,
)
from eyechart.scoring.conditions import CONDITIONS
from eyechart.verdict.influence import Influence, warning
from eyechart.verdict.statistics import Estimate
from eyechart.verdict.verdict import Gate, Missing
from standings import Gap, checked, covered, estimated, results_of, share, split_of

YES, NO, OPEN = (1.0, 0.05), (0.0, 0.0), (0.03, 0.1)
"""Gaps that surely exceed every margin, surely do not, and neither."""
NEITHER = (-0.1, 0.01)
"""As NO, with a spread: no sentence may say that it is exactly 0."""
SHORTAGE = {"found": 1, "requested": 4, "samples": 5, "same_image": 3, "same_caption": 2, "searched": 0}


def gates(shuffled: Gap, zero: Gap, noise: Gap, **more: Gap) -> dict[str, Gap]:
    return {"shuffled": shuffled, "zero": zero, "noise": noise, **more}


def matched(r_at_1: float, hard: float, far: Gap, near: Gap) -> Matching:
    """Matching among 12 images: chance is 8%."""
    between = [Decile(similarity=(i / 10, i / 10 + 0.1), pairs=40, gap=estimated(*far)) for i in range(9)]
    return Matching(
        k=12,
        wanted_k=32,
        captions=100,
        r_at_1=share(r_at_1, chance=1 / 12),
        mrr=share(0.5),
        hard_r_at_1=share(hard, chance=1 / 12),
        image_specific_gain=estimated(3.0, 0.1),
        infonce=estimated(1.0, 0.1),
        deciles=[*between, Decile(similarity=(0.9, 1.0), pairs=40, gap=estimated(*near))],
    )


def unmatched(problem: str) -> Matching:
    nothing = Estimated(value=None)
    figures = {name: nothing for name in ("r_at_1", "mrr", "hard_r_at_1", "image_specific_gain", "infonce")}
    return Matching.model_validate({"k": 1, "wanted_k": 32, "captions": 100, "problem": problem, **figures})


def words(most: int = 4) -> Words:
    listed = [WordGap(word=f"word{i}", count=60 - i, gap=4.0 - i, share=0.1) for i in range(most)]
    return Words(
        most_reliant=listed,
        least_reliant=listed[::-1],
        largest_share=listed,
        min_count=5,
        distinct_words=48,
        first_content_word=estimated(2.1, 0.1),
        eos=estimated(0.02, 0.01),
        gap_with_eos=0.9,
        gap_without_eos=1.0,
        captions=100,
        without_content_word=3,
        half_of_gap=7,
    )


def runs() -> Iterator[Results]:
    """Runs that between them allow every conclusion."""
    whole = covered({64: 100})
    for shuffled in (YES, NO, NEITHER, OPEN, (0.02, 0.002)):
        for zero in (YES, NEITHER, OPEN):
            for noise in (YES, NEITHER, OPEN):
                yield results_of(checked(gates(shuffled, zero, noise)), whole)
    yield results_of(None, None)
    yield results_of(None, whole)
    yield results_of(checked({}, samples=0), whole)
    yield results_of(checked({"zero": NEITHER, "noise": YES}), whole)
    yield results_of(checked(gates(YES, YES, YES), not_finite=["noise"]), whole)
    yield results_of(checked(gates(YES, YES, YES), not_finite=["correct"]), whole)
    fine = gates(YES, YES, YES)
    yield results_of(checked(fine, missing=Missing(unscored={"image missing": 1})), whole)
    yield results_of(checked(fine), None)
    for counted in (
        covered({64: 50, 600: 50}),
        covered({64: 985, 600: 15}),
        covered({64: 995, 600: 5}),
        covered({64: 100}, zero_label=1),
        covered({64: 100}, image_cut=1),
        covered({}),
    ):
        yield results_of(checked(fine), counted)
        yield results_of(checked(gates(OPEN, YES, YES)), counted)
        yield results_of(None, counted)
    beyond = {"no-image": YES, "mean-token": NEITHER, "blind": OPEN}
    for blind in (YES, NEITHER, OPEN):
        gaps = gates(YES, YES, YES, blind=blind)
        yield results_of(checked(gaps, beyond=beyond, decomposition=split_of(gaps, blind_still_falling=True)), whole)
    late = gates(YES, YES, YES, blind=YES) | {"no-image": (0.2, 0.01)}
    yield results_of(checked(late, decomposition=split_of(late)), whole)
    for found in (
        matched(0.97, 0.7, YES, YES),
        matched(0.01, 0.01, YES, NEITHER),
        matched(0.09, 0.09, OPEN, OPEN),
        unmatched("no-two-samples-differ"),
        unmatched("not-finite"),
    ):
        yield results_of(checked(fine, matching=found), whole)
    yield results_of(checked(fine, words=words()), whole)
    yield results_of(checked(fine, words=words(0)), whole)
    yield results_of(checked(gates(NEITHER, YES, YES), words=words()), whole)


def checks() -> Iterator[Ablation | Coverage]:
    """Checks that between them have every reason."""
    for results in runs():
        yield from (check for check in (results.ablation, results.coverage) if check is not None)
    yield checked(gates((0.4, None), (0.3, None), (0.2, None)), samples=5, clusters=1)
    yield checked({"shuffled": YES, "zero": YES})
    yield checked({"shuffled": YES})
    yield checked(gates((0.05, 0.1), YES, YES))
    for searched in (0, 50):
        yield checked(gates(YES, YES, YES), missing=Missing(donor_shortage={**SHORTAGE, "searched": searched}))
    for available in (None, 110, 128):
        yield checked(gates(YES, YES, YES), requested=128, available=available)
    yield checked(gates(YES, YES, YES), requested=101, missing=Missing(unscored={"image missing": 1}))
    yield covered({64: 2000}, zero_label=1)
    yield covered({64: 10, 600: 10}, max_seq_len=96, rejected={"caption blank": 1200}, image_cut=3)
    for without, share_of_gap in ((Estimate(0.4, 0.01, 98, 98), 0.6), (Estimate(0.06, 0.1, 98, 98), 0.3)):
        estimate = Estimate(1.0, 0.05, 100, 100)
        gate = Gate.of("shuffled", 0.05, estimate, 3)
        after = Gate.of("shuffled", 0.05, without, 3).stand.standing
        found = Influence(4, without, gate.stand.standing, after, share_of_gap)
        made_up = checked(gates((1.0, 0.05), YES, YES))
        yield made_up.model_copy(update={"reasons": [*made_up.reasons, warning(found, gate, 4, "4.png")]})


REMARK_FIGURES: dict[str, dict[str, Any]] = {
    "donors-from-all-samples": {"derangements": 4},
    "slots-share-images": {"others": 3, "slots": 8},
    "pixels-left-in-place": {"height": 65, "width": 67, "grid": 2, "rows": 1, "columns": 1},
    "mean-has-seen-scored-images": {"shared": 2, "images": 9},
    "labels-to-template-end": {"end": "</s>"},
    "labels-to-eos": {"end": "</s>"},
    "images-resized": {"width": 28, "height": 30, "tokens": 4},
    "images-resized-untiled": {"width": 28, "height": 30, "tokens": 4},
    "mean-of-the-scored-file": {"shared": 2, "images": 9},
    "writing-failed": {"error": "ValueError", "message": "no {generate} here: {0}"},
    "probes-failed": {"error": "ValueError", "message": "no probes here"},
    "other-door-failed": {"reason": "the self-test `leak` failed"},
    "answers-only": {"other_labels": 12},
    "text-only-rows": {"rows": 3},
    "donors-resampled": {"resampled": 2, "donors": 16},
}


def plain_sentences(text: str) -> list[str]:
    """The sentences of a text, after a check for remains of a template or a missing figure."""
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b|  | [,.;:]|\.\.|\(\)|''", text), text
    assert not re.search(r"(?<![\d,])1 (samples|images|distinct images|captions|rows)\b", text), text
    return re.split(r"(?<=[.!?]) (?=\S)", text)


def starts_well(text: str) -> bool:
    """With a capital letter, a number, or the name of a figure or an option as it is written."""
    return re.match(r"[A-Z]|[+\u2212\d]|gap\(|loss\(|max_seq_len|--\w", text) is not None


def test_these_runs_allow_every_conclusion() -> None:
    faulty = results_of(
        checked(gates(YES, YES, YES)), diagnosis=[Finding(code="image-order", severity="error", message="mixed")]
    )
    chosen = {conclusion.code for results in [*runs(), faulty] for conclusion in results.conclusions}
    assert "image-order" in said(faulty, "headline")
    assert chosen == set(get_args(ConclusionCode))


@pytest.mark.parametrize("topic", get_args(Topic))
def test_every_conclusion_is_told_in_whole_sentences(topic: Topic) -> None:
    for results in runs():
        text = said(results, topic)
        assert bool(text) == any(conclusion.topic == topic for conclusion in results.conclusions)
        if text:
            assert text.endswith("."), text
            assert "{" not in text and "}" not in text, text
            assert all(map(starts_well, plain_sentences(text))), text


def test_the_pattern_does_not_repeat_the_headline() -> None:
    for results in runs():
        text = f"{said(results, 'headline')} {said(results, 'pattern')}".lower()
        clauses = [clause for clause in re.split(r"[.:;] ?", text) if len(clause.split()) > 4]
        assert len(clauses) == len(set(clauses)), text


def test_these_checks_have_every_reason() -> None:
    given = {reason.code for check in checks() for reason in check.reasons}
    assert given == set(get_args(ReasonCode))


def test_every_reason_is_told_in_one_sentence() -> None:
    for check in checks():
        for reason, text in reasons_of(check):
            assert len(plain_sentences(text)) == 1 and starts_well(text), text
            assert not text.endswith(".") and "{" not in text and "}" not in text, text
            assert text.startswith("Warning: ") == (reason.effect == "warns"), text


def test_the_made_up_figures_are_those_of_remarks_that_exist() -> None:
    assert REMARK_FIGURES.keys() <= set(get_args(RemarkCode))


@pytest.mark.parametrize("code", get_args(RemarkCode))
def test_every_remark_is_told_in_one_sentence(code: RemarkCode) -> None:
    figures = REMARK_FIGURES.get(code, {})
    text = sentence(Remark(code=code, about="zero", figures=figures))
    assert len(plain_sentences(text)) == 1 and starts_well(text), text
    assert all(str(value) in text for value in figures.values()), "the text of a user's error is not a template"
    told = [value for value in figures.values() if isinstance(value, str)]
    assert "{" in text or not re.search(r"[{}]", text.replace("".join(told), ""))


def test_what_a_remark_and_a_note_say_is_told_with_what_it_is_about() -> None:
    remark = Remark(code="no-mean", about="mean-token", left_out=True)
    told = made(checked(gates(YES, YES, YES), remarks=[remark], notes={"template": "as trained"}))
    assert told == [
        ("mean-token", "Left out. No mean of training images is available."),
        ("template", "as trained"),
    ]


def test_every_condition_has_a_meaning() -> None:
    assert MEANINGS.keys() == CONDITIONS.keys()


@pytest.mark.parametrize("noise", [YES, NEITHER, OPEN], ids=["costs", "ruled out", "open"])
@pytest.mark.parametrize("shuffled", [YES, NEITHER, OPEN], ids=["costs", "ruled out", "open"])
def test_noise_alone_is_one_thing(shuffled: Gap, noise: Gap) -> None:
    """Zeros are many and noise is one: `noise costs`, `zeros and noise cost`."""
    for zero in (YES, NEITHER, OPEN):
        results = results_of(checked(gates(shuffled, zero, noise)), None)
        text = f"{said(results, 'headline')} {said(results, 'pattern')}"
        for verb in re.findall(
            r"(?:zeros (?:and|or) )?[Nn]oise in (?:its place|place of the picture) (\w+)", text, re.I
        ):
            assert verb in ("costs", "raises") or re.search(rf"zeros (and|or) noise in [\w ]+ {verb}\b", text, re.I)
        assert not re.search(r"(and|or) noise in [\w ]*?(place|picture) (costs|raises)\b", text)
        assert not re.search(r"(?<!and )(?<!or )\bnoise in (its place|place of the picture) (cost|raise)\b", text, re.I)


def test_a_failed_second_check_is_told_where_the_first_leaves_the_verdict_to_it() -> None:
    damaged = covered({64: 50, 600: 50})
    for ablation in (checked(gates(OPEN, YES, YES)), checked({}, samples=0), None):
        results = results_of(ablation, damaged)
        assert results.verdict == "FAIL"
        assert "At max_seq_len 512, truncation or missing labels exceed the limits." in said(results, "headline")
    without = results_of(checked(gates(OPEN, YES, YES)), covered({64: 100}))
    assert "max_seq_len" not in said(without, "headline")


def test_a_gate_whose_picture_surely_costs_something_is_not_said_to_cost_nothing() -> None:
    little = results_of(checked(gates((0.02, 0.002), YES, YES)), None)
    assert "hardly matters" in said(little, "pattern")
    assert "does not" in said(results_of(checked(gates(NEITHER, YES, YES)), None), "pattern")


def test_every_run_makes_every_page_and_every_drawing_says_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    alts: list[str] = []
    monkeypatch.setattr(plots, "as_svg", lambda figure, alt, name: alts.append(alt) or Markup("<svg></svg>"))
    for results in runs():
        stream = io.StringIO()
        print_results(results, stream)
        styled = re.sub(r"<style>.*?</style>", "", render_html(results), flags=re.DOTALL)
        for page in (stream.getvalue(), render_runbook(results), styled):
            assert results.verdict in page
            assert not re.search(r"\bNone\b|\bnan\b|\{\{", page)
    assert len(alts) > 50 and all(alts)


def test_a_reason_that_has_no_sentence_is_not_passed_over() -> None:
    made_up = checked(gates(YES, YES, YES)).model_copy(
        update={
            "reasons": [Reason(code="within-limits", effect="passes")],
            "conditions": {"correct": Condition(loss=1)},
        }
    )
    with pytest.raises(KeyError):
        list(reasons_of(made_up))
