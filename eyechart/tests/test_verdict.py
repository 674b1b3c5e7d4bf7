"""PASS, FAIL or INCONCLUSIVE: every rule, at its edge, with the reason a person reads."""

from __future__ import annotations

import pytest
from scipy import stats

from eyechart.verdict.statistics import Estimate, needed_samples
from eyechart.verdict.verdict import Gate, Missing, judge

MARGINS = {"shuffled": 0.05, "zero": 0.0, "noise": 0.0}


def gate(name, gap, se=0.01, samples=100):
    return Gate(name, MARGINS[name], Estimate(gap, se, samples, samples))


def judged(*changed, missing=None, non_finite=(), samples=100, requested=100):
    """Three healthy gates, some of them changed."""
    gates = {name: gate(name, 1.0) for name in MARGINS} | {g.name: g for g in changed}
    measured = [g for g in gates.values() if g.name not in non_finite]
    return judge(measured, non_finite, missing or Missing(), samples, requested)


def test_all_gates_above_their_margins_pass():
    got = judged()
    assert got.verdict == "PASS"
    assert got.needed_samples is None
    assert len(got.reasons) == 3
    assert "gap(shuffled) +1.0000 +- 0.0100 nats/token" in got.reasons[0]
    assert "99% lower bound +0.9764 is above the margin 0.05" in got.reasons[0]


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


@pytest.mark.parametrize("name", list(MARGINS))
def test_a_gap_of_exactly_zero_fails(name):
    got = judged(gate(name, 0.0, se=0.0))
    assert got.verdict == "FAIL"
    assert f"gap({name}) is exactly 0" in got.reasons[0]


def test_a_loss_that_is_not_finite_fails_and_is_named():
    got = judged(non_finite=("noise",))
    assert got.verdict == "FAIL"
    assert "loss(noise) is not finite" in got.reasons[0]


def test_an_undecided_gate_says_how_many_samples_would_decide():
    got = judged(gate("shuffled", 0.25, se=0.1))
    assert got.verdict == "INCONCLUSIVE"
    assert got.needed_samples == needed_samples(sd=1.0, gap=0.25, margin=0.05) == 326
    assert "about 326 samples would decide" in got.reasons[0]


def test_the_slowest_undecided_gate_sets_the_number():
    got = judged(gate("shuffled", 0.25, se=0.1), gate("zero", 0.1, se=0.1))
    assert got.needed_samples == needed_samples(sd=1.0, gap=0.1, margin=0.0)


def test_one_gate_below_its_margin_decides_alone():
    got = judged(gate("shuffled", 0.06, se=0.1), gate("zero", -0.1, se=0.1))
    assert got.needed_samples == needed_samples(sd=1.0, gap=-0.1, margin=0.0, level=1 - 0.01 / 3)


def test_a_gap_on_its_margin_has_no_number():
    got = judged(gate("shuffled", 0.05, se=0.1))
    assert got.verdict == "INCONCLUSIVE"
    assert got.needed_samples is None
    assert "no number of samples decides" in got.reasons[0]


def test_few_samples_are_never_told_that_fewer_would_do():
    got = judged(gate("zero", 1.0, se=0.4, samples=3), samples=3, requested=3)
    assert needed_samples(sd=0.4 * 3**0.5, gap=1.0, margin=0) < 64
    assert got.needed_samples == 64


def test_no_standard_error_is_inconclusive():
    alone = Gate("zero", 0.0, Estimate(1.0, None, 3, 1))
    got = judged(alone)
    assert got.verdict == "INCONCLUSIVE"
    assert "3 samples show 1 distinct images, at least 2 are needed" in got.reasons[0]


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (Missing(left_out=("noise",)), "the gates noise were not scored"),
        (Missing(donor_shortage="only 2 of 4 exist"), "only 2 of 4 exist"),
        (
            Missing(unscored={"image missing": 2, "no label tokens": 1}),
            "3 held-out samples could not be scored (2 image",
        ),
    ],
)
def test_missing_evidence_turns_pass_into_inconclusive_but_not_fail_into_anything(missing, sentence):
    got = judged(missing=missing)
    assert got.verdict == "INCONCLUSIVE"
    assert any(sentence in reason for reason in got.reasons)
    assert got.needed_samples is None, "more samples do not mend what was left out"
    assert judged(gate("zero", -1.0), missing=missing).verdict == "FAIL"


def test_a_smaller_held_out_split_is_a_warning_with_both_numbers():
    got = judged(samples=100, requested=128)
    assert got.verdict == "PASS"
    assert got.reasons[-1] == "warning: 128 samples were requested and 100 scored: the held-out split has no more"


def test_no_evidence_at_all_is_inconclusive():
    assert judge([], (), Missing(), 100, 100).verdict == "INCONCLUSIVE", "no gate, no PASS"
    assert judge([], (), Missing(), 0, 128).verdict == "INCONCLUSIVE"
    assert judge([], (), Missing(left_out=tuple(MARGINS)), 100, 100).verdict == "INCONCLUSIVE"


def test_failures_come_first():
    got = judged(gate("noise", -1.0), gate("zero", 0.0, se=0.1))
    assert [reason.split()[0] for reason in got.reasons] == ["gap(noise)", "gap(zero)", "gap(shuffled)"]
