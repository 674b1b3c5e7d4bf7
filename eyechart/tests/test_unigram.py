"""Check 0: a unigram counted by hand, the paired gain, its standing, and what is said where captions are not read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from eyechart.faults.diagnosis import RunEvidence, diagnose_run
from eyechart.faults.pattern_of_text import diagnose_text
from eyechart.faults.table import explains, finding, rank
from eyechart.reporting.readings import unigram as sentence
from eyechart.results import Ablation, Unigram
from eyechart.rows import IGNORE_INDEX
from eyechart.scoring.ablation import ablate
from eyechart.scoring.plan import Plan
from eyechart.scoring.unigram import ScoredTokens, TokenCounts, check_unigram
from eyechart.verdict.overall import overall
from fake_scorers import Healthy, make_batches, make_sample
from standings import checked, estimated

EOS = 9
SEES = {"shuffled": (1.0, 0.1), "zero": (1.0, 0.1), "noise": (1.0, 0.1)}
BLIND = {"shuffled": (0.0, 0.01), "zero": (-0.1, 0.01), "noise": (-0.1, 0.01)}


def counted(*captions: list[int]) -> TokenCounts:
    return TokenCounts.of(np.array(caption) for caption in captions)


def scored(*captions: list[int], images: list[int] | None = None) -> ScoredTokens:
    lengths = np.array([len(caption) for caption in captions])
    clusters = np.arange(len(captions)) if images is None else np.array(images)
    return ScoredTokens(np.concatenate([np.array(caption) for caption in captions]), lengths, clusters)


def per_token(loss: float, tokens: ScoredTokens) -> np.ndarray:
    """Sums [S,1] of a model that predicts every token at one loss."""
    return loss * tokens.tokens_S[:, None].astype(np.float64)


def test_only_label_tokens_are_counted_the_end_included() -> None:
    got = counted([IGNORE_INDEX, IGNORE_INDEX, 5, 5, EOS], [IGNORE_INDEX, 7, EOS])
    assert got.ids_K.tolist() == [5, 7, EOS] and got.counts_K.tolist() == [2, 1, 2]
    assert (got.captions, got.tokens) == (2, 5)


def test_the_unigram_is_what_a_hand_counts_with_one_added() -> None:
    """Training: 5 5 EOS, 7 EOS; N = 5, V = 11. p(5) = 3/16, p(EOS) = 3/16, p(3), never seen, = 1/16."""
    texts = scored([5, EOS], [3, EOS])
    got = check_unigram(texts, {"correct": per_token(1.0, texts)}, counted([5, 5, EOS], [7, EOS]), 11)
    assert got is not None and (got.source, got.captions, got.tokens, got.vocabulary) == ("training", 2, 5, 11)
    by_hand = [2 * math.log(16 / 3), math.log(16) + math.log(16 / 3)]
    assert got.loss == pytest.approx(sum(by_hand) / 4)
    assert got.gain.value == pytest.approx(sum(by_hand) / 4 - 1.0)


def test_without_a_size_the_vocabulary_is_the_tokens_that_were_seen_anywhere() -> None:
    """5, 7, EOS in training and 3 in the scored captions: V = 4, so that the never seen 3 has a share too."""
    texts = scored([3], [5])
    got = check_unigram(texts, {"correct": per_token(1.0, texts)}, counted([5, 5, EOS], [7, EOS]), None)
    assert got is not None and got.vocabulary == 4
    assert got.loss == pytest.approx((math.log(9 / 1) + math.log(9 / 3)) / 2)


def test_without_training_captions_a_caption_is_predicted_from_those_of_other_images() -> None:
    """Two captions of image 0 and one of image 1, V = 4: neither caption of image 0 helps the other."""
    texts = scored([5, EOS], [5, 5, EOS], [5, 7, EOS], images=[0, 0, 1])
    got = check_unigram(texts, {"correct": per_token(1.0, texts)}, None, 4)
    assert got is not None and (got.source, got.captions, got.tokens) == ("scored", 3, 8)
    of_image_0 = [2 / 7, 2 / 7, 2 / 7, 2 / 7, 2 / 7]  # 5 once and EOS once among the 3 tokens of image 1
    of_image_1 = [4 / 9, 1 / 9, 3 / 9]  # 5 three times, 7 never, EOS twice among the 5 tokens of image 0
    assert got.loss == pytest.approx(-sum(map(math.log, of_image_0 + of_image_1)) / 8)


def test_one_image_alone_or_no_training_token_leaves_the_check_unmade() -> None:
    texts = scored([5, EOS], [7, EOS], images=[0, 0])
    sums = {"correct": per_token(1.0, texts)}
    assert check_unigram(texts, sums, None, 4) is None
    assert check_unigram(texts, sums, counted(), 4) is None
    assert check_unigram(texts, {}, counted([5, EOS]), 4) is None, "a loss that is not finite"


def test_the_gain_is_paired_token_weighted_and_clustered_by_image() -> None:
    generator = np.random.default_rng(0)
    captions = [generator.integers(0, 50, size=generator.integers(2, 9)).tolist() for _ in range(30)]
    texts = scored(*captions, images=[i // 2 for i in range(30)])
    sums_S = generator.gamma(3.0, size=30)
    training = counted(*(generator.integers(0, 50, size=8).tolist() for _ in range(100)))
    got = check_unigram(texts, {"correct": sums_S[:, None]}, training, 50)
    assert got is not None and got.gain.se is not None and got.gain.value is not None
    share = {t: (c + 1) / (800 + 50) for t, c in zip(training.ids_K.tolist(), training.counts_K.tolist(), strict=True)}
    unigram = np.array([sum(-math.log(share.get(t, 1 / 850)) for t in caption) for caption in captions])
    total = sum(map(len, captions))
    gain = (unigram - sums_S).sum() / total
    excess = unigram - sums_S - gain * np.array([len(caption) for caption in captions])
    error = math.sqrt(15 / 14 * (excess.reshape(15, 2).sum(1) ** 2).sum()) / total
    assert got.gain.value == pytest.approx(gain) and got.gain.se == pytest.approx(error)
    assert got.gain.margin == 0 and got.gain.lower99 == pytest.approx(gain - stats.t.ppf(0.99, 14) * error)


@pytest.mark.parametrize(
    ("losses", "condition", "standing"),
    [
        ({"correct": 0.5, "no-image": 3.0}, "correct", "costs"),
        ({"correct": 9.0, "no-image": 0.5}, "no-image", "costs"),  # an untrained connector before a sound model
        ({"correct": 9.0, "zero": 0.5}, "zero", "costs"),
        ({"correct": 9.0, "no-image": 8.0, "zero": 0.5}, "no-image", "ruled out"),
        ({"correct": 9.0}, "correct", "ruled out"),
    ],
)
def test_the_model_is_taken_where_it_reads_better_with_the_picture_or_without(
    losses: dict[str, float], condition: str, standing: str
) -> None:
    texts = scored(*([5, 6, EOS] for _ in range(10)))
    sums = {name: per_token(loss, texts) for name, loss in losses.items()}
    got = check_unigram(texts, sums, counted([5, 6, EOS], [7, 8, EOS]), 700)
    assert got is not None and (got.condition, got.gain.standing) == (condition, standing)


def test_a_gain_that_captions_disagree_about_is_open() -> None:
    texts = scored(*([5, EOS] for _ in range(10)))
    one = math.log(702 / 2)  # the unigram, per token
    sums_S = np.array([2 * one + (5 if i % 2 else -5) for i in range(10)])
    got = check_unigram(texts, {"correct": sums_S[:, None]}, counted([5, EOS]), 700)
    assert got is not None and got.gain.standing == "open"


def checks(gaps: dict[str, tuple[float, float]], gain: float, se: float = 0.05, condition: str = "correct") -> Ablation:
    """Check 1 of these gaps at 7.8 nats per token, with a check 0 of this gain."""
    found = Unigram(
        loss=7.8 + gain,
        condition=condition,
        gain=estimated(gain, se),
        source="training",
        captions=10,
        tokens=99,
        vocabulary=700,
    )
    return checked(gaps, correct=7.8, unigram=found)


def test_captions_that_are_not_read_are_an_error_that_bars_the_pass_and_names_both_causes() -> None:
    seen = checks(SEES, -3.0)
    (found,) = diagnose_text(seen)
    assert (found.code, found.severity) == ("captions-unread", "error")
    assert "the wrong tokenizer" in found.message and "never learnt text of this kind" in found.message
    assert "7.80" in found.message and "4.80" in found.message and "\n" not in found.message
    assert seen.verdict == "PASS" and overall(seen, None, [found]) == "INCONCLUSIVE"


def test_captions_that_are_not_shown_to_be_read_bar_the_pass_too() -> None:
    seen = checks(SEES, 0.05, se=0.1)
    (found,) = diagnose_text(seen)
    assert found.severity == "error" and "not shown to be lower" in found.message


def test_captions_that_are_read_are_no_finding_and_neither_is_a_check_that_was_not_made() -> None:
    assert not [*diagnose_text(checks(SEES, 3.0))]
    assert not [*diagnose_text(checked(SEES))]


def test_where_the_gates_are_not_met_it_is_a_note_because_an_untrained_connector_looks_the_same() -> None:
    (found,) = diagnose_text(checks(BLIND, -3.0))
    assert found.severity == "note" and "has had little training" in found.fix
    assert not [*diagnose_text(checks(BLIND, 0.05, se=0.1))], "nothing is decided, and nothing is barred"


def test_more_specific_causes_come_first() -> None:
    unread = next(diagnose_text(checks(SEES, -3.0)))
    for code in ("tower-uninitialised", "labels-shifted", "token-id-mismatch"):
        assert explains(code, "captions-unread")
        ranked = rank([unread, finding(code, "a cause", "a fix")])
        assert [f.code for f in ranked] == [code, "captions-unread"] and ranked[1].explained_by == [code]


def test_ids_that_were_only_suspected_are_an_error_once_the_scores_show_it() -> None:
    suspected = finding("token-id-mismatch", "worse than a guess", "a fix", "warning")
    found = diagnose_run(RunEvidence([suspected], ablation=checks(SEES, -3.0)))
    assert [(f.code, f.severity) for f in found[:2]] == [("token-id-mismatch", "error"), ("captions-unread", "error")]
    healthy = diagnose_run(RunEvidence([suspected], ablation=checks(SEES, 3.0)))
    assert [(f.code, f.severity) for f in healthy if f.code != "under-trained"] == [("token-id-mismatch", "warning")]


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (3.0, "shows that the language model reads these captions"),
        (-3.0, "shows that the language model does not read these captions"),
        (0.01, "does not decide whether the language model reads these captions"),
    ],
)
def test_the_sentence_follows_the_standing(gain: float, said: str) -> None:
    told = sentence(checks(SEES, gain))
    assert said in told and "training captions" in told and "7.80 (correct)" in told
    assert sentence(checked(SEES)) == ""


def test_a_scorer_of_a_stranger_is_held_against_its_own_scored_captions_and_stays_healthy() -> None:
    batches = make_batches([make_sample(row) for row in range(40)], 8)
    got, _ = ablate(Healthy(), batches, Plan(("correct", "shuffled", "zero", "noise", "no-image")))
    assert got.unigram is not None and got.unigram.source == "scored" and got.unigram.captions == 40
    assert got.unigram.gain.standing == "costs" and not [*diagnose_text(got)]


def test_a_stranger_s_model_that_predicts_the_wrong_ids_does_not_pass() -> None:
    class WrongIds(Healthy):
        def surprise(self, labels_T: torch.Tensor, seen_QE: torch.Tensor | None) -> torch.Tensor:
            return 9.0 + super().surprise(labels_T, seen_QE)

    batches = make_batches([make_sample(row) for row in range(40)], 8)
    got, _ = ablate(WrongIds(), batches, Plan(("correct", "shuffled", "zero", "noise", "no-image")))
    assert got.verdict == "PASS", "the gates see nothing of it"
    assert overall(got, None, diagnose_run(RunEvidence(ablation=got))) == "INCONCLUSIVE"
