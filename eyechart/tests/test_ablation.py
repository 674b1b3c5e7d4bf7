"""Check 1 end to end on scorers that are a formula: what passes, what fails, and what must not matter."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from eyechart.reporting.remarks import sentence
from eyechart.scoring.ablation import ablate
from eyechart.scoring.conditions import FULL, RUNBOOK, STANDARD
from eyechart.scoring.decomposition import Blind
from eyechart.scoring.plan import Execution, Plan
from eyechart.seam import VisualTokens, Vocabulary
from eyechart.settings import AblationSettings
from fake_scorers import EOS, LATENTS, WIDTH, Constant, Healthy, NaNWhenZero, NotInjected, make_batches, make_sample

TEXT = Vocabulary(end_id=EOS, begin_id=EOS)
MEAN = torch.full((LATENTS, WIDTH), 0.1)


def run(scorer=None, samples=None, batch_size=8, conditions=STANDARD, mean=MEAN, requested=None, rejected=None, **more):
    samples = [make_sample(row) for row in range(40)] if samples is None else samples
    plan = Plan(
        conditions,
        AblationSettings(),
        more.pop("seed", 42),
        len(samples) if requested is None else requested,
        rejected=rejected or {},
        vocabulary=TEXT,
        mean_tokens=mean,
        blind=more.pop("blind", None),
    )
    return ablate(scorer or Healthy(), make_batches(samples, batch_size), plan, Execution(**more))


def numbers(result):
    """Everything measured of the conditions."""
    return {name: c.model_dump() for name, c in result.conditions.items()}


def reasons(result):
    """Codes with what they are about, in order."""
    return [(reason.code, reason.about) for reason in result.reasons]


def remarks(result):
    """Codes of the remarks, by what they are about."""
    return {remark.about: remark.code for remark in result.remarks}


def test_a_healthy_connector_passes():
    got, scores = run()
    assert got.verdict == "PASS", got.reasons
    assert list(got.conditions) == list(STANDARD)
    assert got.conditions["tiles-4"].gap > 0 and got.conditions["grey"].gap > 0
    assert (got.samples, got.requested, got.clusters, got.derangements, got.seed) == (40, 40, 40, 4, 42)
    assert got.label_tokens == sum(len(s.label_ids_T) for s in scores) == 240
    assert [name for name, c in got.conditions.items() if c.gate] == ["shuffled", "zero", "noise"]
    assert got.conditions["shuffled"].margin == 0.05
    assert got.conditions["no-image"].margin == 0.0 and got.conditions["no-image"].upper_level == 0.99
    assert got.conditions["zero"].upper_level == 1 - 0.01 / 3
    assert got.order[0] == "correct"


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_connector_passes_whatever_the_seed(seed):
    assert run(seed=seed, conditions=RUNBOOK)[0].verdict == "PASS"


def test_a_constant_connector_fails_on_shuffled_although_zero_and_noise_pass():
    got, _ = run(Constant())
    assert got.verdict == "FAIL"
    assert (got.conditions["shuffled"].gap, got.conditions["shuffled"].se) == (0, 0)
    assert got.conditions["zero"].lower99 > 0 and got.conditions["noise"].lower99 > 0
    assert reasons(got)[0] == ("gap-unmoved", "shuffled")


def test_visual_tokens_that_are_not_injected_fail_on_every_gate():
    got, _ = run(NotInjected())
    assert got.verdict == "FAIL"
    assert [c.gap for name, c in got.conditions.items() if name != "correct"] == [0] * 10
    assert reasons(got) == [("gap-unmoved", name) for name in ("shuffled", "zero", "noise")]
    assert {c.standing for name, c in got.conditions.items() if name != "correct"} == {"ruled out"}


def test_a_connector_that_harms_fails_through_zero():
    class Harmful(Healthy):
        """Zeros would be better than what the connector says."""

        def surprise(self, labels_T, seen_QE):
            return 1.0 if seen_QE is None else 1.0 + seen_QE.abs().mean()

    got, _ = run(Harmful())
    assert got.verdict == "FAIL"
    assert got.conditions["zero"].gap < 0
    assert ("gap-ruled-out", "zero") in reasons(got)


def test_a_loss_that_is_not_finite_fails_and_never_reaches_the_results():
    got, _ = run(NaNWhenZero())
    assert got.verdict == "FAIL"
    assert reasons(got)[0] == ("not-finite", "zero")
    assert got.conditions["zero"].loss is got.conditions["zero"].gap is got.conditions["zero"].ci95 is None
    assert got.conditions["shuffled"].gap > 0
    assert "zero" not in got.order
    json.dumps(got.model_dump(mode="json"), allow_nan=False)


def test_where_correct_itself_is_not_finite_there_are_no_gaps():
    class Broken(Healthy):
        def code(self, picture):
            return super().code(picture) * (torch.nan if picture == 7 else 1)

    got, _ = run(Broken())
    assert got.verdict == "FAIL"
    assert reasons(got)[0] == ("not-finite", "correct")
    assert all(c.gap is None for c in got.conditions.values())
    assert got.conditions["zero"].loss > 0
    json.dumps(got.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_results_depend_neither_on_batch_size_nor_on_order(batch_size):
    expected, expected_scores = run(batch_size=8)
    samples = [make_sample(row) for row in range(40)]
    np.random.default_rng(batch_size).shuffle(samples)
    got, scores = run(samples=samples, batch_size=batch_size)
    assert numbers(got) == numbers(expected)
    assert [s.row for s in scores] == list(range(40))
    assert [s.donors for s in scores] == [s.donors for s in expected_scores]


def test_every_image_is_read_once_and_encoded_once_and_once_more_for_each_change_of_its_pixels():
    class Read(list):
        """Batches that count how often they are read."""

        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    read: list[int] = []
    samples = [make_sample(row) for row in range(40)]
    for conditions, times in ((RUNBOOK, 1), (STANDARD, 4)):
        read.clear()
        scorer = Healthy()
        ablate(scorer, Read(make_batches(samples, 8)), Plan(conditions, vocabulary=TEXT, mean_tokens=MEAN))
        assert sorted(scorer.encoded) == sorted([*range(40)] * times)
        assert read == [0, 1, 2, 3, 4]


def test_losses_and_gaps_equal_those_computed_from_the_per_token_records():
    got, scores = run()
    tokens = sum(len(s.label_ids_T) for s in scores)
    for name, condition in got.conditions.items():
        rounds = len(scores[0].nll[name])
        assert rounds == (4 if name == "shuffled" else 1)
        loss = sum(nll.sum() for s in scores for nll in s.nll[name]) / rounds / tokens
        assert condition.loss == pytest.approx(loss, rel=1e-12)
        assert condition.loss_per_caption == pytest.approx(loss * tokens / 40, rel=1e-12)
        if name != "correct":
            assert condition.gap == pytest.approx(loss - got.conditions["correct"].loss, rel=1e-9)
            assert condition.ci95[0] < condition.gap < condition.ci95[1]


def test_per_token_records_are_what_the_scorer_said_about_the_donors():
    _, scores = run(conditions=("correct", "shuffled"), samples=[make_sample(row) for row in (5, 2, 9, 11, 30)])
    scorer = Healthy()
    for score in scores:
        for donor, nll_T in zip(score.donors, score.nll["shuffled"], strict=True):
            labels_T = torch.from_numpy(score.label_ids_T)
            expected = 0.3 + 0.1 * (labels_T % 3) + scorer.surprise(labels_T, scorer.code(scores[donor].row))
            assert nll_T == pytest.approx(expected.numpy(), rel=1e-6)


def test_the_gap_without_eos_leaves_the_last_token_out():
    got, scores = run(conditions=("correct", "zero"))
    # The fake's EOS does not depend on the picture, so the same nats spread over 40 tokens less.
    zero = got.conditions["zero"]
    assert all(s.label_ids_T[-1] == EOS for s in scores)
    assert zero.gap_without_eos == pytest.approx(zero.gap * 240 / 200)


def test_the_same_picture_under_two_rows_is_never_its_own_donor_and_one_cluster():
    samples = [make_sample(row, picture=row // 2, words=3 + row % 2) for row in range(40)]
    got, scores = run(samples=samples)
    assert got.clusters == 20
    for score in scores:
        assert all(scores[donor].image_hash != score.image_hash for donor in score.donors)
        assert all(scores[donor].caption != score.caption for donor in score.donors)


def test_the_same_image_twice_has_a_gap_of_exactly_zero():
    # Every file has the same pixels; the hashes claim otherwise, so that the donors are drawn at all.
    samples = [make_sample(row, picture=3, words=2 + row, image_hash=f"h{row}") for row in range(12)]
    got, _ = run(samples=samples)
    assert got.conditions["shuffled"].gap == 0
    assert got.verdict == "FAIL"


def test_one_image_for_all_captions_has_no_donor_and_is_inconclusive():
    samples = [make_sample(row, picture=3, words=2 + row) for row in range(12)]
    got, _ = run(samples=samples)
    assert got.verdict == "INCONCLUSIVE"
    assert "shuffled" not in got.conditions and got.derangements == 0
    assert any(reason.figures.get("same_image") == 12 for reason in got.reasons)
    assert got.conditions["zero"].se is None
    json.dumps(got.model_dump(mode="json"), allow_nan=False)


def test_too_few_donors_are_used_counted_and_inconclusive():
    got, scores = run(samples=[make_sample(row) for row in range(3)])
    assert got.derangements == 2 and len(scores[0].nll["shuffled"]) == 2
    assert got.verdict == "INCONCLUSIVE"
    (short,) = [reason.figures for reason in got.reasons if reason.code == "too-few-donors"]
    assert (short["found"], short["requested"]) == (2, 4)


@pytest.mark.parametrize("count", [0, 1])
def test_no_or_one_sample_is_inconclusive_and_never_nan(count):
    got, scores = run(samples=[make_sample(row) for row in range(count)], requested=128)
    assert (got.verdict, got.samples, len(scores)) == ("INCONCLUSIVE", count, count)
    json.dumps(got.model_dump(mode="json"), allow_nan=False)


def test_samples_without_label_tokens_are_counted_and_change_nothing_else():
    plain, _ = run()
    samples = [make_sample(row) for row in range(40)]
    samples[3:3] = [make_sample(100, words=0)]  # in the middle of a batch, and at its end
    samples[19:19] = [make_sample(101, words=0)]
    got, scores = run(samples=samples, batch_size=5)
    assert numbers(got) == numbers(plain)
    assert (got.samples, len(scores), got.rejected) == (40, 40, {"no label tokens": 2})
    assert got.verdict == "INCONCLUSIVE"
    assert any(reason.figures.get("by_reason", {}).get("no label tokens") == 2 for reason in got.reasons)


def test_rejected_rows_are_in_the_result_and_forbid_a_pass():
    got, _ = run(rejected={"image missing": 3}, requested=43)
    assert got.rejected == {"image missing": 3}
    assert got.verdict == "INCONCLUSIVE"
    (fewer,) = [reason.figures for reason in got.reasons if reason.code == "fewer-than-requested"]
    assert fewer == {"requested": 43, "scored": 40, "unscored": 3}
    assert run(Constant(), rejected={"image missing": 3})[0].verdict == "FAIL"


def test_a_smaller_split_than_requested_is_said_and_passes():
    got, _ = run(requested=128)
    assert (got.verdict, got.requested, got.samples) == ("PASS", 128, 40)
    assert got.reasons[-1].figures == {"requested": 128, "scored": 40, "unscored": 0}


def test_without_all_gates_there_is_no_pass():
    got, _ = run(conditions=("correct", "shuffled"))
    assert got.verdict == "INCONCLUSIVE"
    assert any(reason.figures.get("gates") == ["zero", "noise"] for reason in got.reasons)


def test_a_lack_of_donors_is_not_mentioned_where_nobody_asked_for_shuffled():
    three = [make_sample(row) for row in range(3)]
    assert "too-few-donors" in dict(reasons(run(samples=three)[0]))
    assert "too-few-donors" not in dict(reasons(run(samples=three, conditions=("correct", "zero"))[0]))


def test_without_a_mean_the_condition_is_left_out_and_that_is_said():
    got, _ = run(mean=None)
    assert "mean-token" not in got.conditions
    (remark,) = [remark for remark in got.remarks if remark.about == "mean-token"]
    assert (remark.code, remark.left_out) == ("no-mean", True)
    assert got.verdict == "PASS"
    assert "mean-token" not in remarks(run()[0])


def test_a_mean_of_another_connector_is_refused():
    with pytest.raises(ValueError, match="mean-token"):
        run(mean=torch.zeros(LATENTS, WIDTH + 1))


def test_the_same_row_twice_is_refused():
    with pytest.raises(ValueError, match="row 3: expected every held-out row once"):
        run(samples=[make_sample(3), make_sample(4), make_sample(3)])


def test_a_remark_says_how_shuffled_differs_from_the_runbook():
    got, _ = run()
    (remark,) = [remark for remark in got.remarks if remark.about == "shuffled"]
    assert "same batch" in sentence(remark) and "4 different ones" in sentence(remark)


def test_the_progress_bar_is_filled_exactly_and_closed_even_on_an_error():
    class Bar:
        def __init__(self, total):
            self.total, self.n, self.closed = total, 0, False
            bars.append(self)

        def update(self, n):
            self.n += n

        def close(self):
            self.closed = True

    bars: list[Bar] = []
    run(progress=Bar)
    # Five batches: four encodings (three with other pixels), ten conditions once, and shuffled four times.
    assert bars[0].n == bars[0].total == 5 * (4 + 10 + 4)
    bars.clear()
    run(progress=Bar, conditions=FULL, mean=None)
    assert bars[0].n == bars[0].total == 5 * (6 + 11 + 4), "neither mean-token nor blind"
    bars.clear()
    run(progress=Bar)
    with pytest.raises(ValueError):
        run(progress=Bar, mean=torch.zeros(1, 1))
    assert bars[0].closed and bars[1].closed


def test_pictures_without_pixels_leave_the_conditions_that_change_them_out_and_say_so():
    class FromText(Healthy):
        def encode(self, batch):
            return VisualTokens((torch.stack([self.code(s.row) for s in batch.samples]),))

    samples = [make_sample(row) for row in range(40)]
    batches = [replace(batch, pixels_BCHW=None) for batch in make_batches(samples, 8)]
    got, _ = ablate(FromText(), batches, Plan(STANDARD, vocabulary=TEXT, mean_tokens=MEAN))
    assert not {"grey", "blurred", "tiles-4"} & set(got.conditions)
    assert {remarks(got)[name] for name in ("grey", "blurred", "tiles-4")} == {"no-pixels"}
    assert got.verdict == "PASS"


def test_the_blind_prompt_splits_the_gaps_and_its_absence_is_said():
    names = ("correct", "shuffled", "zero", "blind")
    blind = Blind(torch.full((LATENTS, WIDTH), 0.01), 640, 0.05, False)
    got, _ = run(conditions=names, blind=blind)
    parts, gaps = got.decomposition, got.conditions
    if not parts.blind_under_trained:
        assert parts.information.value + parts.shock.value == pytest.approx(gaps["zero"].gap)
    assert parts.blind_captions == 640
    without, _ = run(conditions=names)
    assert without.decomposition is None and remarks(without)["blind"] == "no-blind-prompt"


def test_one_image_that_carries_the_gap_is_named_in_the_reasons():
    class OneVivid(Healthy):
        """Only the captions of picture 7 depend on what is seen."""

        def surprise(self, labels_T, seen_QE):
            return (400.0 if int(labels_T[0]) == 17 else 0.0) * super().surprise(labels_T, seen_QE)

    got, _ = run(OneVivid())
    (reason,) = [reason for reason in got.reasons if reason.code.startswith("one-image-")]
    assert (reason.effect, reason.figures["row"], reason.figures["image"]) == ("warns", 7, "7.png")
    assert not any(reason.code.startswith("one-image-") for reason in run()[0].reasons)


def test_a_wrong_picture_is_compared_with_inputs_without_content_by_intervals():
    got, scores = run()
    assert list(got.shuffled_beyond) == ["no-image", "mean-token"]
    for name, beyond in got.shuffled_beyond.items():
        assert beyond.value == pytest.approx(got.conditions["shuffled"].loss - got.conditions[name].loss)
        lower, upper = beyond.value - 2.43 * beyond.se, beyond.value + 2.43 * beyond.se
        assert beyond.standing == ("costs" if lower > 0 else "ruled out" if upper <= 0 else "open")
    assert run(conditions=RUNBOOK)[0].shuffled_beyond == {}, "never zero and noise"
