"""The pattern of check 1: each fault's pattern is named, and no healthy one is, however little was trained."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.faults.pattern import asks_for_rivals, diagnose_ablation
from eyechart.faults.pattern_of_training import RunContext
from eyechart.faults.rivals import Rivals
from eyechart.faults.table import finding
from eyechart.results import Ablation, Condition, Estimated, EvalPart, LossPoint, Matching, Training, Verdict
from eyechart.verdict.statistics import Estimate
from standings import checked, estimated

VOCABULARY = 700


def ablation(
    correct: float = 0.8,
    verdict: Verdict | None = None,
    needed: int | None = None,
    beyond: tuple[float, float] | None = None,
    **gaps: tuple[float, float],
) -> Ablation:
    """Gaps and their standard errors by condition; `no_image` stands for no-image, `beyond` is shuffled over it."""
    named = {name.replace("_", "-"): value for name, value in gaps.items()}
    changes: dict[str, Any] = {} if verdict is None else {"verdict": verdict, "needed_samples": needed}
    if beyond is None and {"shuffled", "no-image"} <= named.keys():
        difference = named["shuffled"][0] - named["no-image"][0]
        beyond = difference, math.hypot(named["shuffled"][1], named["no-image"][1])
    return checked(named, correct, beyond={"no-image": beyond} if beyond else {}, **changes)


def training(*curve: float, step: int = 300, train_loss: float | None = None) -> Training:
    return Training(
        step=step,
        updates=75,
        epochs=len(curve),
        train_samples=600,
        eval_samples=100,
        trained_parameters=1,
        train_loss=curve[-1] if train_loss is None else train_loss,
        eval_loss=curve[-1],
        seconds=1,
        samples_per_second=1,
        peak_memory_gb=0,
        curve=[LossPoint(step=i + 1, train=loss, eval=loss) for i, loss in enumerate(curve)],
    )


def codes(seen: Ablation, **known: object) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in diagnose_ablation(seen, RunContext(**known))]  # type: ignore[arg-type]


NOTHING_MOVES = {"shuffled": (0.0, 0.0), "zero": (0.0, 0.0), "noise": (0.0, 0.0)}
# Measured on the tiny world: 600 scenes, pairs rolled by one.
ROLLED = {"shuffled": (-0.0001, 0.0005), "zero": (1.495, 0.071), "noise": (1.652, 0.071), "no_image": (0.003, 0.004)}
# The same for healthy runs: two epochs, one epoch of 200 rows, a fifth of the learning rate, the whole trial.
_NAMES = ("shuffled", "zero", "noise", "no_image")
_MEASURED: dict[str, tuple[float, Verdict, tuple[tuple[float, float], ...]]] = {
    "short": (0.812, "PASS", ((0.473, 0.025), (1.6, 0.066), (1.818, 0.06), (0.14, 0.01))),
    "shorter": (1.023, "FAIL", ((0.012, 0.003), (1.39, 0.07), (1.6, 0.06), (-0.07, 0.011))),
    "slow": (1.193, "FAIL", ((0.025, 0.003), (1.22, 0.06), (1.44, 0.06), (-0.24, 0.03))),
    "whole": (0.167, "PASS", ((3.244, 0.067), (2.37, 0.07), (2.546, 0.07), (0.774, 0.009))),
    "first steps": (2.4, "FAIL", ((-0.001, 0.002), (0.1, 0.03), (0.3, 0.05), (-1.4, 0.06))),
}
HEALTHY = {
    name: (correct, verdict, dict(zip(_NAMES, gaps, strict=True)))
    for name, (correct, verdict, gaps) in _MEASURED.items()
}


def test_conditions_that_change_nothing_at_all_mean_not_injected() -> None:
    assert codes(ablation(**NOTHING_MOVES)) == [("not-injected", "error")]
    assert codes(ablation(**NOTHING_MOVES, no_image=(0.3, 0.01))) == [("not-injected", "error")]


def test_a_destroyed_picture_that_changes_nothing_while_another_does_is_a_leak() -> None:
    leaking = ablation(shuffled=(0.4, 0.02), zero=(0.0, 0.0), noise=(0.0, 0.0))
    assert codes(leaking) == [("leak", "error")]


def rival(gap: float, se: float = 0.01) -> Estimate:
    return Estimate(gap, se, 64, 64)


LEARNT = Rivals((rival(0.9), rival(0.95), rival(1.0)))
"""Three fresh connectors whose tokens are far worse than the trained one's."""


def test_a_wrong_picture_that_costs_nothing_while_fresh_tokens_cost_is_a_constant_prompt() -> None:
    assert codes(ablation(0.946, **ROLLED), rivals=LEARNT) == [("constant-prompt", "error")]
    exactly = {**ROLLED, "shuffled": (0.0, 0.0)}
    assert codes(ablation(0.946, **exactly), rivals=LEARNT) == [("constant-prompt", "error")]


@pytest.mark.parametrize(
    "fresh",
    [(0.0, 0.2, 0.4), (-0.2, 0.1, 0.3), (0.3, 0.6, 0.9), (0.001, 0.002, 0.002)],
    ids=["its own start", "one is better", "no farther than they differ", "by less than their error"],
)
def test_tokens_that_are_no_better_than_those_of_fresh_connectors_are_no_learnt_prompt(
    fresh: tuple[float, ...],
) -> None:
    # SmolLM2-135M with an untrained connector: any tokens are better than zeros, noise or a bare prompt.
    found = codes(ablation(0.946, **ROLLED), rivals=Rivals(tuple(map(rival, fresh))))
    assert found == [("under-trained", "note")]


def test_without_fresh_connectors_only_random_tokens_count_and_the_finding_is_a_warning() -> None:
    assert codes(ablation(0.946, **ROLLED)) == [("constant-prompt", "warning")]
    assert "is based on random tokens alone" in diagnose_ablation(ablation(0.946, **ROLLED))[0].message
    bare = {**ROLLED, "noise": (0.001, 0.002), "no_image": (2.4, 0.1)}
    assert codes(ablation(0.946, **bare)) == [], "zeros and a bare prompt are worse than any tokens"


def test_rivals_are_needed_only_where_a_wrong_picture_costs_nothing() -> None:
    assert asks_for_rivals(ablation(0.946, "FAIL", **ROLLED))
    assert not asks_for_rivals(ablation(0.812, **HEALTHY["short"][2]))
    assert not asks_for_rivals(ablation(1.2, "FAIL", shuffled=(0.08, 0.02), zero=(-0.2, 0.06), noise=(1.4, 0.06)))


def test_the_message_of_a_constant_prompt_tells_that_matching_is_at_chance() -> None:
    chance = Estimated(value=0.03, ci95=(0.0, 0.08), margin=1 / 32, standing="open")
    matching = Matching(
        k=32, captions=100, r_at_1=chance, mrr=chance, hard_r_at_1=chance, image_specific_gain=chance, infonce=chance
    )
    seen = ablation(0.946, **ROLLED).model_copy(update={"matching": matching})
    assert "captions identify their own among 32 images (R@1 3%)" in diagnose_ablation(seen)[0].message
    sees = matching.model_copy(update={"r_at_1": estimated(0.2, 0.04, 1 / 32)})
    assert "matching does not show" not in diagnose_ablation(seen.model_copy(update={"matching": sees}))[0].message


def test_a_connector_that_reads_pictures_and_gets_strangers_is_shown_wrong_pairs() -> None:
    seen = ablation(2.9, shuffled=(0.001, 0.02), zero=(-0.9, 0.06), noise=(-0.6, 0.06), no_image=(-1.9, 0.07))
    assert codes(seen, training=training(0.3, 0.2, 0.17)) == [("pairs-mismatched", "error"), ("under-trained", "note")]
    was_right = codes(seen, training=training(0.3, 0.2, 0.17), step=300)
    assert was_right[0] == ("loss-not-reproduced", "error"), "held-out pairs that were read well are not to blame"
    assert "pairs-mismatched" not in dict(was_right)
    learning = codes(seen, training=training(4.0, 3.4, 2.9))
    assert learning == [("under-trained", "note")], "the same losses while training is no further are a beginning"
    undecided = ablation(2.9, shuffled=(-0.03, 0.04), zero=(-0.9, 0.06), noise=(-0.6, 0.06), no_image=(-1.9, 0.07))
    assert codes(undecided, training=training(0.3, 0.2, 0.17))[0] == ("pairs-mismatched", "error")


def test_wrong_pairs_are_named_where_the_average_picture_is_better_and_zeros_are_not() -> None:
    # The order on real weights: correct < mean-token < shuffled < zero < noise < no-image. With wrong pairs the right
    # picture is one of the shuffled ones.
    wrong = ablation(4.9, shuffled=(0.001, 0.02), zero=(0.3, 0.05), noise=(0.4, 0.05), no_image=(1.5, 0.08))
    run = training(4.6, 4.1, 3.9)
    better, undecided = (Rivals(LEARNT.fresh, rival(-0.3, se)) for se in (0.03, 0.3))
    (found, *_) = diagnose_ablation(wrong, RunContext(training=run, rivals=better))
    assert (
        found.code == "pairs-mismatched" and "mean of training images' visual tokens is better by 0.30" in found.message
    )
    assert "pairs-mismatched" not in dict(codes(wrong, training=run, rivals=undecided))
    mean = {"mean_token": (-0.3, 0.03), "zero": (0.3, 0.05), "noise": (0.4, 0.05)}
    scored = ablation(4.9, shuffled=(0.001, 0.02), **mean)
    assert codes(scored, training=run)[0] == ("pairs-mismatched", "error"), "scored as a condition of check 1"
    assert "pairs-mismatched" not in dict(codes(scored, training=training(4.9, 4.8))), "training went no further"


def test_strangers_whose_captions_use_other_words_are_another_data_set_and_no_wrong_pairs() -> None:
    seen = ablation(2.9, shuffled=(0.001, 0.02), zero=(-0.9, 0.06), noise=(-0.6, 0.06), no_image=(-1.9, 0.07))
    other = finding("held-out-differs", "other words", "take others")
    found = diagnose_run(RunEvidence([other], ablation=seen, training=training(0.3, 0.2, 0.17)))
    assert [f.code for f in found] == ["held-out-differs", "under-trained"]


def test_what_was_seen_on_the_way_decides_between_a_mask_and_tokens_that_are_never_placed() -> None:
    mask = finding("image-masked", "no weight at image positions", "let attention see them")
    found = diagnose_run(RunEvidence([mask], ablation=ablation(**NOTHING_MOVES)))
    assert [f.code for f in found] == ["image-masked"]


@pytest.mark.parametrize("name", HEALTHY)
def test_measured_healthy_runs_show_notes_at_most(name: str) -> None:
    correct, verdict, gaps = HEALTHY[name]
    runs: list[Training | None] = [
        None,
        training(1.5 * correct, correct),
        training(2 * correct, 1.5 * correct, correct),
    ]
    for run in runs:
        severities = [
            severity
            for _, severity in codes(ablation(correct, verdict, **gaps), training=run, step=300, vocabulary=VOCABULARY)
        ]
        assert set(severities) <= {"note"}


def test_the_whole_trial_shows_nothing() -> None:
    correct, verdict, gaps = HEALTHY["whole"]
    run = training(0.302, 0.205, correct)
    assert codes(ablation(correct, verdict, **gaps), training=run, step=300, vocabulary=VOCABULARY, horizon=1) == []


@given(
    st.floats(0.1, 4),
    st.floats(0.0001, 3),
    st.floats(0.001, 3),
    st.floats(0.001, 3),
    st.floats(-2, 2),
    st.floats(0.05, 0.4),
)
def test_a_wrong_picture_that_surely_costs_something_is_never_an_error(
    correct: float, shuffled: float, zero: float, noise: float, no_image: float, share: float
) -> None:
    gaps = {"shuffled": shuffled, "zero": zero, "noise": noise, "no_image": no_image}
    seen = ablation(correct, **{name: (gap, abs(gap) * share) for name, gap in gaps.items()})
    run = training(1.3 * correct, 1.1 * correct, correct)
    found = codes(seen, training=run, step=300, vocabulary=VOCABULARY)
    assert all(severity == "note" for _, severity in found)


def test_captions_predicted_almost_surely_mean_copying_or_an_answer_in_the_prompt() -> None:
    copying = ablation(0.001, shuffled=(0.0002, 0.0002), zero=(0.0003, 0.0002), noise=(0.0, 0.0001))
    assert codes(copying)[0] == ("labels-unshifted", "error")
    assert codes(copying, horizon=1)[0] == ("leak", "error")
    sees = ablation(0.01, "PASS", shuffled=(2.0, 0.1), zero=(3.0, 0.1), noise=(2.5, 0.1))
    assert codes(sees) == [], "a connector may be that good: then a wrong picture costs"


def test_a_loss_above_blind_guessing_means_shifted_labels_or_text_that_is_not_read() -> None:
    guess = math.log(VOCABULARY)
    bad = {"shuffled": (0.2, 0.02), "zero": (-0.4, 0.05), "noise": (0.3, 0.05)}
    assert ("labels-shifted", "error") in codes(ablation(guess + 1, **bad), vocabulary=VOCABULARY)
    assert ("labels-shifted", "error") not in codes(ablation(guess - 1, **bad), vocabulary=VOCABULARY)
    random_model = ablation(guess + 1, **bad, no_image=(0.1, 0.02))
    assert ("captions-unread", "error") in codes(random_model, vocabulary=VOCABULARY, horizon=1)


def test_a_picture_that_is_worse_than_guessing_where_the_text_alone_is_not_is_harmful() -> None:
    guess = math.log(VOCABULARY)
    climbed = {"shuffled": (0.0, 0.01), "zero": (-2.0, 0.1), "noise": (-2.0, 0.1), "no_image": (-guess, 0.1)}
    found = codes(ablation(guess + 1, **climbed), vocabulary=VOCABULARY, horizon=1)
    assert found[0] == ("picture-harmful", "error")
    assert "captions-unread" not in dict(found)


def test_captions_that_the_text_model_cannot_read_are_no_error_where_the_picture_is_read() -> None:
    guess = math.log(VOCABULARY)
    sees = {"shuffled": (2.0, 0.1), "zero": (3.0, 0.1), "noise": (3.0, 0.1), "no_image": (6.0, 0.1)}
    assert codes(ablation(guess + 0.1, "PASS", **sees), vocabulary=VOCABULARY, horizon=1) == []


def test_a_loss_that_is_not_what_training_logged_is_named() -> None:
    gaps = HEALTHY["whole"][2]
    run = training(0.3, 0.2, 0.167)
    worse = ablation(0.9, "PASS", **gaps)
    assert codes(worse, training=run, step=300) == [("loss-not-reproduced", "error")]
    assert codes(worse, training=run, step=200) == [], "the log speaks of another checkpoint"
    assert codes(ablation(0.169, "PASS", **gaps), training=run, step=300) == []
    assert codes(ablation(0.169, "PASS", **gaps), training=run, step=300, exact=True) == [
        ("loss-not-reproduced", "error")
    ], "in float32 nothing but the order of sums may differ"
    assert codes(ablation(0.1671, "PASS", **gaps), training=run, step=300, exact=True) == []


def test_the_loss_of_a_part_is_compared_with_that_of_the_same_part_alone() -> None:
    gaps = HEALTHY["whole"][2]
    scored = ablation(0.9, "PASS", **gaps)  # the first 100 rows are of a harder style than the other 4,900
    run = training(0.3, 0.2, 0.167).model_copy(update={"eval_samples": 5000})
    assert codes(scored, training=run, step=300) == [], "the log says nothing of the part"

    def with_part(**part: Any) -> Training:
        return run.model_copy(update={"eval_part": EvalPart(**{"rows": scored.requested, "samples": 100} | part)})

    assert codes(scored, training=with_part(loss=0.91), step=300) == []
    assert codes(scored, training=with_part(loss=0.167), step=300) == [("loss-not-reproduced", "error")]
    assert codes(scored, training=with_part(loss=0.91), step=300, exact=True) == [("loss-not-reproduced", "error")]
    assert codes(scored, training=with_part(loss=0.167, rows=64, samples=64), step=300) == [], "another part"
    assert codes(scored, training=with_part(loss=0.167, samples=99), step=300) == [], "one of them was not read"
    assert codes(scored, training=with_part(loss=0.9).model_copy(update={"eval_samples": 100}), step=300) == [
        ("loss-not-reproduced", "error")
    ], "the whole is compared with the whole"


def test_a_picture_that_harms_is_an_error_only_once_training_has_stopped_helping() -> None:
    harmful = ablation(2.0, shuffled=(0.3, 0.02), zero=(-0.1, 0.02), noise=(0.2, 0.03), no_image=(-0.5, 0.03))
    assert ("picture-harmful", "error") in codes(harmful, training=training(2.1, 2.0, 1.999, 1.998))
    assert codes(harmful, training=training(3.0, 2.4, 2.0)) == [("under-trained", "note")]
    assert codes(harmful, training=training(2.0)) == [("under-trained", "note")], "a log of one point"
    assert codes(harmful) == [], "no log"


def test_losses_that_are_not_finite_are_named_with_their_conditions() -> None:
    seen = ablation(shuffled=(0.5, 0.1), zero=(0.5, 0.1))
    broken = {**seen.conditions, "zero": Condition(loss=None)}
    (found,) = diagnose_ablation(seen.model_copy(update={"conditions": broken, "verdict": "PASS"}))
    assert found.code == "non-finite" and "with zeroed visual tokens" in found.message


def test_an_undecided_check_says_how_many_samples_it_needs() -> None:
    seen = ablation(0.8, "INCONCLUSIVE", 420, shuffled=(0.06, 0.04), zero=(0.5, 0.05), noise=(0.5, 0.05))
    (found,) = diagnose_ablation(seen)
    assert (found.code, found.severity) == ("eval-too-small", "note") and "420" in found.message


def test_advice_on_more_samples_fits_what_there_is() -> None:
    gaps = {"shuffled": (0.25, 0.1), "zero": (0.5, 0.05), "noise": (0.5, 0.05)}
    (few,) = diagnose_ablation(checked(gaps, available=300))
    assert "326" in few.message and "only 300 are available" in few.message and "--num_samples" not in few.fix
    (enough,) = diagnose_ablation(checked(gaps, available=5000))
    assert "only" not in enough.message and "--num_samples 326" in enough.fix


def test_no_longer_training_is_advised_where_the_held_out_loss_rises_or_is_level() -> None:
    little = ablation(1.2, shuffled=(0.08, 0.02), zero=(-0.2, 0.06), noise=(1.44, 0.06), no_image=(-0.24, 0.03))
    assert "under-trained" in dict(codes(little, training=training(1.6, 1.4, 1.2)))
    assert "under-trained" not in dict(codes(little, training=training(0.54, 0.7, 0.907))), "rising"
    assert "under-trained" not in dict(codes(little, training=training(1.3, 1.2, 1.19))), "level"
    (found,) = diagnose_ablation(little, RunContext(training=training(1.2)))
    assert found.code == "under-trained" and "does not show whether the loss was still falling" in found.message


def test_a_healthy_run_in_the_runbooks_order_is_told_nothing_about_its_training() -> None:
    # SmolLM2-135M and an EfficientNet on 3,366 pictures, one epoch: correct < shuffled < zero, noise < no-image.
    sees = ablation(4.06, shuffled=(0.48, 0.05), zero=(0.7, 0.06), noise=(0.9, 0.06), no_image=(2.4, 0.08))
    assert codes(sees, training=training(4.06)) == []
    assert codes(sees, training=training(4.12, 4.06)) == []
    (found,) = diagnose_ablation(sees, RunContext(training=training(4.6, 4.06)))
    assert "was still falling at the end (4.600, then 4.060)" in found.message, "read from the curve"


def test_without_a_scored_sample_nothing_is_said() -> None:
    assert diagnose_ablation(ablation().model_copy(update={"samples": 0, "conditions": {}})) == []
