"""Check 2: verdicts at and around every threshold, and the fix in numbers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyechart.reporting.reasons import reasons_of
from eyechart.seam import CollateStats
from eyechart.settings import CoverageSettings
from eyechart.verdict.coverage import Counted, judge_coverage, smallest_max_seq_len


def counts(lengths: dict[int, int], limit: int, zero_label: int = 0) -> CollateStats:
    histogram = Counter(lengths)
    samples = histogram.total()
    truncated = sum(count for length, count in histogram.items() if length > limit)
    return CollateStats(samples, truncated, zero_label, samples * 13, histogram)


def judge(stats, limit=100, image_cut=0, wrapper=12.0, rejected=None, thresholds=None):
    counted = Counted("audit", stats, limit, 66, wrapper, rejected or {}, image_cut, "train")
    return judge_coverage(counted, thresholds or CoverageSettings())


def said(got):
    return [sentence for _, sentence in reasons_of(got)]


def codes(got):
    return [reason.code for reason in got.reasons]


def test_a_clean_split_passes_and_says_so_in_numbers():
    got = judge(counts({80: 4900}, 100))
    assert got.verdict == "PASS"
    assert said(got) == ["0.00% of 4,900 samples truncated at max_seq_len 100, 0.00% without label tokens"]
    assert (got.truncated_pct, got.zero_label_pct, got.avg_label_tokens) == (0, 0, 13)
    assert (got.source, got.split, got.samples) == ("audit", "train", 4900)
    assert (got.max_seq_len, got.smallest_max_seq_len) == (100, 80)
    assert (got.wrapper_tokens, got.image_block_tokens) == (12.0, 66)


@pytest.mark.parametrize(
    ("truncated", "verdict", "warned"),
    [(10, "PASS", False), (11, "PASS", True), (20, "PASS", True), (21, "FAIL", False), (1000, "FAIL", False)],
)
def test_truncation_thresholds_of_1000_samples(truncated, verdict, warned):
    got = judge(counts({80: 1000 - truncated, 150: truncated}, 100))
    assert got.verdict == verdict
    assert ("truncated-some" in codes(got)) == warned
    if truncated > 10:
        assert f"({truncated:,}) are truncated" in said(got)[0]
        assert "raise data.max_seq_len from 100 to 150" in said(got)[-1]


@pytest.mark.parametrize(("unlabelled", "verdict"), [(0, "PASS"), (1, "PASS"), (2, "FAIL")])
def test_zero_label_threshold_of_1000_samples(unlabelled, verdict):
    got = judge(counts({80: 1000}, 100, zero_label=unlabelled))
    assert got.verdict == verdict
    assert any("no label token" in sentence for sentence in said(got)) == (unlabelled > 0)


def test_one_cut_image_block_fails_whatever_else():
    got = judge(counts({80: 1000}, 100), image_cut=1)
    assert got.verdict == "FAIL"
    assert "cuts the image block of 1 sample:" in said(got)[0]


def test_thresholds_come_from_the_config():
    lenient = CoverageSettings(truncated_warn=30, truncated_fail=60, zero_label_fail=50)
    stats = counts({80: 50, 150: 50}, 100, zero_label=40)
    assert judge(stats).verdict == "FAIL"
    assert judge(stats, thresholds=lenient).verdict == "PASS"


def test_nothing_to_count_is_inconclusive():
    got = judge(CollateStats(), rejected={"image missing": 7})
    assert got.verdict == "INCONCLUSIVE"
    assert "No usable sample" in said(got)[0]
    assert got.smallest_max_seq_len == got.max_seq_len == 100


def test_rejected_rows_are_in_the_result_and_said():
    got = judge(counts({80: 10}, 100), rejected={"image missing": 2, "caption blank": 1})
    assert got.verdict == "PASS"
    assert got.rejected == {"image missing": 2, "caption blank": 1}
    assert "1 caption blank, 2 image missing" in said(got)[-1]


@pytest.mark.parametrize(
    ("wrapper", "sentence"),
    [(60.0, "shorten prompt.template by 50 of the 60.0 tokens"), (12.0, "alone cannot save the 50 tokens needed")],
)
def test_the_advice_says_whether_a_shorter_prompt_is_enough(wrapper, sentence):
    assert sentence in said(judge(counts({80: 50, 150: 50}, 100), wrapper=wrapper))[-1]


def test_no_advice_on_the_length_where_nothing_is_wrong_with_it():
    got = judge(counts({80: 1000}, 100, zero_label=5))
    assert got.verdict == "FAIL"
    assert "raise-max-seq-len" not in codes(got)


def test_smallest_limit_by_hand():
    stats = counts({70: 97, 90: 2, 200: 1}, 512)
    assert smallest_max_seq_len(stats, 1.0, 66) == 90  # 1% may be cut: the one of 200
    assert smallest_max_seq_len(stats, 0.5, 66) == 200
    assert smallest_max_seq_len(stats, 3.0, 66) == 70
    assert smallest_max_seq_len(stats, 100.0, 66) == 67  # never into the image block


@given(
    st.dictionaries(st.integers(10, 60), st.integers(1, 30), min_size=1),
    st.floats(0, 100),
    st.integers(3, 40),
)
def test_the_smallest_limit_keeps_the_share_and_one_less_does_not(lengths, allowed, block):
    got = smallest_max_seq_len(counts(lengths, 0), allowed, block)
    assert counts(lengths, got).truncated_pct <= allowed
    assert got > block
    assert got == block + 1 or counts(lengths, got - 1).truncated_pct > allowed
