"""YAML that means what it says: a plain word is a number only where every reader sees one; no key occurs twice."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eyechart.outside import bounds
from eyechart.outside.yaml_text import YamlError, parse_value, parse_yaml, scalar, write_yaml


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("3", 3), ("-1", -1), ("+7", 7), ("1_000", 1000), ("0x1F", 31), ("0o17", 15), ("0", 0),
        ("1e-3", 0.001), ("0.5", 0.5), ("1.", 1.0), (".5", 0.5), ("2E+3", 2000.0), ("-1.5e3", -1500.0),
        (".inf", float("inf")), ("-.inf", float("-inf")),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
    ],
)  # fmt: skip
def test_numbers_booleans_and_nothing_are_those_of_yaml_1_2(word: str, value: object) -> None:
    assert scalar(word) == value and type(scalar(word)) is type(value)
    assert parse_yaml(f"a: {word}") == {"a": value}


@pytest.mark.parametrize(
    "word",
    ["yes", "no", "on", "off", "Y", "1:30", "010", "-07", "00", "01.5", "1_0", "1__000", "0b1", "2024-01-01", "1e"],
)  # fmt: skip
def test_words_that_only_some_readers_take_for_numbers_stay_texts(word: str) -> None:
    assert parse_yaml(f"a: {word}") == {"a": word}


@pytest.mark.parametrize("text", ["a: 'yes'", 'a: "3"', "a: |\n  010\n", "a: !!str 3", "a: ! 3"])
def test_what_is_quoted_is_a_text(text: str) -> None:
    assert isinstance(parse_yaml(text)["a"], str)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "lines 1 and 3: the key `a` occurs twice; delete one of them"),
        ("x:\n  a: 1\n  'a': 2", "lines 2 and 3: the key `a` occurs twice"),
        ("x: {1: a, 0x1: b}", "lines 1 and 1: the key `1` occurs twice"),
        ("a: {b: 1}\n<<: {a: 1}\n<<: {b: 2}", "lines 2 and 3: the key `<<` occurs twice"),
        ("a: !!python/object:os.system x", "line 1: the tag 'tag:yaml.org,2002:python/object:os.system' is"),
        ("a: !!int '3'", "the tag 'tag:yaml.org,2002:int' is not supported"),
        ("a: &x [*x]", r"line 1: the alias \*x names no complete value above"),
        ("a: *x", r"the alias \*x names no complete value above"),
        ("<<: 3", "line 1: `<<` expects an alias of a mapping"),
        ("? [1]\n: 2", "line 1: expected a word as the key"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins"),
        ('a: "\\ud800"', "line 1: the text is not valid Unicode at character 1"),
        ("a: " + "9" * 101, "is a number of 101 digits, at most 100 are read"),
        ("- " * 33, "line 1: more than 32 levels of nesting"),
        ("[" * 40_000, "line 1: more than 32 levels of nesting"),
        ("a: [" + "1, " * 10_001 + "]", "more than 10,000 values"),
        ("#" * (bounds.CONFIG_BYTES + 1), "65,537 characters, at most 65,536 are read"),
        ("a: [1", "expected ',' or ']'"),
        ("a: \0", "special characters are not allowed"),
    ],
)  # fmt: skip
def test_what_has_no_or_two_meanings_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


@pytest.mark.parametrize("first", ["[x, x, x, x, x, x, x, x, x]", "{k: v}"])
@pytest.mark.parametrize("merge", [False, True])
def test_few_bytes_never_become_many_values(first: str, merge: bool) -> None:
    lines = [f"a: &a {first}"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        nine = f"[{', '.join([f'*{before}'] * 9)}]"
        lines.append(f"{name}: &{name} {{<<: {nine}}}" if merge else f"{name}: &{name} {nine}")
    if merge and first.startswith("["):
        lines[0] = "a: &a {k: v, l: w}"
    with pytest.raises(YamlError, match="more than 10,000 values, with every alias counted as what it repeats"):
        parse_yaml("\n".join(lines))


def test_aliases_cannot_be_nested_deeper_than_brackets() -> None:
    chain = ["a0: &a0 x"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 40)]
    with pytest.raises(YamlError, match="more than 32 levels of nesting"):
        parse_yaml("\n".join(chain))


def test_an_alias_is_a_value_of_its_own_and_a_merge_gives_way_to_own_keys() -> None:
    tree = parse_yaml("a: &a {x: 1, y: [2]}\nb: *a\nc:\n  y: 3\n  <<: *a\nd:\n  <<: [{x: 5}, *a]\n")
    assert tree == {"a": {"x": 1, "y": [2]}, "b": {"x": 1, "y": [2]}, "c": {"x": 1, "y": 3}, "d": {"x": 5, "y": [2]}}
    tree["b"]["y"].append(9)
    assert tree["a"] == {"x": 1, "y": [2]}, "setting one does not set the other"


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("3", 3), ("1e-3", 0.001), ("null", None), ("", None), ("010", "010"), ("run #1", "run #1"), ("a: b", "a: b"),
        ("data/*.json", "data/*.json"), ("*.json", "*.json"), ("<image>\nWhat?", "<image>\nWhat?"), ("'3'", "3"),
        ("[0.5, 1e-3]", [0.5, 0.001]), ("{a: yes}", {"a": "yes"}), ("- 1", "- 1"), ("&a", "&a"), ("%", "%"),
    ],
)  # fmt: skip
def test_a_value_on_the_command_line_is_what_was_typed(typed: str, value: object) -> None:
    assert parse_value(typed) == value


def test_a_value_on_the_command_line_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(YamlError, match="the value is not valid Unicode at character 2"):
        parse_value("a\udcff")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.from_regex(
    r"[-+0-9.eExo_:~<nNyfFaA# ]{1,8}", fullmatch=True
)
TREES: Any = st.recursive(
    TEXTS | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(tree=st.dictionaries(TEXTS, TREES, max_size=3))
@example(tree={"1e5": "1e5", "010": "010", "<<": "<<", "yes": "1:30", "\x85": "\u2028 ", "a\n b": "0x1", "-": "- a"})
def test_what_is_written_reads_back_equal_here_and_in_yaml_1_1(tree: dict[str, Any]) -> None:
    text = write_yaml(tree)
    assert repr(parse_yaml(text)) == repr(tree)
    assert repr(yaml.safe_load(text)) == repr(tree)
