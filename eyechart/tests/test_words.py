"""Tokens joined to words in any script, and the tables that are made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eyechart.results import END
from eyechart.scoring.samples import decoder
from eyechart.scoring.summary import SampleScore
from eyechart.scoring.word_pieces import Span, pieces_of, spans_of
from eyechart.scoring.words import first_content_words, words_of
from eyechart.settings import AblationSettings
from eyechart.verdict.statistics import Pairs
from tiny_rows import make_tokenizer

TOKENIZER = make_tokenizer()
DECODE = decoder(TOKENIZER)
EOS = int(TOKENIZER.eos_token_id)
SETTINGS = AblationSettings(words_min_count=2)


def ids_of(text: str, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def words(text: str) -> list[str]:
    return [span.text for span in spans_of(ids_of(text), DECODE, EOS)[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle", ["a", " red", " circle"]),
        ("Zebras graze, calmly.", ["Zebras", " graze", ",", " calmly", "."]),
        ("it's a t-shirt", ["it's", " a", " t-shirt"]),
        ("the dog’s bowl", ["the", " dog’s", " bowl"]),
        ("'quoted' - so", ["'", "quoted", "'", " -", " so"]),
        ("route 66 at 7:30", ["route", " 66", " at", " 7", ":", "30"]),
        ("一只红色的猫", ["一", "只", "红", "色", "的", "猫"]),
        ("ねこがいる", ["ね", "こ", "が", "い", "る"]),
        ("rote Äpfel", ["rote", " Äpfel"]),
        ("e\u0301te\u0301 ici", ["e\u0301te\u0301", " ici"]),
        ("हिन्दी में", ["हिन्दी", " में"]),
        ("قطة حمراء", ["قطة", " حمراء"]),
        ("빨간 원", ["빨간", " 원"]),
        ("cat 🐈 here", ["cat", " 🐈", " here"]),
        ("👨\u200d👩\u200d👧 home", ["👨\u200d👩\u200d👧", " home"]),
        ("👍🏽!", ["👍🏽", "!"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("a\n\nb", ["a", "\n\nb"]),
        ("end \n", ["end \n"]),
        ("  two", ["  two"]),
        ("", []),
        ("snake_case", ["snake", "_", "case"]),
    ],
)
def test_captions_are_cut_into_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30))
def test_no_token_is_lost_no_byte_is_broken_and_every_piece_shows_something(text: str) -> None:
    ids = ids_of(text)
    spans, end = spans_of([*ids, EOS], DECODE, EOS)
    assert end and "".join(span.text for span in spans) == text
    assert [i for span in spans for i in range(span.first, span.stop)] == list(range(len(ids)))
    assert all(span.text.strip() for span in spans) or not text.strip()


def test_a_caption_cut_inside_a_character_still_shows_all_its_tokens() -> None:
    ids = ids_of("ok 🐈")
    assert len(ids) > 3
    spans, end = spans_of(ids[:-1], DECODE, EOS)
    assert not end and spans[-1].stop == len(ids) - 1
    assert [span.text for span in spans][0] == "ok" and "".join(s.text for s in spans) == DECODE(ids[:-1])


def test_a_tokenizer_that_hides_the_first_space_of_a_text_is_cut_all_the_same() -> None:
    vocabulary = {"<unk>": 0, "▁a": 1, "▁red": 2, "▁cir": 3, "cle": 4, ".": 5}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Replace(" ", "▁"), pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    decode = decoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<unk>"))
    assert decode([1]) == "a" and decode([2]) == "red"  # alone, the space before it is gone
    assert [s.text for s in spans_of([1, 2, 3, 4, 5], decode, 0)[0]] == ["a", " red", " circle", "."]


def test_a_token_of_several_words_is_one_piece() -> None:
    texts = {1: "of the", 2: " cat"}
    spans, _ = spans_of([1, 2], lambda ids: "".join(texts[i] for i in ids), 0)
    assert [span.text for span in spans] == ["of the", " cat"]


def score_of(
    text: str, gaps_TR: np.ndarray | float, row: int = 0, donors: tuple[int, ...] = (1,), end: bool = True
) -> SampleScore:
    ids = np.array([*ids_of(text), *([EOS] if end else [])], dtype=np.int64)
    gaps_TR = np.broadcast_to(gaps_TR, (len(ids), len(donors)))
    correct_T = np.linspace(0.1, 2.0, len(ids))
    nll = {"correct": [correct_T], "shuffled": [correct_T + gaps_T for gaps_T in gaps_TR.T]}
    return SampleScore(row, f"id{row}", f"{row}.png", text, f"hash{row}", ids, donors, nll)


def test_pieces_sum_their_tokens_over_the_average_derangement() -> None:
    text = "Zebras yawn"
    length = len(ids_of(text)) + 1
    gaps_TR = np.random.default_rng(0).normal(size=(length, 3))
    pieces = pieces_of(score_of(text, gaps_TR, donors=(1, 2, 3)), DECODE, EOS)
    stop = len(ids_of("Zebras"))
    assert stop > 1 and [piece.text for piece in pieces] == ["Zebras", " yawn", END]
    expected = [gaps_TR[:stop].sum() / 3, gaps_TR[stop:-1].sum() / 3, gaps_TR[-1].mean()]
    assert [piece.gap for piece in pieces] == pytest.approx(expected)


def corpus() -> list[SampleScore]:
    """Ten captions with a gap of 1 at every token of a colour, 0.1 at every other and -0.2 at EOS; R = 2."""
    texts = [f"a {colour} {shape} on a blue ground" for colour in ("red", "green") for shape in
             ("circle", "square", "cross", "circle", "square")]  # fmt: skip
    scores = []
    for row, text in enumerate(texts):
        gaps = []
        for span in spans_of(ids_of(text), DECODE, EOS)[0]:
            gaps += [1.0 if span.word in ("red", "green", "blue") else 0.1] * (span.stop - span.first)
        gaps_TR = np.array([*gaps, -0.2])[:, None] + [0.05, -0.05]
        scores.append(score_of(text, gaps_TR, row, ((row + 1) % 10, (row + 3) % 10)))
    return scores


def tokens_in(word: str) -> int:
    return len(ids_of(word))


def test_the_tables_are_what_counting_by_hand_gives() -> None:
    scores = corpus()
    found = words_of(scores, DECODE, EOS, SETTINGS, True)
    total = sum(float(np.mean([w - s.nll["correct"][0] for w in s.nll["shuffled"]], axis=0).sum()) for s in scores)
    tokens = sum(len(s.label_ids_T) for s in scores)
    table = {w.word: w for w in found.largest_share}
    assert found.distinct_words == len(table) == 9
    assert {w: table[w].count for w in ("a", "red", "blue", "square", "cross")} == {
        "a": 20, "red": 5, "blue": 10, "square": 4, "cross": 2,
    }  # fmt: skip
    assert table["blue"].gap == pytest.approx(tokens_in(" blue"))
    assert table["on"].gap == pytest.approx(0.1 * tokens_in(" on"))
    assert sum(w.share for w in table.values()) == pytest.approx((total + 10 * 0.2) / total)
    assert {w.word for w in found.most_reliant[:3]} == {"red", "green", "blue"}
    assert found.most_reliant[0].gap >= found.most_reliant[-1].gap == found.least_reliant[0].gap
    assert found.gap_with_eos == pytest.approx(total / tokens)
    assert found.gap_without_eos == pytest.approx((total + 10 * 0.2) / (tokens - 10))
    assert found.eos.value == pytest.approx(-0.2)


def test_rare_words_are_not_listed_by_their_mean_and_still_by_their_share() -> None:
    found = words_of([*corpus(), score_of("a zebra", 9.0, 10, (0, 1))], DECODE, EOS, SETTINGS, True)
    assert "zebra" not in {w.word for w in found.most_reliant}
    assert "zebra" in {w.word for w in found.largest_share} and found.min_count == 2


def test_words_in_one_case_are_one_word() -> None:
    found = words_of([score_of("A cat a dog", 1.0, 0), score_of("a cat", 1.0, 1, (0,))], DECODE, EOS, SETTINGS, True)
    assert {w.word: w.count for w in found.largest_share}["a"] == 3


def test_the_first_content_word_is_the_first_that_is_not_glue() -> None:
    captions = [spans_of(ids_of(s.caption), DECODE, EOS)[0] for s in corpus()]
    # 70 words: "a" is 20 of them, and with one of blue, ground, on (10 each) a third is reached.
    assert [span.word for span in first_content_words(captions)] == ["red"] * 5 + ["green"] * 5


def test_glue_needs_no_language() -> None:
    captions = [spans_of(ids_of(t), DECODE, EOS)[0] for t in ("le chat noir", "le chien", "le cheval", "le loup gris")]
    assert [s.word for s in first_content_words(captions)] == ["chat", "chien", "cheval", "loup"]


def test_a_caption_of_glue_alone_has_no_content_word_and_is_counted() -> None:
    scores = [score_of(text, 1.0, row, ((row + 1) % 6,)) for row, text in enumerate(["a", "a", "a cat", "a dog"] * 2)]
    found = words_of(scores[:6], DECODE, EOS, SETTINGS, True)
    assert found.first_content_word.value is not None and (found.without_content_word, found.captions) == (4, 6)


def test_punctuation_is_never_a_content_word() -> None:
    spans = [Span("!", 0, 1), Span(" cat", 1, 2)]
    others = [[Span("dog", 0, 1)]] * 5
    assert first_content_words([spans, *others])[0].word == "cat"


def test_the_interval_of_the_first_content_word_is_that_of_its_pairs() -> None:
    rng = np.random.default_rng(0)
    shapes = ("circle", "square", "cross")
    scores = []
    for row in range(12):
        text = f"a {shapes[row % 3]}"
        gaps_TR = rng.normal(1, 1, size=(len(ids_of(text)) + 1, 2))
        scores.append(score_of(text, gaps_TR, row, ((row + 1) % 12, (row + 5) % 12)))
    found = words_of(scores, DECODE, EOS, SETTINGS, True).first_content_word
    start = tokens_in("a")
    sums_SR = np.array([[(w - s.nll["correct"][0])[start:-1].sum() for w in s.nll["shuffled"]] for s in scores])
    each = np.arange(12)
    donors_SR = np.array([s.donors for s in scores])
    # Clusters are numbered by sorted hash; the same relabelling on both sides changes no variance.
    expected = Pairs.of(sums_SR, np.ones_like(each), each, donors_SR).estimate()
    assert (found.value, found.se) == pytest.approx((expected.gap, expected.se))
    assert found.ci95 == pytest.approx(expected.interval())


def test_a_truncated_caption_has_no_end_and_no_figure_for_it() -> None:
    found = words_of([score_of("a cat", 1.0, 0, end=False), score_of("a dog", 1.0, 1, (0,), end=False)], DECODE, EOS,
                     SETTINGS, True)  # fmt: skip
    assert found.eos.value is None and found.gap_with_eos == found.gap_without_eos == pytest.approx(1.0)


def test_nothing_but_ends_leaves_no_gap_without_them() -> None:
    found = words_of([score_of("", 1.0, 0), score_of("", 1.0, 1, (0,))], DECODE, EOS, SETTINGS, True)
    assert found.gap_without_eos is None and found.distinct_words == 0 and found.first_content_word.value is None


def test_without_shuffled_or_with_a_loss_that_is_not_finite_there_are_no_words() -> None:
    plain = score_of("a cat", 1.0)
    del plain.nll["shuffled"]
    assert words_of([plain], DECODE, EOS, SETTINGS, True) is None and words_of([], DECODE, EOS, SETTINGS, True) is None
    assert words_of([score_of("a cat", np.nan)], DECODE, EOS, SETTINGS, True) is None


def test_where_the_gap_is_not_surely_above_zero_there_is_nothing_to_share() -> None:
    sure, unsure = (words_of(corpus(), DECODE, EOS, SETTINGS, sure) for sure in (True, False))
    assert sure.half_of_gap is not None and 1 <= sure.half_of_gap < sure.distinct_words == 9
    assert unsure.half_of_gap is None
    assert all(word.share is None for word in unsure.largest_share)
    assert sum(word.share for word in sure.largest_share) == pytest.approx(1, abs=0.2), "all words are listed"
