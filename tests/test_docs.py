"""The documents say what the code does, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

import command_docs
from qwen3_vlm.cli import main
from qwen3_vlm.commands.config_docs import config_docs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)")


def broken_links(page: Path) -> list[str]:
    """Relative links (files and headings) that lead nowhere."""
    broken = []
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (heading and heading not in headings(file)):
            broken.append(target)
    return broken


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_config_page_is_what_the_config_says() -> None:
    stale = "run `python -m qwen3_vlm.commands.config_docs > docs/config.md`"
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == config_docs(), stale


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One Two\n[a](page.md#one-two) [b](https://x.y) `[c](d)` [gone](gone.md) [no](#three)\n")
    assert broken_links(page) == ["gone.md", "#three"]


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"trial", "test"} <= set(targets)
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, flags=re.MULTILINE)] == []


def test_command_page_is_what_the_commands_say() -> None:
    stale = "run `python tests/command_docs.py > docs/commands.md`"
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == command_docs.page(), stale


@pytest.mark.parametrize("name", command_docs.commands())
def test_every_command_has_help_with_its_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"Example: qwen3-vlm {name}" in capsys.readouterr().out
