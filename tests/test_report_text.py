"""Text from users stays text: escaping, code blocks, shortened paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from qwen3_vlm.report import text
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
    for same in ("zero/noise", "outputs/x/c.pt", "https://a.b/c", "1 / 2", '"{human}\\n"', "google/siglip2", "../x"):
        assert text.without_folders(same) == same
    assert (
        text.without_folders("--a=/b/c --d '/e f/g h' file:///i/j ~/k /l/")
        == "--a=.../c --d '.../g h' .../j .../k .../l"
    )
