"""Text from users stays text: escaping, code blocks, shortened paths."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markupsafe import Markup

from eyechart.reporting import text
from report_data import INJECTIONS


@pytest.mark.parametrize("caption", INJECTIONS)
def test_markdown_reads_back_as_the_text_it_was(caption: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"- true: x\n  - {text.markdown(caption)}\n")
    leaves = [child for token in tokens if token.type == "inline" for child in token.children or []]
    assert {leaf.type for leaf in leaves} <= {"text", "text_special"}
    assert "".join(leaf.content for leaf in leaves) == "true: x" + " ".join(caption.split())
    assert [token.type for token in tokens].count("list_item_open") == 2


@given(st.text())
def test_markdown_of_anything_is_one_paragraph_of_plain_text(caption: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"- {text.markdown(caption)}\n")
    assert {token.type for token in tokens} <= {
        "bullet_list_open",
        "list_item_open",
        "paragraph_open",
        "inline",
        "paragraph_close",
        "list_item_close",
        "bullet_list_close",
    }
    leaves = [child for token in tokens if token.type == "inline" for child in token.children or []]
    assert {leaf.type for leaf in leaves} <= {"text", "text_special"}
    assert "".join(leaf.content for leaf in leaves) == text.one_line(caption)


@given(st.text(alphabet="`a \n~"))
def test_code_cannot_be_left(content: str) -> None:
    block = text.code_block([content])
    (token,) = MarkdownIt().parse(block)
    assert token.type == "fence"
    assert token.content == text.one_line(content) + "\n"


def test_paths_are_shortened_and_nothing_else() -> None:
    outside = ("zero/noise", "https://a.b/c", "1 / 2", '"{human}\\n"', "google/siglip2")
    relative = ("outputs/x/c.pt", "../x", "./x", "run (2)/c.pt", "'a [1]/c'", "lr-/x", "a+/x", "50%/x", "--a=b-/c")
    for same in (*outside, *relative):
        assert text.without_folders(same) == same
    assert (
        text.without_folders("--a=/b/c --d '/e f/g h' file:///i/j ~/k /l/")
        == "--a=.../c --d '.../g h' .../j .../k .../l"
    )


HEBREW, ARABIC = "\u05ea\u05e8\u05e9\u05d9\u05dd \u05e1\u05d2\u05d5\u05dc", "\u062f\u0627\u0626\u0631\u0629"


def test_right_to_left_words_of_a_sentence_are_isolated_one_by_one() -> None:
    found = text.isolated(f"most at '{HEBREW}' (+0.0, 6 times), '{ARABIC}' (+1.0), 'red'; <b>")
    assert found == (
        f"most at &#39;<bdi>{HEBREW}</bdi>&#39; (+0.0, 6 times), &#39;<bdi>{ARABIC}</bdi>&#39; (+1.0), "
        "&#39;red&#39;; &lt;b&gt;"
    )


@given(st.text(alphabet=f"a1 '<&>(),-\u200c{HEBREW}{ARABIC}"))
def test_isolating_adds_nothing_but_its_tags(sentence: str) -> None:
    found = text.isolated(sentence)
    assert Markup(found.replace("<bdi>", "").replace("</bdi>", "")).unescape() == sentence
    assert "<bdi>" not in text.isolated(found.striptags().translate({ord(c): "" for c in HEBREW + ARABIC}))
    assert all(word[0] in HEBREW + ARABIC for word in re.findall("<bdi>(.*?)</bdi>", found))


def test_what_is_shortened_says_so() -> None:
    assert text.shortened("a red circle", 12) == "a red circle"
    assert text.shortened("a red circle on", 12) == "a red circl\u2026"
