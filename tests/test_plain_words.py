"""No text of this repository has an expression of the word list's worst kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from words import RULES, hits, hits_in_file

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "eyechart/src", "eyechart/docs", "tests", "eyechart/tests", "benchmarks", "docs")
SUFFIXES = {".py", ".md", ".j2", ".yaml"}
OUTER = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "eyechart/README.md", "Makefile", "Dockerfile")
EXEMPT = {
    "docs/log.md": "history: entries keep the words of their day",
    "tests/words.py": "the rules themselves",
    "tests/test_plain_words.py": "examples of what must be found",
}
"""Files that are not checked, and why."""
ALLOWED: dict[tuple[str, str], str] = {
    ("CONTRIBUTING.md", "*"): "the word list quotes what not to write; its other text is checked below",
}
"""Expressions that may stay, by file, and why; `*` is any."""


def files() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return sorted({*found, *(ROOT / name for name in OUTER)})


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [path for path in files() if name_of(path) not in EXEMPT], ids=name_of)
def test_no_text_has_an_expression_of_the_list(path: Path) -> None:
    name = name_of(path)
    left = [
        f"{name}:{hit.line}: {hit.words!r}; write instead: {hit.instead}"
        for hit in hits_in_file(path)
        if not {(name, hit.words.lower()), (name, "*")} & ALLOWED.keys()
    ]
    assert not left, "\n".join(left)


def test_the_contributing_page_uses_them_only_in_its_list() -> None:
    before, _, rest = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("\n## Words\n")
    rules, _, after = rest.partition("\n## ")
    assert rules and not [*hits(before), *hits(after)]


def test_every_exemption_is_in_use() -> None:
    assert all(any(True for _ in hits_in_file(ROOT / name)) for name in EXEMPT)
    seen = {(name_of(path), hit.words.lower()) for path in files() for hit in hits_in_file(path)}
    assert all(key in seen or (key[1] == "*" and any(name == key[0] for name, _ in seen)) for key in ALLOWED)


@pytest.mark.parametrize(
    "text",
    [
        "Mend: lower the rate",
        "one line that says how to\nmend it",
        "the text behind the image",
        "who lends whom a picture",
        "a page tells strangers how",
        "leave it in peace",
        "What becomes of the text",
        "nobody reads it",
        "ends with one clear line",
        "32 would do",
        "a caption has it not",
        "gaps are told and never judged",
        "a note is only said",
        "it goes by id",
        "exit code 4, a bug of ours",
        "an image stands in for another",
        "at each of so many steps",
    ],
)
def test_an_expression_of_the_list_is_found(text: str) -> None:
    assert list(hits(text))


@pytest.mark.parametrize(
    "text",
    [
        "Fix: lower the rate",
        "the text after the image",
        "recommend",
        "calendar",
        "the language is Irish",
        "so many tests",
    ],
)
def test_plain_words_are_left_alone(text: str) -> None:
    assert not list(hits(text))


def test_names_and_code_are_not_text_and_all_else_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n\n```\nmend it\n```\n`behind` and [a](behind.md)\nthe cure\n", encoding="utf-8")
    assert [(hit.line, hit.words) for hit in hits_in_file(page)] == [(7, "cure")]
    module = tmp_path / "module.py"
    module.write_text(
        'behind = 1  # mend\n# it is in\n# peace\nx = ("the cu" "re", f"lend {behind}")\n', encoding="utf-8"
    )
    assert [(hit.line, hit.words) for hit in hits_in_file(module)] == [
        (1, "mend"),
        (2, "in peace"),
        (4, "cure"),
        (4, "lend"),
    ]


def test_every_rule_says_what_to_write_instead() -> None:
    assert all(rule.instead and not re.search(rule.pattern, "") for rule in RULES)
