"""PASS, FAIL or INCONCLUSIVE: every rule, at its edge, with the code of its reason."""

from __future__ import annotations

import pytest
from scipy import stats

from eyechart.reporting.explanation import explain
from eyechart.results import Finding
from eyechart.verdict.standing import stand, stand_gap, unmoved
from eyechart.verdict.statistics import Estimate, needed_samples
from eyechart.verdict.verdict import Counts, Gate, Missing, judge
from standings import checked, results_of

MARGINS = {"shuffled": 0.05, "zero": 0.0, "noise": 0.0}


def gate(name, gap, se=0.01, samples=100):
    return Gate.of(name, MARGINS[name], Estimate(gap, se, samples, samples), len(MARGINS))


def judged(*changed, missing=None, non_finite=(), samples=100, requested=100):
    """Three healthy gates, some of them changed."""
    gates = {name: gate(name, 1.0) for name in MARGINS} | {g.name: g for g in changed}
    measured = [g for g in gates.values() if g.name not in non_finite]
    return judge(measured, non_finite, missing or Missing(), Counts(samples, requested))


def said(got):
    """Codes with what they are about, in order."""
    return [(reason.code, reason.about) for reason in got.reasons]


def test_all_gates_above_their_margins_pass():
    got = judged()
    assert got.verdict == "PASS"
    assert got.needed_samples is None
    assert said(got) == [("gap-costs", name) for name in MARGINS]
    assert {reason.effect for reason in got.reasons} == {"passes"}


@pytest.mark.parametrize("name", list(MARGINS))
def test_the_lower_bound_must_exceed_the_margin(name):
    reach = 0.01 * stats.t.ppf(0.99, 99)
    assert judged(gate(name, MARGINS[name] + reach + 1e-6)).verdict == "PASS"
    assert judged(gate(name, MARGINS[name] + reach - 1e-6)).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("name", list(MARGINS))
def test_the_upper_bound_that_fails_is_corrected_for_three_gates(name):
    reach = 0.01 * stats.t.ppf(1 - 0.01 / 3, 99)
    assert judged(gate(name, MARGINS[name] - reach - 1e-6)).verdict == "FAIL"
    assert judged(gate(name, MARGINS[name] - reach + 1e-6)).verdict == "INCONCLUSIVE"


def test_a_bound_on_its_margin_is_ruled_out_above_and_not_yet_a_cost_below():
    assert stand(-1.0, 0.05, margin=0.05) == "ruled out"
    assert stand(0.05, 1.0, margin=0.05) == "open"
    assert stand(None, 0.0, margin=0.05) == stand(1.0, None, margin=0.05) == "open", "one bound decides nothing"


@pytest.mark.parametrize("name", list(MARGINS))
def test_a_gap_of_exactly_zero_fails(name):
    got = judged(gate(name, 0.0, se=0.0))
    assert got.verdict == "FAIL"
    assert said(got)[0] == ("gap-unmoved", name)


def test_a_loss_that_is_not_finite_fails_and_is_named():
    got = judged(non_finite=("noise",))
    assert got.verdict == "FAIL"
    assert said(got)[0] == ("not-finite", "noise")


def test_an_undecided_gate_says_how_many_samples_would_decide():
    got = judged(gate("shuffled", 0.25, se=0.1))
    assert got.verdict == "INCONCLUSIVE"
    assert got.needed_samples == needed_samples(sd=1.0, gap=0.25, margin=0.05) == 326
    assert said(got)[0] == ("gap-open", "shuffled")


def test_the_slowest_undecided_gate_sets_the_number():
    got = judged(gate("shuffled", 0.25, se=0.1), gate("zero", 0.1, se=0.1))
    assert got.needed_samples == needed_samples(sd=1.0, gap=0.1, margin=0.0)


def test_one_gate_below_its_margin_decides_alone():
    got = judged(gate("shuffled", 0.06, se=0.1), gate("zero", -0.1, se=0.1))
    assert got.needed_samples == needed_samples(sd=1.0, gap=-0.1, margin=0.0, level=1 - 0.01 / 3)


def test_a_gate_above_its_margin_does_not_lower_the_number_of_one_below():
    got = judged(gate("shuffled", 0.25, se=0.1), gate("zero", -0.05, se=0.1))
    assert got.needed_samples == needed_samples(sd=1.0, gap=-0.05, margin=0.0, level=1 - 0.01 / 3)
    assert got.needed_samples > needed_samples(sd=1.0, gap=0.25, margin=0.05)


def test_an_open_gate_needs_at_least_one_sample_more_than_it_has():
    two_images = Gate.of("zero", 0.0, Estimate(0.5, 0.1, 100, 2), 1)
    assert two_images.stand.standing == "open"
    assert needed_samples(sd=1.0, gap=0.5, margin=0.0) < 100
    assert two_images.needed == 101


@pytest.mark.parametrize(
    ("gap", "se", "none"),
    [
        (0.0, 0.0, True),
        (9e-8, 9e-8, True),
        (1e-7, 0.0, False),
        (0.0, 1e-7, False),
        (-1.0, 0.0, False),
        (None, 0.0, False),
        (0.0, None, False),
    ],
)
def test_no_difference_means_that_gap_and_standard_error_are_both_rounding(gap, se, none):
    assert unmoved(gap, se) is none


def test_a_difference_by_rounding_is_ruled_out_unless_the_margin_is_negative():
    rounding = Estimate(5e-8, 1e-12, 100, 100)
    assert stand_gap(rounding).standing == stand_gap(rounding, margin=0.05).standing == "ruled out"
    assert stand_gap(rounding, margin=-0.05).standing == "costs"
    assert stand_gap(rounding).lower > 0 and not stand_gap(rounding).above_zero


def test_above_zero_needs_a_lower_bound_above_zero():
    assert stand_gap(Estimate(1.0, 0.1, 100, 100), margin=2.0).above_zero
    assert not stand_gap(Estimate(0.1, 0.1, 100, 100)).above_zero
    assert not stand_gap(Estimate(1.0, None, 3, 1)).above_zero


def test_a_gap_on_its_margin_has_no_number():
    got = judged(gate("shuffled", 0.05, se=0.1))
    assert got.verdict == "INCONCLUSIVE"
    assert got.needed_samples is None
    assert gate("shuffled", 0.05, se=0.1).needed is None


def test_few_samples_are_never_told_that_fewer_are_enough():
    got = judged(gate("zero", 1.0, se=0.4, samples=3), samples=3, requested=3)
    assert needed_samples(sd=0.4 * 3**0.5, gap=1.0, margin=0) < 64
    assert got.needed_samples == 64


def test_no_standard_error_is_inconclusive():
    alone = Gate.of("zero", 0.0, Estimate(1.0, None, 3, 1), 3)
    got = judged(alone)
    assert got.verdict == "INCONCLUSIVE"
    assert said(got)[0] == ("one-distinct-image", "zero")
    assert got.reasons[0].figures == {"samples": 3, "images": 1}


@pytest.mark.parametrize(
    ("missing", "code", "figures"),
    [
        (Missing(left_out=("noise",)), "gates-not-scored", {"gates": ["noise"]}),
        (Missing(donor_shortage={"found": 2}), "too-few-donors", {"found": 2}),
        (Missing(unscored={"image missing": 2}), "samples-not-scored", {"by_reason": {"image missing": 2}}),
    ],
)
def test_missing_evidence_turns_pass_into_inconclusive_but_not_fail_into_anything(missing, code, figures):
    got = judged(missing=missing)
    assert got.verdict == "INCONCLUSIVE"
    assert any((reason.code, reason.figures) == (code, figures) for reason in got.reasons)
    assert got.needed_samples is None, "more samples do not bring back what was left out"
    assert judged(gate("zero", -1.0), missing=missing).verdict == "FAIL"


def test_a_smaller_held_out_split_is_a_warning_with_both_numbers():
    got = judged(samples=100, requested=128)
    assert got.verdict == "PASS"
    assert (got.reasons[-1].code, got.reasons[-1].effect) == ("fewer-than-requested", "warns")
    assert got.reasons[-1].figures == {"requested": 128, "scored": 100, "unscored": 0}


def test_no_evidence_at_all_is_inconclusive():
    assert judge([], (), Missing(), Counts(100, 100)).verdict == "INCONCLUSIVE", "no gate, no PASS"
    assert judge([], (), Missing(), Counts(0, 128)).verdict == "INCONCLUSIVE"
    assert judge([], (), Missing(left_out=tuple(MARGINS)), Counts(100, 100)).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(("severity", "verdict"), [("error", "INCONCLUSIVE"), ("warning", "PASS"), ("note", "PASS")])
def test_an_error_beside_met_gates_bars_a_pass_and_nothing_else_does(severity, verdict):
    good = {"shuffled": (1.0, 0.01), "zero": (1.0, 0.01), "noise": (1.0, 0.01)}
    found = [Finding(code="image-order", severity=severity, message="samples get each other's images")]
    results = results_of(checked(good), diagnosis=found)
    assert results.ablation.verdict == "PASS", "the gates stay as they are"
    assert results.verdict == verdict
    assert ("image-order" in explain(results)) == (severity == "error")
    bad = results_of(checked(good | {"zero": (-1.0, 0.01)}), diagnosis=found)
    assert bad.verdict == "FAIL"


def test_failures_come_first():
    got = judged(gate("noise", -1.0), gate("zero", 0.0, se=0.1))
    assert said(got) == [("gap-ruled-out", "noise"), ("gap-open", "zero"), ("gap-costs", "shuffled")]
